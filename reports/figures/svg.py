"""Turns a matplotlib Figure into one clean SVG that is good inline and as a file.

Inline, the page's Content-Security-Policy allows no style attribute and several figures share one
document, so styles become presentation attributes and every id gets the figure's name. Ink is
``currentColor``: a page sets it by CSS; a file has a grey that reads on white and on dark.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"
"""Drawn with this, printed as ``currentColor``."""
FILE_INK = "#6e7781"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT = re.compile(r"(?:(?P<weight>\d+|bold) )?(?P<size>[\d.]+)px .*")
ET.register_namespace("", _SVG)


def canvas(width: int, height: int) -> Figure:
    """A transparent figure of so many CSS pixels."""
    from matplotlib.figure import Figure  # half a second that a terminal run need not wait for

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    return figure


def render(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as SVG text, the same for the same figure.

    Args:
        name: Prefix of every id; unique within a page.
        title: Name of the figure for screen readers.
        description: What is seen in it, in words.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(out.getvalue())  # noqa: S314 - matplotlib has just written it
    _drop(root, "metadata", "style")
    for element in root.iter():
        _unstyle(element)
    _rename(root, name)
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.update({
        "width": width,
        "height": height,
        "color": FILE_INK,
        "font-family": FONT,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "stroke-linejoin": "round",
    })  # fmt: skip
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
    return ET.tostring(root, encoding="unicode") + "\n"


def _drop(root: ET.Element, *tags: str) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in tags:
                parent.remove(child)


def _unstyle(element: ET.Element) -> None:
    """Style declarations as attributes, ink as currentColor."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, colon, value = (part.strip() for part in declaration.partition(":"))
        if not colon:
            continue
        font = _FONT.fullmatch(value) if key == "font" else None
        if font:
            element.set("font-size", font["size"])
            if font["weight"]:
                element.set("font-weight", font["weight"])
        elif key != "font":
            element.set(key, value)
    element.attrib.pop("font-family", None)  # the root's holds
    for key, value in element.attrib.items():
        if value == INK:
            element.set(key, "currentColor")
    target = element.attrib.pop(_XLINK, None)
    if target:
        element.set("href", target)


def _rename(root: ET.Element, name: str) -> None:
    """Prefix the ids that something refers to; drop the others."""
    used: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href" and value.startswith("#"):
                used.add(value[1:])
                element.set(key, f"#{name}-{value[1:]}")
            elif found := _REFERENCE.search(value):
                used.add(found[1])
                element.set(key, f"url(#{name}-{found[1]})")
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old in used:
            element.set("id", f"{name}-{old}")

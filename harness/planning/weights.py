"""Weights on this machine, looked at before anything runs: whole, and without pickle.

A pickle runs whatever code its maker put into it when it is loaded, so that only safetensors are
(docs.python.org/3/library/pickle.html; github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from ...errors import InputError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip

CONVERT_MODEL = (
    'python -c "import sys, transformers as t; a, b = sys.argv[1:]; '
    "t.AutoModelForCausalLM.from_pretrained(a, use_safetensors=False).save_pretrained(b); "
    "t.AutoTokenizer.from_pretrained(a).save_pretrained(b)\" '{0}' '{0}-safe'"
)
CONVERT_ADAPTER = (
    'python -c "import sys, torch, safetensors.torch as s; '
    's.save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" '
    "'{0}/adapter_model.bin' '{0}/adapter_model.safetensors'"
)
"""Commands that turn pickled weights into safetensors; torch's restricted unpickler reads them."""


def check_model(where: str, folder: Path, *, trusted: bool = False) -> None:
    """Check the folder of a transformers checkpoint.

    Args:
        where: How the suite names it, e.g. ``models.base``.
        folder: It holds a config.json.
        trusted: The suite lets code run that the checkpoint ships (``trust_remote_code``).

    Raises:
        InputError: Its weights are pickled, damaged or missing, it has no tokenizer, or it needs
            code of its own that the suite does not trust.
    """
    config = _object(where, folder / "config.json")
    code = (config.get("auto_map") or {}).get("AutoModelForCausalLM")
    if code and not trusted and not _known(config.get("model_type")):
        raise InputError(
            f"{where}: {folder}: this model runs code of its own ({code}); read it, and if you "
            f"trust it set {where}.trust_remote_code: true, which the report will say"
        )
    _check_safe(where, folder, "model", CONVERT_MODEL)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise InputError(
            f"{where}: {folder}: no tokenizer there; expected one of {', '.join(TOKENIZERS)}: "
            "save it beside the weights with tokenizer.save_pretrained"
        )


def check_adapter(where: str, folder: Path) -> None:
    """Check the folder of a PEFT adapter.

    Raises:
        InputError: It is none, or its weights are pickled, damaged or missing.
    """
    config = folder / "adapter_config.json"
    if not config.is_file():
        raise InputError(f"{where}: {config}: no such file; expected the folder of a PEFT adapter")
    if "peft_type" not in _object(where, config):
        raise InputError(
            f"{where}: {config}: no peft_type; expected what PEFT's save_pretrained writes"
        )
    _check_safe(where, folder, "adapter_model", CONVERT_ADAPTER)


def refuse_pickle(where: str, name: str, files: list[str], convert: str) -> None:
    """Raise where *files* hold weights, but none as safetensors."""
    pickled = sorted(file for file in files if file.endswith(PICKLED))
    if pickled and not any(file.endswith(".safetensors") for file in files):
        raise InputError(
            f"{where}: {name}: {pickled[0]} is a pickle, which can run any code when it is loaded; "
            f"expected *.safetensors. Convert it: {convert.format(name)}"
        )


def _check_safe(where: str, folder: Path, stem: str, convert: str) -> None:
    files = [path for path in folder.glob("*") if path.is_file()]
    own = [path for path in files if path.stem.startswith((stem, "pytorch_model"))]
    refuse_pickle(where, str(folder), [path.name for path in own], convert)
    weights = [path for path in own if path.suffix == ".safetensors"]
    if not weights:
        raise InputError(
            f"{where}: {folder}: no {stem}*.safetensors there; expected what save_pretrained writes"
        )
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        named = set(_object(where, index).get("weight_map", {}).values())
        if missing := sorted(named - {path.name for path in weights}):
            raise InputError(
                f"{where}: {folder}: {missing[0]} is missing, which {index.name} names; copy the "
                "checkpoint again"
            )
    for path in weights:
        _check_whole(where, path)


def _check_whole(where: str, path: Path) -> None:
    """The header of a safetensors file tells how long it is."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            tensors = json.loads(file.read(min(length, size)))
        ends = [one["data_offsets"][1] for name, one in tensors.items() if name != "__metadata__"]
        told = 8 + length + max(ends, default=0)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        raise InputError(
            f"{where}: {path}: not a safetensors file, or a damaged one; copy it again"
        ) from None
    if told != size:
        raise InputError(f"{where}: {path}: damaged, {size} bytes instead of {told}; copy it again")


def _object(where: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{where}: {path}: not readable as JSON ({error}); copy or save it again"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: {path}: expected a JSON object; copy or save it again")
    return found


def _known(model_type: object) -> bool:
    """Whether transformers has code of its own for this kind of model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

"""Rewrites the graph of an export in memory, so that scoring computes no more than is asked.

Behind the last attention no position looks at another one. What lies there, the last MLP and the
language model's head, is computed at the positions that a new input ``asked`` names: every tensor
that leads into that part is gathered there first. Nodes, weights and arithmetic stay those of the
file, and so do the values, to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .segments import divide

ASKED = "asked"

_ALONE = {
    "Add", "Cast", "Div", "FastGelu", "Gelu", "LayerNormalization", "MatMul", "MatMulNBits", "Mul",
    "QuickGelu", "Relu", "Sigmoid", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "Softplus", "Sub", "Swish", "Tanh",
}  # fmt: skip
"""Operators that treat each position by itself, given activations [B, L, width] and weights."""


def for_scoring(path: Path, segments: int = 0) -> bytes | None:
    """The graph at *path* with an input ``asked``: indices [K] into its positions, B × L of them.

    Args:
        path: An export's ``model.onnx``; it is not changed.
        segments: How many of them a call takes, see :func:`.segments.divide`; 0 for the one run of
            tokens that the graph takes by itself.

    Returns:
        The model, serialised, without weights that lie in a file of their own; its ``logits`` are
        [1, K, vocabulary]. None where no such end is found, or the graph cannot be divided.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        return None  # ONNX Runtime will say what is wrong with it
    if not _Graph(model.graph).gather() or (segments and not divide(model.graph, segments)):
        return None
    return bytes(model.SerializeToString())


class _Graph:
    """An onnx.GraphProto and who makes and takes its tensors."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._weights = {one.name for one in graph.initializer}
        self._takers: dict[str, list[Any]] = {}
        for node in graph.node:  # in topological order, as ONNX demands
            inputs = [name for name in node.input if name]  # what is left out has an empty name
            if all(name in self._weights for name in inputs):
                self._weights.update(node.output)
            for name in inputs:
                self._takers.setdefault(name, []).append(node)
        self._shapes = {
            one.name: [size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim]
            for one in (*graph.input, *graph.value_info, *graph.output)
        }

    def gather(self) -> bool:
        """Have the end of the graph computed where it is asked; False if no such end is found."""
        from onnx import TensorProto, helper

        graph, end = self._graph, self._end()
        if not end:
            return False
        made = {name for node in end for name in node.output}
        leading = dict.fromkeys(
            name for node in end for name in self._activations(node) if name not in made
        )
        nodes = []
        for name in leading:
            flat, there = f"{name}/positions", f"{name}/{ASKED}"
            nodes += [
                helper.make_node("Reshape", [name, f"{ASKED}/flat"], [flat], flat),
                helper.make_node("Gather", [flat, ASKED], [there], there, axis=1),
            ]
        for node in end:
            for place, name in enumerate(node.input):
                if name in leading:
                    node.input[place] = f"{name}/{ASKED}"
        graph.initializer.append(
            helper.make_tensor(f"{ASKED}/flat", TensorProto.INT64, [3], [1, -1, 0])
        )
        others = [node for node in graph.node if not any(node is one for one in end)]
        known = [one for one in graph.value_info if one.name not in made]
        del graph.node[:], graph.value_info[:]
        graph.node.extend([*others, *nodes, *end])
        graph.value_info.extend(known)
        graph.input.append(helper.make_tensor_value_info(ASKED, TensorProto.INT64, [ASKED]))
        for one in graph.output:
            if one.name == "logits":
                first, second, _ = one.type.tensor_type.shape.dim
                first.dim_value, second.dim_param = 1, ASKED
        return True

    def _end(self) -> list[Any]:
        """The nodes from which nothing but the logits comes, and which treat positions alone."""
        found: list[Any] = []
        inside: set[str] = {"logits"}  # tensors that are taken by nothing else
        outputs = {one.name for one in self._graph.output}
        for node in reversed(self._graph.node):
            made = [name for name in node.output if name in self._takers or name in outputs]
            if made and all(name in inside for name in made) and self._alone(node):
                found.insert(0, node)
                for name in {*node.input} - {*outputs, ""}:
                    if all(any(one is taker for one in found) for taker in self._takers[name]):
                        inside.add(name)
        return found

    def _alone(self, node: Any) -> bool:
        """Whether *node* takes activations [B, L, width] and weights, and mixes no positions."""
        activations = self._activations(node)
        axes = [one.i for one in node.attribute if one.name == "axis"]
        return (
            node.op_type in _ALONE
            and bool(activations)
            and all(self._is_activation(name) for name in activations)
            and all(axis in (-1, 2) for axis in axes)
            and not (node.op_type == "MatMul" and activations != [node.input[0]])
        )

    def _activations(self, node: Any) -> list[str]:
        return [name for name in node.input if name and name not in self._weights]

    def _is_activation(self, name: str) -> bool:
        shape, ids = self._shapes.get(name, []), self._shapes.get("input_ids", [])
        return len(shape) == 3 and len(ids) == 2 and shape[:2] == ids

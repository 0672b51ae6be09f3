"""Divides the attention of a graph, so that one call appends several segments to one cache.

GroupQueryAttention appends one run of tokens. Here each such node becomes a chain of them: the
k-th takes the k-th segment's queries, keys and values and the cache as the one before it has left
it. All that lies between treats each position by itself and takes the segments together, so that
short ones wait for the weights once and not once each.

It is the arithmetic of a call for each segment, in another order: first all segments of a layer,
then the next layer. The values are the same to the last bit (CPU; fp32, int8 and int4).

What mixes positions in a decoder with a cache has a state, which is an input of the graph. So a
graph is divided only if no input is left but its tokens and the caches of those nodes.
"""

from __future__ import annotations

from typing import Any

SIZES = "segments/sizes"
"""Input: tokens of each segment, int64 [segments]; at least one."""

LAST = "segments/{}/last"
"""Input of each segment: position of its last token, int32 [1]."""

TOTAL = "segments/{}/total"
"""Input of each segment: tokens in the cache with it, int32 [1], on the CPU."""

_ATTENTION = "GroupQueryAttention"
_PAST, _LAST, _TOTAL, _POSITIONS, _BIAS = slice(3, 5), 5, 6, 9, 10  # its inputs


def divide(graph: Any, count: int) -> bool:
    """Have *graph*, an onnx.GraphProto, take *count* segments a call.

    Outputs ``present.…`` become ``present.…/0`` to ``present.…/count-1``, and are all to be bound
    to the buffer of ``past_key_values.…``; ``attention_mask`` is gone.

    Returns:
        Whether it could be done; if not, *graph* is of no use any more.
    """
    from onnx import TensorProto, helper

    given = {one.name for one in graph.input}
    known = {"input_ids", "asked"}
    for node in graph.node:
        if any(one.HasField("g") or one.graphs for one in node.attribute):
            return False  # what a graph within takes is not among the node's inputs
        if node.op_type == _ATTENTION:
            past = node.input[_PAST]
            further = any(node.input[_POSITIONS : _BIAS + 1]) or len(node.output) > 3
            if further or not given.issuperset(past):
                return False
            known.update(past)
    nodes = [part for node in graph.node for part in _divided(node, count)]
    presents = {
        name for node in graph.node if node.op_type == _ATTENTION for name in node.output[1:3]
    }
    outputs = []
    for one in graph.output:
        there = one.name in presents
        for name in [f"{one.name}/{k}" for k in range(count)] if there else [one.name]:
            outputs.append(type(one)())
            outputs[-1].CopyFrom(one)
            outputs[-1].name = name
    needed = {one.name for one in outputs}
    living = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            living.append(node)
            needed.update(node.input)
    inputs = [one for one in graph.input if one.name in needed]
    if not presents or any(one.name not in known for one in inputs):
        return False
    inputs.append(helper.make_tensor_value_info(SIZES, TensorProto.INT64, [count]))
    for k in range(count):
        for name in (LAST, TOTAL):
            inputs.append(helper.make_tensor_value_info(name.format(k), TensorProto.INT32, [1]))
    for field, content in (
        (graph.node, living[::-1]), (graph.input, inputs), (graph.output, outputs),
    ):  # fmt: skip
        del field[:]
        field.extend(content)
    return True


def _divided(node: Any, count: int) -> list[Any]:
    """*node*, or a chain of *count* of its kind if it is an attention."""
    from onnx import helper

    if node.op_type != _ATTENTION:
        return [node]
    found = []
    shares = []
    for name in node.input[:3]:  # a packed projection leaves keys and values out
        share = [f"{name}/{k}" if name else "" for k in range(count)]
        if name:
            found.append(
                helper.make_node("Split", [name, SIZES], share, f"{node.name}/{name}", axis=1)
            )
        shares.append(share)
    past = list(node.input[_PAST])
    for k in range(count):
        part = type(node)()
        part.CopyFrom(node)
        part.name = f"{node.name}/{k}"
        part.input[:3] = [share[k] for share in shares]
        part.input[_PAST] = past
        part.input[_LAST], part.input[_TOTAL] = LAST.format(k), TOTAL.format(k)
        part.output[:3] = [f"{name}/{k}" for name in node.output[:3]]
        past = list(part.output[1:3])
        found.append(part)
    gathered = [part.output[0] for part in found[-count:]]
    found.append(helper.make_node("Concat", gathered, [node.output[0]], f"{node.name}/all", axis=1))
    return found

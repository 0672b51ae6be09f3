"""The graph rewritten for scoring: the file's own values, where they are asked."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from medbench.harness.ort import session as ort_session
from medbench.harness.ort.engine import Engine
from medbench.harness.ort.graph import ASKED, for_scoring
from medbench.harness.ort.lm import OnnxLM
from medbench.harness.ort.runtime import OrtModel
from medbench.harness.ort.scoring import ScoringModel
from medbench.harness.ort.segmented import SegmentedModel, UndividedError
from medbench.harness.ort.sessions import Sessions
from medbench.harness.scorer.trie import Trie

Exports = Callable[[str], Path]


def ids(rows: int, width: int) -> torch.Tensor:
    return torch.randint(3, 1000, (rows, width), generator=torch.Generator().manual_seed(rows))


def copy_of(folder: Path, out: Path, change: Callable[[Any], None]) -> Path:
    """*folder* with its graph changed and its weights inside it."""
    out.mkdir()
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("model.onnx"):
            (out / path.name).write_bytes(path.read_bytes())
    model = onnx.load(folder / "model.onnx")
    change(model.graph)
    onnx.save(model, out / "model.onnx")
    return out


@pytest.mark.parametrize("form", ["fp32", "int8", "int4"])
def test_asked_positions_have_the_logits_of_the_whole_graph(
    clinic_onnx: Exports, form: str
) -> None:
    whole, scoring = OrtModel(clinic_onnx(form)), ScoringModel(clinic_onnx(form))
    assert scoring.gathers
    lengths = [40, 31, 22]
    text = ids(3, 40)
    expected = whole.prefill(text, lengths).flatten(0, 1)
    scale = expected.abs().max()
    for asked in ([119 - 18], [39, 40 + 30, 80 + 21, 3, 3], list(range(22))):
        scoring.reset()
        found = scoring.ask(text, torch.tensor(asked), lengths)
        assert found.shape == (len(asked), whole.vocab)
        assert (found - expected[asked]).abs().max() <= 1e-6 * scale

    # Right after it, the cache is as it would be without.
    for token in ids(3, 4).T:
        one, other = scoring.step(token[:, None]), whole.step(token[:, None])
        assert (one - other).abs().max() <= 1e-6 * scale


def test_what_is_appended_to_a_cache_can_be_asked(clinic_onnx: Exports) -> None:
    whole, scoring = OrtModel(clinic_onnx("fp32")), ScoringModel(clinic_onnx("fp32"))
    text = ids(1, 50)
    expected = whole.prefill(text)[0]
    scoring.ask(text[:, :20], torch.tensor([0]))
    found = scoring.ask(text[:, 20:50], torch.tensor([9, 29]))
    torch.testing.assert_close(found, expected[[29, 49]], rtol=1e-5, atol=1e-5)
    scoring.rewind(20)
    torch.testing.assert_close(
        scoring.prefill(text[:, 20:])[0], expected[20:], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("form", ["fp32", "int4"])
def test_all_behind_the_last_attention_is_gathered_and_weights_stay_in_their_file(
    clinic_onnx: Exports, form: str
) -> None:
    path = clinic_onnx(form) / "model.onnx"
    before = path.read_bytes()
    graph = for_scoring(path)
    assert graph is not None
    assert path.read_bytes() == before
    assert (path.parent / "model.onnx.data").stat().st_size > 10 * len(graph)
    model = onnx.load_from_string(graph)
    at = [node.op_type for node in model.graph.node]
    last = len(at) - at[::-1].index("GroupQueryAttention")
    assert at[last : last + 4] == ["Reshape", "Gather"] * 2  # attention and the residual stream
    assert set(at[last + 4 :]) & {"MatMul", "MatMulNBits"}
    assert not set(at[last + 4 :]) & {"Reshape", "Gather"}
    logits = next(one for one in model.graph.output if one.name == "logits")
    sizes = [size.dim_param or size.dim_value for size in logits.type.tensor_type.shape.dim]
    assert sizes == [1, ASKED, 1024]


def test_a_graph_with_its_weights_inside_is_rewritten_too(
    clinic_onnx: Exports, tmp_path: Path
) -> None:
    folder = copy_of(clinic_onnx("fp32"), tmp_path / "inside", lambda graph: None)
    assert not (folder / "model.onnx.data").exists()
    scoring = ScoringModel(folder)
    assert scoring.gathers
    text = ids(1, 30)
    expected = OrtModel(folder).prefill(text)[0]
    torch.testing.assert_close(scoring.ask(text, torch.tensor([7, 29])), expected[[7, 29]])


def wrapped(graph: Any, kind: str, **attributes: Any) -> None:
    """Put an operator between the graph's own end and its logits."""
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == "logits":
                node.output[place] = "inner"
    graph.node.append(helper.make_node(kind, ["inner"], ["logits"], **attributes))


def test_an_unknown_end_is_run_whole_and_told(
    clinic_onnx: Exports, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A sum over positions would be wrong over those asked alone."""
    folder = copy_of(
        clinic_onnx("fp32"), tmp_path / "odd", lambda graph: wrapped(graph, "Softmax", axis=1)
    )
    assert for_scoring(folder / "model.onnx") is None
    scoring = ScoringModel(folder)
    assert not scoring.gathers
    text = ids(2, 20)
    expected = OrtModel(folder).prefill(text).flatten(0, 1)
    torch.testing.assert_close(scoring.ask(text, torch.tensor([19, 39])), expected[[19, 39]])
    OnnxLM(folder, threads=1)
    assert "odd: the end of its graph is unknown here" in caplog.text


def test_a_head_that_bends_and_casts_is_known(clinic_onnx: Exports, tmp_path: Path) -> None:
    """Soft-capped logits, as Gemma's, and a cast at the end."""

    def capped(graph: Any) -> None:
        graph.initializer.append(numpy_helper.from_array(np.array(30, np.float32), "cap"))
        wrapped(graph, "Cast", to=TensorProto.FLOAT)
        for node in graph.node:
            if node.op_type == "MatMul" and node.output[0] == "inner":
                node.output[0] = "raw"
        shape = ["batch_size", "sequence_length", 1024]
        names = ["raw", "low", "bent", "inner"]
        for name in names:
            graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        cast = graph.node.pop()
        graph.node.extend(
            [
                helper.make_node("Div", ["raw", "cap"], ["low"]),
                helper.make_node("Tanh", ["low"], ["bent"]),
                helper.make_node("Mul", ["bent", "cap"], ["inner"]),
                cast,
            ]
        )

    folder = copy_of(clinic_onnx("fp32"), tmp_path / "capped", capped)
    scoring = ScoringModel(folder)
    assert scoring.gathers
    text = ids(1, 25)
    expected = OrtModel(folder).prefill(text)[0]
    assert expected.abs().max() <= 30
    torch.testing.assert_close(scoring.ask(text, torch.tensor([3, 24])), expected[[3, 24]])


def test_activations_that_meet_in_a_product_are_no_head(
    clinic_onnx: Exports, tmp_path: Path
) -> None:
    """A matrix product of two activations mixes positions: the end begins behind it."""

    def mixed(graph: Any) -> None:
        head = graph.node[-1]
        assert head.op_type == "MatMul"
        hidden = head.input[0]
        shape = ["batch_size", "sequence_length", 128]
        names = {"turned": ["batch_size", 128, "sequence_length"], "self": shape[:2] + shape[1:2]}
        names["back"] = shape
        for name, sizes in names.items():
            graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        graph.node.pop()
        graph.node.extend(
            [
                helper.make_node("Transpose", [hidden], ["turned"], perm=[0, 2, 1]),
                helper.make_node("MatMul", [hidden, "turned"], ["self"]),
                helper.make_node("MatMul", ["self", hidden], ["back"]),
                helper.make_node("MatMul", ["back", head.input[1]], ["logits"]),
            ]
        )

    folder = copy_of(clinic_onnx("fp32"), tmp_path / "mixed", mixed)
    scoring = ScoringModel(folder)
    assert scoring.gathers
    text = ids(1, 25)
    expected = OrtModel(folder).prefill(text)[0]
    torch.testing.assert_close(scoring.ask(text, torch.tensor([3, 24])), expected[[3, 24]])


def test_the_divided_graph_has_a_chain_for_each_attention(clinic_onnx: Exports) -> None:
    path = clinic_onnx("int4") / "model.onnx"
    plain, divided = for_scoring(path), for_scoring(path, 3)
    assert plain is not None
    assert divided is not None
    before, after = (onnx.load_from_string(graph).graph for graph in (plain, divided))

    def attentions(graph: Any) -> list[Any]:
        return [node for node in graph.node if node.op_type == "GroupQueryAttention"]

    assert len(attentions(after)) == 3 * len(attentions(before))
    first, second, _ = attentions(after)[:3]
    assert list(first.input[3:5]) == ["past_key_values.0.key", "past_key_values.0.value"]
    assert list(second.input[3:5]) == list(first.output[1:3])
    inputs, outputs = ([one.name for one in part] for part in (after.input, after.output))
    assert "attention_mask" not in inputs
    assert {"segments/sizes", "segments/2/last", "segments/2/total", ASKED} <= set(inputs)
    assert len(outputs) == 1 + 3 * (len(before.output) - 1)
    weights = [one.name for one in before.initializer]
    assert [one.name for one in after.initializer] == weights
    products = [node.op_type for node in before.node].count("MatMulNBits")
    assert [node.op_type for node in after.node].count("MatMulNBits") == products


@pytest.mark.parametrize(
    "lacking", ["another state", "positions", "attention", "a graph within", "a past of its own"]
)
def test_a_graph_that_looks_elsewhere_too_is_not_divided(
    clinic_onnx: Exports, tmp_path: Path, lacking: str
) -> None:
    def changed(graph: Any) -> None:
        node = next(node for node in graph.node if node.op_type == "GroupQueryAttention")
        if lacking == "positions":
            node.input[9] = "positions"
            graph.input.append(
                helper.make_tensor_value_info("positions", TensorProto.INT64, ["b", "s"])
            )
        elif lacking == "another state":
            shape = ["batch_size", "sequence_length", 128]
            state = helper.make_tensor_value_info("state", TensorProto.FLOAT, shape)
            graph.input.append(state)
            head = next(node for node in graph.node if node.op_type == "MatMul")
            graph.node.insert(
                list(graph.node).index(head),
                helper.make_node("Add", [head.input[0], "state"], ["shifted"]),
            )
            head.input[0] = "shifted"
        elif lacking == "a graph within":
            value = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
            node = helper.make_node("Constant", [], ["inner"], value=value)
            made = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [])
            branch = helper.make_graph([node], "branch", [], [made])
            graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
            graph.node.insert(
                0,
                helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch),
            )
        elif lacking == "a past of its own":
            other = [one for one in graph.node if one.op_type == "GroupQueryAttention"][1]
            other.input[3] = "present.0.key"
        else:
            for one in graph.node:
                one.op_type = one.op_type.replace("GroupQueryAttention", "OtherAttention")

    folder = copy_of(clinic_onnx("fp32"), tmp_path / "odd", changed)
    assert for_scoring(folder / "model.onnx") is not None
    assert for_scoring(folder / "model.onnx", 8) is None
    with pytest.raises(UndividedError, match="odd: its graph takes one run of tokens a call"):
        SegmentedModel(folder)


def test_sessions_for_scoring_and_generating_are_never_open_together(
    clinic_onnx: Exports,
) -> None:
    sessions = Sessions(clinic_onnx("fp32"), "cpu", 2)
    scoring = sessions.scoring()
    assert isinstance(scoring, SegmentedModel)
    assert sessions.scoring() is scoring
    assert len(sessions.callers()) == 2
    generating = sessions.generating()
    assert sessions.generating() is generating


@pytest.mark.parametrize("first", ["scoring", "generating"])
def test_a_session_is_gone_before_the_other_is_opened(
    clinic_onnx: Exports, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    sessions = Sessions(clinic_onnx("fp32"), "cpu", 2)
    other: Callable[[], Any]
    if first == "generating":
        sessions.generating().prefill(ids(2, 9))
        gone = weakref.ref(sessions.generating()._session)
        opener, other = "segmented.open_session", sessions.scoring
    else:
        Engine(sessions.callers(), "cpu").answer(Trie([([1, 2, 3], 1)]), 64)
        scoring = sessions.scoring()
        assert isinstance(scoring, SegmentedModel)
        gone = weakref.ref(scoring.session)
        del scoring
        opener, other = "runtime.open_session", sessions.generating
    opened, seen = ort_session.open_session, []

    def noted(*given: Any, **more: Any) -> Any:
        seen.append(gone())
        return opened(*given, **more)

    monkeypatch.setattr(f"medbench.harness.ort.{opener}", noted)
    gc.disable()  # a ring of references would keep the weights
    try:
        other()
    finally:
        gc.enable()
    assert seen == [None]


def test_an_undivided_graph_is_asked_by_one_caller(
    clinic_onnx: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medbench.harness.ort.segmented.for_scoring", lambda *_: None)
    sessions = Sessions(clinic_onnx("fp32"), "cpu", 2)
    (caller,) = sessions.callers()
    assert caller is sessions.generating()
    assert sessions.scoring() is caller

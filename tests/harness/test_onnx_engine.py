"""A trie through an ONNX Runtime session: the torch model's log-probabilities, by all ways."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from medbench.errors import StageError
from medbench.harness.ort.engine import Engine
from medbench.harness.ort.scoring import ScoringModel
from medbench.harness.ort.segmented import SegmentedModel
from medbench.harness.ort.walk import Call, Size, walk
from medbench.harness.scorer.trie import Trie

Request = tuple[list[int], int]
Exports = Callable[[str], Path]


def mixed(seed: int) -> list[Request]:
    """Letters, option texts, few-shot, whole texts, repeats: what tasks ask."""
    rng = random.Random(seed)

    def words(count: int) -> list[int]:
        return [rng.randrange(2, 1000) for _ in range(count)]

    shots = words(60)
    found: list[Request] = []
    for _ in range(6):
        stem = words(rng.randrange(3, 40))
        found += [(stem + words(1), 1) for _ in range(4)]
        found += [(stem + (tail := words(rng.randrange(1, 9))), len(tail)) for _ in range(4)]
        found += [(shots + stem + words(1), 1) for _ in range(4)]
    text = words(90)
    return [*found, (text, 89), (text[:2], 1), found[3], found[3]]


@pytest.fixture(scope="module")
def torch_answers() -> Callable[[list[Request], Path], tuple[list[float], list[bool]]]:
    def answers(texts: list[Request], folder: Path) -> tuple[list[float], list[bool]]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        sums, greedy = [], []
        for tokens, asked in texts:
            with torch.inference_mode():
                logits = model(torch.tensor([tokens[:-1]])).logits[0, -asked:].log_softmax(-1)
            targets = torch.tensor(tokens[-asked:])
            sums.append(float(logits.gather(1, targets[:, None]).double().sum()))
            greedy.append(bool((logits.argmax(-1) == targets).all()))
        return sums, greedy

    return answers


@pytest.mark.parametrize("budget", [7, 512])
@pytest.mark.parametrize("way", ["one caller", "three callers", "undivided", "as exported"])
def test_answers_are_the_torch_models(
    clinic_onnx: Exports, clinic: Path, torch_answers: Any, way: str, budget: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if way == "as exported":
        monkeypatch.setattr("medbench.harness.ort.scoring.for_scoring", lambda path: None)
    if way in ("undivided", "as exported"):
        model = ScoringModel(clinic_onnx("fp32"))
        assert model.gathers == (way == "undivided")
        engine = Engine([model], "cpu")
    else:
        threads = {"one caller": 1, "three callers": 3}[way]
        engine = Engine(SegmentedModel(clinic_onnx("fp32"), threads=threads).callers(), "cpu")
        assert len(engine.callers) == threads
    texts = mixed(seed=budget)
    heard: list[int] = []
    torch_threads = torch.get_num_threads()

    for _ in range(2):  # the second time over a cache that the first has filled
        heard.clear()
        found, greedy, left = engine.answer(Trie(texts), budget, heard.append)
        expected, expected_greedy = torch_answers(texts, clinic)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-6)
        assert greedy.tolist() == expected_greedy
        assert left == budget
        assert heard == sorted(heard)
        assert heard[-1] == len(texts)
    assert torch.get_num_threads() == torch_threads


@pytest.mark.parametrize("form", ["fp32", "int8", "int4"])
def test_however_segments_are_put_together_the_values_are_the_same_to_the_last_bit(
    clinic_onnx: Exports, form: str
) -> None:
    """As one a call; where long texts are cut otherwise, sums are rounded otherwise."""
    rng = random.Random(2)
    stems = [[rng.randrange(2, 1000) for _ in range(length)] for length in (100, 257, 700)]
    long = [([*stem, tail, tail + 1, 7], 2) for stem in stems for tail in (3, 4, 5)]
    trie = Trie([*mixed(seed=1), *long])
    folder = clinic_onnx(form)
    expected, best, _ = Engine([ScoringModel(folder)], "cpu").answer(trie, 64)
    for threads, budget in ((1, 512), (1, 64), (2, 512), (5, 100)):
        engine = Engine(SegmentedModel(folder, threads=threads).callers(), "cpu")
        found, greedy, _ = engine.answer(trie, budget)
        assert found.tolist() == expected.tolist()
        assert greedy.tolist() == best.tolist()
    whole, _, _ = Engine([ScoringModel(folder)], "cpu").answer(trie, 4096)
    np.testing.assert_allclose(whole, expected, atol=1e-4 if form == "fp32" else 0.5)


class Counting(ScoringModel):
    """Notes what it is fed."""

    fed: list[int]

    def ask(self, ids: torch.Tensor, asked: torch.Tensor, lengths: Any = None) -> torch.Tensor:
        self.fed.append(ids.numel())
        return super().ask(ids, asked, lengths)


def test_each_distinct_token_is_fed_once(clinic_onnx: Exports) -> None:
    trie = Trie(mixed(seed=1))
    model = Counting(clinic_onnx("fp32"))
    model.fed = []
    Engine([model], "cpu").answer(trie, 4096)
    assert sum(model.fed) == len(trie)
    assert max(model.fed) > 64  # a call each: long ones


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_running_out_of_memory_halves_the_budget_and_goes_on(
    clinic_onnx: Exports, clinic: Path, torch_answers: Any, threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = clinic_onnx("fp32")
    callers: list[Any] = [ScoringModel(folder)]
    if threads:
        callers = list(SegmentedModel(folder, threads=threads).callers())
    refused = []

    def small(caller: Any) -> Callable[[Call], torch.Tensor]:
        logits = caller.logits

        def run(call: Call) -> torch.Tensor:
            if sum(len(one.tokens) for one in call.segments) > 40:
                logits(call)  # the cache holds what must not be built upon
                refused.append(call)
                raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
            found: torch.Tensor = logits(call)
            return found

        return run

    for caller in callers:
        caller.logits = small(caller)
    texts = mixed(seed=3)
    found, _, left = Engine(callers, "cpu").answer(Trie(texts), 256)
    assert refused
    np.testing.assert_allclose(found, torch_answers(texts, clinic)[0], atol=1e-4, rtol=1e-6)
    assert 32 <= left < 256


@pytest.mark.parametrize("threads", [1, 2])
def test_other_errors_are_not_taken_for_a_lack_of_memory(
    clinic_onnx: Exports, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers: list[Any] = SegmentedModel(clinic_onnx("fp32"), threads=threads).callers()

    def broken(call: Call) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    callers[-1].logits = broken
    with pytest.raises(RuntimeError, match="no such kernel"):
        Engine(callers, "cpu").answer(Trie(mixed(seed=0)), 256)


def test_nothing_asked_is_nothing_run(clinic_onnx: Exports) -> None:
    callers = SegmentedModel(clinic_onnx("fp32"), threads=2).callers()
    found, greedy, _ = Engine(callers, "cpu").answer(Trie([]), 64)
    assert found.size == greedy.size == 0


def test_a_large_model_has_one_caller_with_all_threads(
    clinic_onnx: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clinic_onnx("fp32")
    assert len(SegmentedModel(folder, threads=3).callers()) == 3
    monkeypatch.setattr("medbench.harness.ort.segmented.SMALL", 1e6)
    model = SegmentedModel(folder, threads=3)
    assert len(model.callers()) == 1
    assert model.session.get_session_options().intra_op_num_threads == 3


def test_callers_are_as_many_as_caches_have_room(
    clinic_onnx: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SegmentedModel(clinic_onnx("fp32"), threads=8)
    row = 2 * 5 * 4 * 32 * 2048 * 4  # keys and values, layers, heads, size, positions, bytes
    assert model.row_bytes == row
    monkeypatch.setattr("medbench.harness.ort.session.free_memory", lambda _: 7 * row)
    assert len(model.callers()) == 3


def test_a_cache_that_could_not_be_made_is_made_again(
    clinic_onnx: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SegmentedModel(clinic_onnx("fp32"))
    callers = model.callers()
    trie = Trie([(list(range(2, 303)), 1)])
    monkeypatch.setattr("medbench.harness.ort.segmented.free_memory", lambda _: 1_000_000)
    with pytest.raises(StageError, match=r"a cache of 512 tokens takes 0\.0 GB and 0\.0 GB are"):
        Engine(callers, "cpu").answer(trie, 512)
    monkeypatch.undo()
    found, _, _ = Engine(callers, "cpu").answer(trie, 512)
    expected, _, _ = Engine(model.callers(), "cpu").answer(trie, 512)
    assert found.tolist() == expected.tolist()


def test_a_cache_grows_with_what_is_asked(
    clinic_onnx: Exports, clinic: Path, torch_answers: Any
) -> None:
    callers = SegmentedModel(clinic_onnx("fp32"), threads=2).callers()
    for length in (5, 300, 2048, 17):  # the third is as long as the context
        texts = [([2 + k % 900 for k in range(length - 1)] + [tail], 1) for tail in (5, 6)]
        found, _, _ = Engine(callers, "cpu").answer(Trie(texts), 512)
        np.testing.assert_allclose(found, torch_answers(texts, clinic)[0], atol=1e-4)


def test_a_path_beyond_the_cache_is_refused(clinic_onnx: Exports) -> None:
    (caller,) = SegmentedModel(clinic_onnx("fp32"), threads=1).callers()
    caller.ready(10)
    trie = Trie([(list(range(2, 303)), 1)])
    (call,) = walk(trie, 0, 300, Size(8, 64, 512))
    with pytest.raises(ValueError, match="a path of 300 tokens in a cache of 256"):
        caller.logits(call)

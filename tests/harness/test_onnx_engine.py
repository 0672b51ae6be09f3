"""A trie through an ONNX Runtime session: the torch model's log-probabilities, by all ways."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from medbench.harness.ort.engine import Engine
from medbench.harness.ort.scoring import ScoringModel
from medbench.harness.ort.segmented import SegmentedModel
from medbench.harness.ort.walk import Call
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


@pytest.mark.parametrize("budget", [7, 64, 4096])
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
        engine = Engine(SegmentedModel(clinic_onnx("fp32")).callers(threads), "cpu")
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
        assert heard[-1] == len(Trie(texts))
    assert torch.get_num_threads() == torch_threads


@pytest.mark.parametrize("form", ["fp32", "int8", "int4"])
def test_however_segments_are_put_together_the_values_are_the_same_to_the_last_bit(
    clinic_onnx: Exports, form: str
) -> None:
    trie = Trie(mixed(seed=1))
    folder = clinic_onnx(form)
    expected, _, _ = Engine([ScoringModel(folder)], "cpu").answer(trie, 4096)
    for threads, budget in ((1, 512), (1, 100), (2, 512), (3, 37), (5, 9)):
        engine = Engine(SegmentedModel(folder).callers(threads), "cpu")
        found, _, _ = engine.answer(trie, budget)
        assert found.tolist() == expected.tolist()


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
        callers = list(SegmentedModel(folder).callers(threads))
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
    callers: list[Any] = SegmentedModel(clinic_onnx("fp32")).callers(threads)

    def broken(call: Call) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    callers[-1].logits = broken
    with pytest.raises(RuntimeError, match="no such kernel"):
        Engine(callers, "cpu").answer(Trie(mixed(seed=0)), 256)


def test_nothing_asked_is_nothing_run(clinic_onnx: Exports) -> None:
    callers = SegmentedModel(clinic_onnx("fp32")).callers(2)
    found, greedy, _ = Engine(callers, "cpu").answer(Trie([]), 64)
    assert found.size == greedy.size == 0


def test_a_path_beyond_the_cache_is_refused(clinic_onnx: Exports) -> None:
    from medbench.harness.ort.walk import Size, walk

    (caller,) = SegmentedModel(clinic_onnx("fp32")).callers(1)
    caller.ready(10)
    trie = Trie([(list(range(2, 303)), 1)])
    (call,) = walk(trie, 0, 300, Size(8, 64, 512))
    with pytest.raises(ValueError, match="a path of 300 tokens in a cache of 256"):
        caller.logits(call)

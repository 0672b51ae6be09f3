"""A trie through an ONNX Runtime session: the torch model's log-probabilities, either way."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from medbench.harness.ort import engine as onnx_engine
from medbench.harness.ort.engine import Engine, branches
from medbench.harness.ort.scoring import ScoringModel
from medbench.harness.scorer.trie import Trie

Request = tuple[list[int], int]


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    words = draw(st.integers(1, 3))
    texts = draw(st.lists(st.lists(st.integers(0, words), min_size=2, max_size=9), max_size=14))
    return [(text, draw(st.integers(1, len(text) - 1))) for text in texts]


@given(requests())
def test_branches_hold_every_node_once_and_the_path_to_it(texts: list[Request]) -> None:
    trie = Trie(texts)
    found = list(branches(trie))
    own = [token for branch in found for token in branch.tokens[branch.depth :]]
    assert own == trie.tokens.tolist()
    prefixes = {tuple(text[:n]) for text, _ in texts for n in range(1, len(text))}
    leaves = {p for p in prefixes if not any(q[:-1] == p for q in prefixes)}
    assert {tuple(branch.tokens.tolist()) for branch in found} == leaves
    asked = sum(count for _, count in texts)
    assert sum(len(branch.row.which) for branch in found) == asked


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


@pytest.mark.parametrize("way", ["walk", "rows"])
@pytest.mark.parametrize(("budget", "known"), [(7, True), (64, True), (4096, True), (64, False)])
def test_answers_are_the_torch_models(
    clinic_onnx: Callable[[str], Path], clinic: Path, torch_answers: Any, way: str, budget: int,
    known: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Engine, "_walks", lambda *_: way == "walk")
    if not known:
        monkeypatch.setattr("medbench.harness.ort.scoring.for_scoring", lambda path: None)
    texts = mixed(seed=budget)
    engine = Engine(ScoringModel(clinic_onnx("fp32")), "cpu")
    assert engine.model.gathers == known
    heard: list[int] = []

    for _ in range(2):  # the second time over a cache that the first has filled
        heard.clear()
        found, greedy, left = engine.answer(Trie(texts), budget, heard.append)
        expected, expected_greedy = torch_answers(texts, clinic)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-6)
        assert greedy.tolist() == expected_greedy
        assert left == budget
        assert heard == sorted(heard)
        assert heard[-1] == len(Trie(texts))


def test_the_walk_feeds_each_distinct_token_once(clinic_onnx: Callable[[str], Path]) -> None:
    fed: list[int] = []

    class Counting(ScoringModel):
        def ask(self, ids: torch.Tensor, asked: torch.Tensor, lengths: Any = None) -> torch.Tensor:
            fed.append(ids.numel())
            return super().ask(ids, asked, lengths)

    trie = Trie(mixed(seed=1))
    Engine(Counting(clinic_onnx("fp32")), "cpu").answer(trie, 4096)
    assert sum(fed) == len(trie)


def test_a_gpu_takes_rows_for_short_branches_and_walks_below_a_long_trunk() -> None:
    rng = random.Random(0)

    def found(trunk: int) -> list[onnx_engine.Branch]:
        shared = [rng.randrange(9) for _ in range(trunk)]
        stems = [shared + [i] + [rng.randrange(9) for _ in range(150)] for i in range(32)]
        return list(branches(Trie([([*stem, 1], 1) for stem in stems])))

    model: Any = None
    assert not Engine(model, "cuda")._walks(found(0), 4096)
    assert Engine(model, "cuda")._walks(found(2000), 4096)
    assert Engine(model, "cpu")._walks(found(0), 256)


@pytest.mark.parametrize("way", ["walk", "rows"])
def test_running_out_of_memory_halves_the_budget_and_goes_on(
    clinic_onnx: Callable[[str], Path], clinic: Path, torch_answers: Any, way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    room = {"walk": 40, "rows": 100}[way]  # a path of rows cannot be cut

    class Small(ScoringModel):
        def ask(self, ids: torch.Tensor, asked: torch.Tensor, lengths: Any = None) -> torch.Tensor:
            if ids.numel() > room:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 1")
            return super().ask(ids, asked, lengths)

    monkeypatch.setattr(Engine, "_walks", lambda *_: way == "walk")
    texts = [one for one in mixed(seed=3) if len(one[0]) < 100]
    found, _, left = Engine(Small(clinic_onnx("fp32")), "cpu").answer(Trie(texts), 256)
    np.testing.assert_allclose(found, torch_answers(texts, clinic)[0], atol=1e-4, rtol=1e-6)
    assert 32 <= left < 256


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    clinic_onnx: Callable[[str], Path],
) -> None:
    class Broken(ScoringModel):
        def ask(self, ids: torch.Tensor, asked: torch.Tensor, lengths: Any = None) -> torch.Tensor:
            raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        Engine(Broken(clinic_onnx("fp32")), "cpu").answer(Trie(mixed(seed=0)), 256)


def test_nothing_asked_is_nothing_run(clinic_onnx: Callable[[str], Path]) -> None:
    found, greedy, _ = Engine(ScoringModel(clinic_onnx("fp32")), "cpu").answer(Trie([]), 64)
    assert found.size == greedy.size == 0

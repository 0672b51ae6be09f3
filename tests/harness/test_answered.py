"""A task that was interrupted goes on, asks what is missing only, and ends with the same bits."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medbench.errors import StageError
from medbench.harness.evaluate import Asking, score
from medbench.harness.folder import journal
from medbench.harness.folder.journal import Journal
from medbench.harness.folder.store import MANIFEST, RunFolder
from medbench.harness.models import answered as module
from medbench.harness.models.answered import LOST, answered, batches, neighbours, shared
from medbench.harness.models.load import ScoringPool
from medbench.harness.planning.plan import make_plan
from medbench.harness.progress import silent
from medbench.harness.run import execute, open_folder
from medbench.harness.scorer.lm import PackedLM
from medbench.harness.suite import EMBEDDED, ModelSpec, load_suite
from medbench.tasks.catalog import task
from medbench.tasks.templates import Prompt

from .asking import Counted, chat
from .openai_server import Answer, model_at, saying, serving

CLINIC = ModelSpec(pretrained="embedded:clinic")

# -- units ---------------------------------------------------------------------------------------


class Request(NamedTuple):
    args: tuple[Any, ...]


texts = st.lists(
    st.tuples(st.text("ab", max_size=12), st.text("xy", min_size=1, max_size=3)), max_size=40
)


@given(texts, st.integers(1, 60))
def test_neighbours_are_each_in_one_unit_and_little_is_computed_twice(
    asked: list[tuple[str, str]], size: int
) -> None:
    units = neighbours(asked, size)
    assert sorted(index for unit in units for index in unit) == list(range(len(asked)))
    for before, unit in pairwise(units):
        last, first = asked[before[-1]][0], asked[unit[0]][0]
        assert last != first, "what stands before the options of a question is computed once"
        held = sum(map(len, (part for index in before for part in asked[index])))
        assert held >= size
        assert shared(last, first) <= LOST * held
    shuffled = sorted(range(len(asked)), key=lambda index: str(hash((index, size))))
    again = neighbours([asked[index] for index in shuffled], size)
    contents = [sorted(asked[index] for index in unit) for unit in units]
    assert [sorted(asked[shuffled[index]] for index in unit) for unit in again] == contents


def test_questions_without_a_common_beginning_are_cut_where_a_unit_is_full() -> None:
    asked = [(f"{chr(65 + number)} question?", answer) for number in range(20) for answer in "xyz"]
    assert [len(unit) for unit in neighbours(asked, 40)] == [9] * 6 + [6]
    assert [len(unit) for unit in neighbours([("shots " * 99 + a, b) for a, b in asked], 40)] == [
        60
    ], "worked examples before each question are worth more than a small unit"


@given(st.text("ab"), st.text("ab"))
def test_shared_is_the_common_beginning(one: str, other: str) -> None:
    count = shared(one, other)
    assert one[:count] == other[:count]
    assert one[: count + 1] != other[: count + 1] or count in {len(one), len(other)}


@given(
    st.lists(st.tuples(st.text("ab", max_size=5), st.sampled_from([8, 16])), max_size=30),
    st.integers(1, 7),
)
def test_batches_are_full_and_of_one_setting(asked: list[tuple[str, int]], size: int) -> None:
    requests = [Request((text, {"max_gen_toks": limit})) for text, limit in asked]
    units = batches(requests, size)
    assert sorted(index for unit in units for index in unit) == list(range(len(asked)))
    for limit in {limit for _, limit in asked}:
        sizes = [len(unit) for unit in units if asked[unit[0]][1] == limit]
        assert sizes[:-1] == [size] * (len(sizes) - 1)
    for unit in units:
        assert len({asked[index][1] for index in unit}) == 1
        lengths = [len(asked[index][0]) for index in unit]
        assert lengths == sorted(lengths, reverse=True)


# -- a model that is interrupted -----------------------------------------------------------------


@pytest.fixture(scope="module")
def pool() -> Iterator[ScoringPool]:
    made = ScoringPool({"m": CLINIC}, {}, "cpu")
    yield made
    made.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few requests, a part after each."""
    monkeypatch.setattr(module, "MINUTE", {"cpu": 2e8})
    monkeypatch.setattr(journal, "EVERY", 0)


def asked(pool: ScoringPool, name: str, folder: Path, stop: int | None = None) -> Any:
    """(samples, what the model was asked, what the stage says)."""
    ticks: list[tuple[int, int]] = []
    with pool.use("m", 4) as lm:
        counted = Counted(lm, stop)
        kept = Journal(folder)
        with answered(lm, kept, lambda done, whole, _: ticks.append((done, whole))) as known:
            table = score("m", lm, task(name), Asking(limit=48, orders=2), known.tick)
    assert ticks == sorted(ticks), "progress never goes back"
    assert len({whole for _, whole in ticks}) == 1
    assert ticks[-1][0] == ticks[-1][1]
    return table, counted, known.about


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "name", ["clinic_text", "clinic_letters", "clinic_open", "clinic_response"]
)
def test_an_interrupted_task_asks_the_rest_and_ends_with_the_same_bits(
    pool: ScoringPool, tmp_path: Path, name: str
) -> None:
    whole, every, about = asked(pool, name, tmp_path / "whole")
    assert len(every.units) > 3
    assert about == {"answered_before": 0, "damaged_parts": 0}
    half = len(every.requests) // 2
    with pytest.raises(KeyboardInterrupt):
        asked(pool, name, tmp_path / "J", stop=half)
    table, rest, about = asked(pool, name, tmp_path / "J")
    assert half <= about["answered_before"] < len(every.requests)
    assert len(rest.requests) == len(every.requests) - about["answered_before"]
    assert rest.units == every.units[-len(rest.units) :], "the same units, so the same bits"
    pd.testing.assert_frame_equal(table, whole, check_exact=True)
    again, none, _ = asked(pool, name, tmp_path / "J")
    assert none.units == []
    pd.testing.assert_frame_equal(again, whole, check_exact=True)


@pytest.mark.usefixtures("small")
def test_of_a_damaged_part_the_requests_are_asked_again(pool: ScoringPool, tmp_path: Path) -> None:
    whole, every, _ = asked(pool, "clinic_text", tmp_path / "J")
    parts = sorted((tmp_path / "J").iterdir(), key=lambda part: part.stat().st_mtime_ns)
    os.truncate(parts[0], 50)
    content = bytearray(parts[1].read_bytes())
    content[-20] ^= 1
    parts[1].write_bytes(content)
    table, rest, about = asked(pool, "clinic_text", tmp_path / "J")
    assert rest.units == every.units[:2]
    assert about["damaged_parts"] == 2
    pd.testing.assert_frame_equal(table, whole, check_exact=True)


def test_units_change_no_answer(pool: ScoringPool, tmp_path: Path, small: None) -> None:
    """Letters and text are what they are without units, up to float32's rounding."""
    with pool.use("m", 4) as lm:
        plain = score("m", lm, task("clinic_text"), Asking(limit=48, orders=2))
    table, _, _ = asked(pool, "clinic_text", tmp_path)
    pd.testing.assert_frame_equal(table, plain, rtol=1e-4, atol=1e-4)


class Engine:
    """As much of lm-eval's class for an engine that makes its own batches as is looked at."""

    batch_size = "auto"

    def __init__(self, replicas: int) -> None:
        self.data_parallel_size = replicas
        self.model = object() if replicas == 1 else None
        self.calls: list[int] = []

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.calls.append(len(requests))
        return [request.args[0].upper() for request in requests]


@pytest.mark.parametrize(("replicas", "calls"), [(1, [3, 3, 1]), (2, [7])])
def test_an_engine_gets_many_requests_and_one_that_loads_for_each_call_gets_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replicas: int, calls: list[int]
) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    lm: Any = Engine(replicas)
    texts = ["a", "ccc", "bb", "a", "dddd", "e", "ff"]
    with answered(lm, Journal(tmp_path)):
        found = lm.generate_until([Request((text, {})) for text in texts])
    assert found == [text.upper() for text in texts]
    assert lm.calls == calls


def test_the_model_is_left_as_it_was(pool: ScoringPool, tmp_path: Path) -> None:
    with pool.use("m", 4) as lm:
        before = dict(vars(lm))
        for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            before.pop(kind, None)
            vars(lm).pop(kind, None)
        with pytest.raises(KeyboardInterrupt), answered(lm, Journal(tmp_path)):
            raise KeyboardInterrupt
        assert vars(lm) == before


# -- an endpoint ---------------------------------------------------------------------------------


def of_server(spec: ModelSpec, folder: Path) -> tuple[pd.DataFrame, int]:
    pool = ScoringPool({"m": spec}, {}, "cpu")
    with pool.use("m") as lm, answered(lm, Journal(folder), remote=True) as known:
        asking = Asking(limit=12, prompt=Prompt(chat_template=True), messages=True)
        table = score("m", lm, task("clinic_open"), asking, known.tick)
    return table, known.before


@pytest.mark.parametrize("concurrent", [1, 3])
def test_an_endpoint_that_fails_half_way_is_asked_only_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrent: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none-of-anybodys")

    def answering(told: list[str], most: int) -> Answer:
        def answer(_: str, body: dict[str, Any]) -> dict[str, Any]:
            if len(told) == most:
                return {"status": 503, "error": "too much"}
            told.append(body["messages"][-1]["content"])
            return saying(f"It is {len(told[-1])}.") | {"usage": {"completion_tokens": 5}}

        return answer

    first: list[str] = []
    with serving(answering(first, 7)) as server:
        spec = chat(server.url, max_retries=1, num_concurrent=concurrent)
        with pytest.raises(StageError, match="HTTP 503"):
            of_server(spec, tmp_path / "J")
    rest: list[str] = []
    with serving(answering(rest, 24)) as server:  # to the first, requests may still be on their way
        spec = chat(server.url, max_retries=1, num_concurrent=concurrent)
        table, before = of_server(spec, tmp_path / "J")
        assert len(server.requests) == 12 - before
        again = set(rest) & set(first)
        whole, _ = of_server(spec, tmp_path / "whole")
    # With several requests on the way at once, a reply may still be on its way to us.
    assert before == 7 if concurrent == 1 else 7 - concurrent < before <= 7
    assert len(again) == 7 - before
    assert table["output_tokens"].tolist() == [5.0] * 12, "what the server said is kept as well"
    pd.testing.assert_frame_equal(table, whole)


def test_likelihoods_of_an_endpoint_are_kept_as_well(tmp_path: Path) -> None:
    """Through lm-eval's client of completions, four prompts a request."""
    model = model_at(EMBEDDED["embedded:clinic"])
    told: list[int] = []
    broken = [9]

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if broken and len(told) >= broken[0]:
            return {"status": 500}
        told.append(len(body["prompt"]))
        return model(path, body)

    def scored(folder: Path) -> tuple[pd.DataFrame, int]:
        pool = ScoringPool({"m": spec}, {}, "cpu")
        with pool.use("m") as lm, answered(lm, Journal(folder), remote=True) as known:
            table = score("m", lm, task("clinic_text"), Asking(limit=12), known.tick)
        return table, known.before

    with serving(answer) as server:
        args = {
            "model": "clinic", "base_url": f"{server.url}/v1/completions", "batch_size": 4,
            "tokenizer": str(EMBEDDED["embedded:clinic"]), "tokenizer_backend": "huggingface",
            "max_retries": 1,
        }  # fmt: skip
        spec = ModelSpec(backend="local-completions", args=args)
        with pytest.raises(StageError, match="HTTP 500"):
            scored(tmp_path / "J")
        broken.clear()
        table, before = scored(tmp_path / "J")
        assert before == sum(told[:9])
        assert sum(told) == 48
        whole, _ = scored(tmp_path / "whole")
    pd.testing.assert_frame_equal(table, whole, atol=1e-5)


# -- a whole run ---------------------------------------------------------------------------------

SLOW = """
import os, sys, time
from medbench.harness.folder import journal
from medbench.harness.models import answered
from medbench.harness.scorer.lm import PackedLM
every, heard = float(sys.argv.pop(1)), sys.argv.pop(1) + os.environ.get("RANK", "")
answered.MINUTE, journal.EVERY = {"cpu": 2e8}, every
ask = PackedLM.loglikelihood
def slow(self, requests, **options):
    found = ask(self, requests, **options)
    print(len(requests), file=open(heard, "a"))
    time.sleep(0.5)
    return found
PackedLM.loglikelihood = slow
from medbench.cli import main
main()
"""
TASK = "score/base/clinic_text"
PARTS = "parts/answers/base/clinic_text"


class Watch:
    """A watcher that remembers what stages said."""

    def __init__(self) -> None:
        self.said: dict[str, dict[str, Any]] = {}

    def begin(self, stage: str) -> Any:
        return silent

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        self.said[stage] = detail


def run(out: Path, base: str = "embedded:clinic") -> dict[str, Any]:
    """Run one task to its end; what its stage says."""
    suite = load_suite("quickstart", ["latency=null", f"models.base.pretrained={base}"])
    plan = make_plan(suite, models="base", tasks="clinic_text", device="cpu", command="test")
    watch = Watch()
    execute(plan, open_folder(out, plan, fresh=False), watch)
    return watch.said[TASK]


@pytest.fixture
def heard(small: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests reach the model at a time."""
    found: list[int] = []
    ask = PackedLM.loglikelihood

    def counted(self: PackedLM, requests: list[Any], **options: Any) -> Any:
        found.append(len(requests))
        return ask(self, requests, **options)

    monkeypatch.setattr(PackedLM, "loglikelihood", counted)
    return found


@contextlib.contextmanager
def interrupted(heard: list[int]) -> Iterator[None]:
    """Ctrl-C comes once the model has answered three times."""
    ask = PackedLM.loglikelihood

    def stopped(self: PackedLM, requests: list[Any], **options: Any) -> Any:
        if len(heard) == 3:
            raise KeyboardInterrupt
        return ask(self, requests, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedLM, "loglikelihood", stopped)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.fixture
def undisturbed(heard: list[int], tmp_path: Path) -> tuple[Path, int]:
    """A whole run, and how many requests it took."""
    assert run(tmp_path / "undisturbed")["answered_before"] == 0
    asked = sum(heard)
    heard.clear()
    return tmp_path / "undisturbed", asked


@pytest.mark.parametrize(
    ("number", "every"),
    [
        pytest.param(signal.SIGKILL, 0, id="kill"),
        pytest.param(signal.SIGINT, 30, id="Ctrl-C", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_in_the_middle_of_a_task_goes_on_there(
    undisturbed: tuple[Path, int],
    heard: list[int],
    tmp_path: Path,
    number: signal.Signals,
    every: float,
) -> None:
    out, told = tmp_path / "R", tmp_path / "told"
    told.touch()
    arguments = [str(every), str(told), "run", "--device", "cpu", "--set", "latency=null"]
    arguments += ["--models", "base", "--tasks", "clinic_text", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while told.read_text().count("\n") < 4:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), said
    if number == signal.SIGINT:
        assert "to go on:\n  medbench run" in said
    assert list((out / PARTS).glob("*/*.json"))

    # The last unit may have been on its way into a part.
    first = [int(line) for line in told.read_text().split()]
    before = run(out)["answered_before"]
    assert before in {sum(first[:-1]), sum(first)}
    whole, asked = undisturbed
    assert sum(heard) == asked - before
    assert not (out / PARTS).exists(), "done, so not needed"
    one, other = RunFolder(out).samples(), RunFolder(whole).samples()
    pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.slow
def test_of_several_processes_each_goes_on_with_its_own_answers(
    undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    from .test_ranks_run import LAUNCH, QUIET

    (tmp_path / "slow.py").write_text(SLOW)
    arguments = ["run", "--device", "cpu", "--set", "latency=null", "--out", str(tmp_path / "R")]
    arguments += ["--models", "base", "--tasks", "clinic_text"]

    def start(told: str) -> subprocess.Popen[str]:
        for rank in "01":
            (tmp_path / f"{told}{rank}").touch()
        command = [*LAUNCH, str(tmp_path / "slow.py"), "0", str(tmp_path / told), *arguments]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env=os.environ | QUIET,
        )  # fmt: skip

    def asked(told: str) -> list[list[int]]:
        return [[int(n) for n in (tmp_path / f"{told}{r}").read_text().split()] for r in "01"]

    process = start("first")
    while min(map(len, asked("first"))) < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = asked("first")
    process = start("then")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    whole, every = undisturbed
    for before, after in zip(first, asked("then"), strict=True):
        assert every // 2 - sum(before) <= sum(after) <= every // 2 - sum(before[:-1])
    one, other = RunFolder(tmp_path / "R").samples(), RunFolder(whole).samples()
    pd.testing.assert_frame_equal(one, other, atol=1e-3)


def test_answers_of_another_model_are_not_taken(
    undisturbed: tuple[Path, int], heard: list[int], tmp_path: Path
) -> None:
    """Its weights are changed after the kill; its name and the questions are the same."""
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(EMBEDDED["embedded:clinic"], tmp_path / "model")
    with interrupted(heard):
        run(tmp_path / "R", str(model))
    assert len(list((tmp_path / "R" / PARTS).glob("*/*.json"))) == 3
    manifest = json.loads((tmp_path / "R" / MANIFEST).read_text())
    assert manifest["stages"][TASK]["status"] == "failed"
    heard.clear()

    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if "down_proj" in name)
    weights[name] *= 1.5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert run(tmp_path / "R", str(model))["answered_before"] == 0
    assert sum(heard) == undisturbed[1]
    assert not (tmp_path / "R" / PARTS).exists(), "nor are they kept"


def test_answers_of_an_adapter_that_was_tuned_again_are_not_taken(
    heard: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the same recipe gives other weights the second time; here another seed does."""
    from peft import LoraConfig, get_peft_model

    from medbench.finetune import train
    from medbench.harness.models.load import load_base

    seed = 1

    def tune(job: train.Job, tick: Any) -> dict[str, Any]:
        torch.manual_seed(seed)
        base, _ = load_base(job.base, "cpu")
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(base, config).save_pretrained(job.out)
        return {}

    def go() -> Watch:
        watch = Watch()
        execute(plan, open_folder(out, plan, fresh=False), watch)
        return watch

    def value() -> float:
        return float(RunFolder(out).samples()["score"].sum())

    monkeypatch.setattr(train, "tune", tune)
    plan = make_plan(
        load_suite("quickstart", ["latency=null"]),
        models="tuned", tasks="clinic_text", device="cpu", command="test",
    )  # fmt: skip
    scored, out = "score/tuned/clinic_text", tmp_path / "R"
    adapter, parts = out / "adapters/tuned/adapter_model.safetensors", out / "parts/answers/tuned"
    with interrupted(heard):
        go()
    assert list(parts.rglob("*.json"))

    adapter.unlink()
    seed = 2
    said = go().said
    assert said[scored]["answered_before"] == 0, "half a task"
    assert not list(parts.rglob("*.json"))

    heard.clear()
    adapter.unlink()
    said = go().said
    assert "redone" in said["tune/tuned"]
    assert "redone" not in said[scored], "the same weights again"
    assert not heard

    adapter.unlink()
    seed = 3
    before = value()
    said = go().said
    assert "made again" in said[scored]["redone"], "a whole task"
    assert heard
    assert value() != before

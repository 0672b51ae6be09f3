"""The families on the real files: counts and hashes as documented, values as lm-eval's own."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lm_eval
import pandas as pd
import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from medbench.harness.evaluate import Asking, score
from medbench.harness.folder import fingerprint
from medbench.harness.scorer.lm import PackedLM
from medbench.tasks import sources
from medbench.tasks.catalog import SPECS, groups, task, tasks
from medbench.tasks.splits import is_held_out

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "tasks.md"
THEIRS = Path(lm_eval.__file__).parent / "tasks"


@pytest.fixture
def real(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(sources.DATA_DIR, str(real_data))
    return real_data


LACKING = {"medqa_us_5options", "medqa_zh_4options"}
"""Data sets of which no file is at hand."""


class Documented(NamedTuple):
    """A line of the table of files, rows and hashes in the reference; – is None."""

    tasks: list[str]
    files: dict[str, str]
    rows: int | None
    questions: int | None
    documents: str


def documented() -> list[Documented]:
    text = DOCS.read_text("utf-8").split("<!-- counts -->")[1]
    found = []
    for line in text.splitlines():
        if line.startswith("| `"):
            names, paths, digests, *counts, documents = (
                re.findall(r"[^\s`,|–]+", cell.replace(",", " " if "`" in cell else ""))
                for cell in line.strip("|").split("|")
            )
            rows, questions = (int(count[0]) if count else None for count in counts)
            files = dict(zip(paths, digests, strict=True))
            found.append(Documented(names, files, rows, questions, documents[0]))
    return found


def test_every_documented_task_exists() -> None:
    listed = set(re.findall(r"`([a-z0-9_]+)`", DOCS.read_text("utf-8")))
    assert {name for name in [*tasks(), *groups()] if not name.startswith("mmlu_")} <= listed
    counted = [name for row in documented() for name in row.tasks]
    assert len(counted) == len(set(counted))
    assert set(counted) == {name for name, one in tasks().items() if one.data not in LACKING}


@pytest.mark.parametrize("row", documented(), ids=lambda row: row.tasks[0])
def test_counts_and_hashes_are_as_documented(
    row: Documented, request: pytest.FixtureRequest
) -> None:
    if row.files:
        request.getfixturevalue("real")
    manager = TaskManager(include_path=str(SPECS), include_defaults=False)
    for name in row.tasks:
        docs = manager.load([name])["tasks"][name].eval_docs
        about = sources.provenance(task(name).data)
        assert about["rows"] == row.rows
        assert {file: digest[:12] for file, digest in about["files"].items()} == row.files
        assert len(docs) == row.questions
        assert hash_of(docs).startswith(row.documents)


def hash_of(docs: Any) -> str:
    """What a run's manifest calls ``documents``: over lm-eval's hash of each document."""
    from lm_eval.utils import handle_non_serializable, hash_string

    texts = [
        json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
        for doc in docs
    ]
    return fingerprint.of([hash_string(text) for text in texts])


def test_every_task_with_a_real_file_loads(real: Path) -> None:
    manager = TaskManager(include_path=str(SPECS), include_defaults=False)
    for name, one in tasks().items():
        if one.data in LACKING:
            continue
        loaded = manager.load([name])["tasks"][name]
        doc = loaded.eval_docs[0]
        assert isinstance(loaded.fewshot_context(doc, 0), str), name
        assert one.questions in (None, len(loaded.eval_docs)), name


def test_held_out_rows_are_held_out(real: Path) -> None:
    manager = TaskManager(include_path=str(SPECS), include_defaults=False)
    for name, one in tasks().items():
        if one.data.startswith("medical_o1"):
            docs = manager.load([name])["tasks"][name].eval_docs
            assert all(is_held_out(doc["question"]) for doc in docs), name


@pytest.fixture
def theirs(real: Path, tmp_path: Path) -> TaskManager:
    """lm-eval's own tasks of multimedqa; of each only the address of its data is changed."""

    def put(name: str, spec: str, rows: list[dict[str, Any]]) -> None:
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
        (tmp_path / f"{name}.yaml").write_text(
            f"include: {THEIRS / spec}\ntask: {name}\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs: {{data_files: {{test: {file}}}}}\ntest_split: test\n"
            "training_split: null\nvalidation_split: null\nfewshot_split: null\n"
        )

    def lines(path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (real / path).read_text("utf-8").splitlines()]

    medqa = [
        {"sent1": row["question"], "label": "ABCD".index(row["answer_idx"])}
        | {f"ending{n}": row["options"][letter] for n, letter in enumerate("ABCD")}
        for row in lines("medqa_us_4options/test.jsonl")
    ]
    put("medqa_4options", "medqa/medqa.yaml", medqa)
    medmcqa = [row | {"cop": row["cop"] - 1} for row in lines("medmcqa_dev/dev.jsonl")]
    put("medmcqa", "medmcqa/medmcqa.yaml", medmcqa)
    labelled = json.loads((real / "pubmedqa_l/ori_pqal.json").read_text("utf-8"))
    test = json.loads((real / "pubmedqa_l/test_ground_truth.json").read_text("utf-8"))
    keys = ("QUESTION", "CONTEXTS", "final_decision")
    pubmedqa = [{key: labelled[pmid][key] for key in keys} for pmid in test]
    put("pubmedqa", "pubmedqa/pubmedqa.yaml", pubmedqa)
    for subject in sources.MMLU:
        with (real / f"mmlu_medical/{subject}_test.csv").open(newline="") as file:
            cells = list(csv.reader(file))
        rows = [{"question": c[0], "choices": c[1:5], "answer": "ABCD".index(c[5])} for c in cells]
        put(f"mmlu_{subject}", f"mmlu/default/mmlu_{subject}.yaml", rows)
    paths = [str(THEIRS / "benchmarks" / "multimedqa"), str(tmp_path)]
    return TaskManager(include_path=paths, include_defaults=False)


@pytest.fixture
def packed(clinic: Path) -> PackedLM:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(clinic)
    return PackedLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(clinic))


@pytest.fixture
def plain(clinic: Path) -> Callable[[str, TaskManager, int | None], dict[str, Any]]:
    """lm-eval's own model over a task or group of its own or ours."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(clinic), dtype="float32", device="cpu", batch_size=16)

    def evaluate(name: str, manager: TaskManager, limit: int | None) -> dict[str, Any]:
        found: dict[str, Any] = simple_evaluate(
            model=lm, tasks=[name], task_manager=manager, limit=limit, bootstrap_iters=0
        )
        return found

    return evaluate


SIZES = [pytest.param(40, id="40 questions"), pytest.param(None, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("limit", SIZES)
def test_medqa_is_lm_evals_medqa_4options(
    packed: PackedLM, theirs: TaskManager, plain: Any, limit: int | None
) -> None:
    found = plain("medqa_4options", theirs, limit)
    samples = sorted(found["samples"]["medqa_4options"], key=lambda one: one["doc_id"])
    ours = score("base", packed, task("medqa"), Asking(limit=limit))
    assert len(ours) == len(samples) == (limit or 1273)
    assert ours["prompt"].tolist() == [one["arguments"][0][0] for one in samples]
    assert ours["score"].tolist() == [one["acc"] for one in samples]
    for mine, one in zip(ours["option_scores"], samples, strict=True):
        assert mine == pytest.approx([value for value, _ in one["filtered_resps"]], abs=1e-4)
    loaded = TaskManager(include_path=str(SPECS), include_defaults=False).load(["medqa"])
    docs = loaded["tasks"]["medqa"].eval_docs
    assert fingerprint.of(ours["doc_hash"].tolist()) == hash_of(list(docs)[:limit])
    theirs_acc = found["results"]["medqa_4options"]["acc,none"]
    assert ours["score"].mean() == pytest.approx(theirs_acc, abs=1e-6)


GROUP_SIZES = [pytest.param(6, id="6 each"), pytest.param(None, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("limit", GROUP_SIZES)
def test_the_group_has_the_value_of_lm_evals_multimedqa(
    packed: PackedLM, theirs: TaskManager, plain: Any, limit: int | None
) -> None:
    """lm-eval's own group, lm-eval over our specs, and medbench: one number, weighted by size."""
    own = plain("multimedqa", theirs, limit)
    specs = TaskManager(include_path=str(SPECS), include_defaults=False)
    mine = plain("multimedqa_letters", specs, limit)["groups"]["multimedqa_letters"]
    members = groups()["multimedqa_letters"]
    tables = [score("base", packed, task(name), Asking(limit=limit)) for name in members]
    prompts = {text for one in own["samples"].values() for text in map(first_prompt, one)}
    assert prompts == {text for table in tables for text in table["prompt"]}
    pooled = pd.concat(tables)["score"].mean()
    assert mine["acc,none"] == pytest.approx(own["groups"]["multimedqa"]["acc,none"], abs=1e-9)
    assert pooled == pytest.approx(mine["acc,none"], abs=1e-9)


def first_prompt(sample: dict[str, Any]) -> str:
    return str(sample["arguments"][0][0])

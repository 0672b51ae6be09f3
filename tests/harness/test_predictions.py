"""One side from wherever it comes: plain files, lm-eval's logs, run folders, baselines."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError
from medbench.harness.comparing.join import join
from medbench.harness.folder.store import RunFolder
from medbench.harness.gate import baseline
from medbench.harness.predictions.answers import find
from medbench.harness.predictions.load import load_side, parse_columns
from medbench.harness.predictions.rows import COLUMNS
from medbench.harness.statistics import stats
from medbench.harness.statistics.calibration import calibration
from medbench.reports import Report

OPTIONS = ["aspirin", "heparin", "digoxin", "insulin"]


def write(path: Path, *rows: dict[str, Any]) -> str:
    blank = {"task": "t", "target": "heparin", "prediction": "heparin"}
    lines = [json.dumps({"doc_id": number} | blank | row) for number, row in enumerate(rows)]
    path.write_text("\n".join(lines), "utf-8")
    return str(path)


def load(tmp_path: Path, *rows: dict[str, Any]) -> pd.DataFrame:
    return load_side(write(tmp_path / "p.jsonl", *rows)).samples


def test_the_table_has_the_columns_of_a_run() -> None:
    from medbench.harness.evaluate import COLUMNS as OF_A_RUN

    assert list(COLUMNS) == OF_A_RUN


@pytest.mark.parametrize(
    ("answer", "found", "problem"),
    [
        ("heparin", "heparin", None),
        ("B", "heparin", None),
        ("b", "heparin", None),
        ("(B)", "heparin", None),
        ("B.", "heparin", None),
        ("Heparin!", "heparin", None),
        ("B. heparin", "heparin", None),
        ("B) because it is quick", "heparin", None),
        ("B. insulin", None, "several"),
        ("A/B", None, "unstated"),
        ("A fever", None, "unstated"),
        ("None of the above", None, "unstated"),
        ("E", None, "out_of_range"),
        ("E. none", None, "out_of_range"),
        ("2", None, "unstated"),
        ("", None, "empty"),
        (None, None, "empty"),
    ],
)
def test_which_option_an_answer_names(
    answer: str | None, found: str | None, problem: str | None
) -> None:
    assert find(answer, OPTIONS) == (found, problem)


def test_an_answer_that_could_be_letter_or_text_needs_to_be_told() -> None:
    figure = ["B", "C", "D", "E"]
    assert find("B", figure) == (None, "ambiguous")
    assert find("B", figure, by_letter=True) == ("C", None)
    assert find("B", figure, by_letter=False) == ("B", None)
    assert find("E", figure, by_letter=False) == ("E", None)
    assert find("A", figure) == ("B", None)


def test_texts_are_compared_but_for_case_and_punctuation(tmp_path: Path) -> None:
    samples = load(tmp_path, {"prediction": " HEPARIN. "}, {"prediction": "enoxaparin"}, {})
    assert samples["score"].tolist() == [1, 0, 1]
    assert samples["cluster"].equals(samples["doc_hash"])


def test_letters_are_compared_as_letters(tmp_path: Path) -> None:
    answers = ["b", "(B)", "B. whatever", "C", "", "heparin"]
    samples = load(tmp_path, *({"target": "B", "prediction": one} for one in answers))
    assert samples["score"].tolist() == [1, 1, 1, 0, 0, 0]
    assert samples["unparsed"].tolist() == [False] * 4 + [True] * 2
    assert samples["output"].tolist()[5] == "heparin", "what could not be read is kept"


def test_letters_become_the_texts_of_the_options(tmp_path: Path) -> None:
    letters = dict(zip("ABCD", OPTIONS, strict=True))
    samples = load(
        tmp_path,
        {"target": "B", "prediction": "B", "options": OPTIONS},
        {"target": "heparin", "prediction": "D", "options": letters},
    )
    assert samples["target"].tolist() == ["heparin", "heparin"]
    assert samples["prediction"].tolist() == ["heparin", "insulin"]
    assert samples["options"].tolist() == [OPTIONS, OPTIONS]


def test_what_the_file_says_of_correctness_holds_and_contradictions_are_counted(
    tmp_path: Path,
) -> None:
    rows: list[dict[str, Any]] = [
        {"correct": 0},
        {"correct": True, "prediction": "water"},
        {"correct": 1},
        {"score": 0.5},
    ]
    side = load_side(write(tmp_path / "p.jsonl", *rows))
    assert side.samples["score"].tolist() == [0, 1, 1, 0.5]
    assert side.notes == (
        "2 of 4 answers scored otherwise than by comparing them with their targets; "
        "the scores given were kept",
    )


def test_probabilities_and_log_likelihoods_give_the_same_calibration(tmp_path: Path) -> None:
    shares = [0.1, 0.6, 0.3, 0.0]
    row = {"options": OPTIONS}
    logs = [math.log(max(share, 1e-12)) for share in shares]
    one = load(tmp_path, row | {"scores": shares}, row | {"scores": [0.25] * 4})
    other = load(
        tmp_path,
        row | {"scores": dict(zip("ABCD", logs, strict=True))},
        row | {"scores": dict.fromkeys(reversed(OPTIONS), -1.0)},
    )
    assert one["confidence"].tolist() == pytest.approx([0.6, 0.25])
    assert other["confidence"].tolist() == pytest.approx([0.6, 0.25])
    first, second = calibration(one), calibration(other)
    assert first is not None
    assert second is not None
    assert first.brier == pytest.approx(second.brier) == pytest.approx((0.26 + 0.75) / 2)


def test_scores_by_letter_need_no_options(tmp_path: Path) -> None:
    row = {"target": "B", "prediction": "C", "scores": {"C": 0.7, "B": 0.2, "A": 0.1}}
    samples = load(tmp_path, row)
    assert samples["options"].tolist() == [["A", "B", "C"]]
    assert samples["confidence"].tolist() == pytest.approx([0.7])
    assert calibration(samples) is not None


def test_what_the_file_knows_besides_is_kept(tmp_path: Path) -> None:
    known = {
        "cluster": 7, "question": "Which?", "unparsed": True, "truncated": 1, "subject": "renal",
        "protocol": "letters, 5-shot", "output": "<think>", "order": 2, "doc_hash": "abc",
    }  # fmt: skip
    (row,) = load(tmp_path, known).to_dict("records")
    assert {key: row[key] for key in known} == known | {"cluster": "7", "truncated": True}
    assert row["problem"] == "unstated"


def test_a_question_is_known_by_its_task_and_id(tmp_path: Path) -> None:
    one = load(tmp_path, {"doc_id": 1}, {"doc_id": "1", "task": "u"})
    assert one["doc_hash"].nunique() == 2
    assert one["doc_hash"][0] == load(tmp_path, {"doc_id": "1"})["doc_hash"][0]
    question = load(tmp_path, {"doc_id": "A patient of 60 years " * 9})
    assert "patient" not in question["doc_id"][0], "ids go into baselines, questions must not"


def test_columns_are_named_and_values_given_for_all(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    rows = [{"nr": 4, "gold": "x", "said": "X", "task": {"odd": 1}}]
    path.write_text(json.dumps({"name": "run", "rows": rows}))
    columns = parse_columns("task==drugs, doc_id=nr,target=gold,prediction=said")
    (row,) = load_side(path, columns).samples.to_dict("records")
    assert (row["task"], row["doc_id"], row["score"]) == ("drugs", 4, 1)


# -- real predictions ----------------------------------------------------------------------------

MISTRAL = "task==medqa,doc_id=question,target=ground_truth,correct=is_correct,scores=all_probs"


@pytest.mark.parametrize("graded_here", [False, True])
def test_the_real_pair_gives_the_published_counts(real_data: Path, graded_here: bool) -> None:
    """One of the files has the options and one letters alone; a question has options B to E."""
    columns = parse_columns(MISTRAL)
    if graded_here:
        del columns["correct"]
    folder = real_data / "predictions_mistral7b"
    base, tuned = (
        load_side(folder / f"{n}_results.json", columns) for n in ("baseline", "finetuned")
    )
    assert (base.samples["score"].sum(), tuned.samples["score"].sum()) == (628, 665)
    assert not any("otherwise" in note for note in (*base.notes, *tuned.notes))
    joined = join(base.samples, tuned.samples)
    assert joined.warnings == ("task medqa: the letters of a were read as the options of b",)
    found = stats.compare(joined.pairs)
    assert (found.n, found.discordant) == (1273, (136, 173))
    assert found.p == pytest.approx(0.040, abs=5e-4)
    # The file's own confidence is bfloat16's, which sums to 0.997 … 1.003.
    own = [
        row["confidence"]
        for row in json.loads((folder / "baseline_results.json").read_text())["predictions"]
    ]
    assert base.samples["confidence"].to_numpy() == pytest.approx(own, abs=0.003)


# -- lm-eval -------------------------------------------------------------------------------------

TASKS = ("clinic_letters", "clinic_open", "clinic_response")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """What lm-eval logs of the embedded model, and medbench's own samples of the same."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medbench.harness.evaluate import Asking, score
    from medbench.harness.scorer.lm import PackedLM
    from medbench.harness.suite import EMBEDDED
    from medbench.tasks.catalog import SPECS, task

    checkpoint = EMBEDDED["embedded:clinic"]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    lm = PackedLM(
        pretrained=model, tokenizer=AutoTokenizer.from_pretrained(checkpoint), batch_size=4
    )
    folder = tmp_path_factory.mktemp("lm_eval")
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = "org__clinic"
    tracker.general_config_tracker.model_name = "org/clinic"
    found = simple_evaluate(
        model=lm, tasks=list(TASKS), limit=5, bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_path=str(SPECS), include_defaults=False),
    )  # fmt: skip
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for name in TASKS:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    own = [score("clinic", lm, task(name), Asking(limit=5)) for name in TASKS]
    return folder, pd.concat(own, ignore_index=True)


@pytest.fixture
def logged(scored: tuple[Path, pd.DataFrame]) -> Path:
    return scored[0]


def test_a_folder_that_lm_eval_wrote(logged: Path) -> None:
    side = load_side(logged)
    assert side.name == "org/clinic"
    assert side.samples["model"].eq("org/clinic").all()
    (results,) = logged.rglob("results_*.json")
    said = json.loads(results.read_text())["results"]
    tables = dict(list(side.samples.groupby("task")))
    assert {task: len(table) for task, table in tables.items()} == dict.fromkeys(TASKS, 5)
    for task in ("clinic_letters", "clinic_open"):
        assert tables[task]["score"].mean() == said[task]["acc,none"]
    bits = tables["clinic_response"]
    own = bits["score"].sum() / bits["weight"].sum()
    assert own == pytest.approx(said["clinic_response"]["bits_per_byte,none"])
    assert calibration(tables["clinic_letters"]) is not None


def test_columns_of_a_plain_file_beside_it_mean_nothing_to_lm_eval(logged: Path) -> None:
    with_columns = load_side(logged, parse_columns("task=x,doc_id=nr,target=gold"))
    assert with_columns.samples.equals(load_side(logged).samples)


def test_lm_eval_and_medbench_say_the_same_of_each_question(
    scored: tuple[Path, pd.DataFrame],
) -> None:
    """The prompts, documents and targets are the same ones, so hashes join the two."""
    logged, own = scored
    side = load_side(logged)
    joined = join(own, side.samples)
    assert len(joined.pairs) == 15
    assert len(joined.only_a) == len(joined.only_b) == 0
    assert all("how b was asked is unknown" in warning for warning in joined.warnings)
    a, b = (joined.pairs[f"score_{side}"].to_numpy() for side in "ab")
    assert b == pytest.approx(a, rel=1e-5)  # float32: other batches, other rounding
    letters = [t[t["task"] == "clinic_letters"].reset_index() for t in (own, side.samples)]
    for key in ("options", "target", "prediction", "prompt", "question"):
        assert letters[0][key].tolist() == letters[1][key].tolist()
    sure = [table["confidence"].to_numpy() for table in letters]
    assert sure[0] == pytest.approx(sure[1], rel=1e-5)


def test_one_of_its_files_alone_and_its_task(logged: Path) -> None:
    (path,) = logged.rglob("samples_clinic_letters_*.jsonl")
    side = load_side(path)
    assert side.samples["task"].unique().tolist() == ["clinic_letters"]
    assert side.name == "org/clinic", "as the results beside it say"
    named = load_side(path, {"task": "=other", "score": "acc", "filter": "none"})
    assert named.samples["task"].unique().tolist() == ["other"]
    with pytest.raises(InputError, match=r"no metric 'f1'; its metrics: acc"):
        load_side(path, {"score": "f1"})
    with pytest.raises(InputError, match=r"no filter 'strict'; its filters: none"):
        load_side(path, {"filter": "strict"})


def test_options_that_are_numbers_are_not_taken_for_an_index(tmp_path: Path) -> None:
    """lm-eval writes an index as the target, or the option's text: "1" may be either."""
    asked = {f"gen_args_{n}": {"arg_0": "How many?", "arg_1": f" {n + 1}"} for n in range(3)}
    sample = {
        "doc_id": 0, "doc": {}, "target": "1", "arguments": asked, "filter": "none",
        "resps": [], "filtered_resps": [["-1", "False"], ["-2", "False"], ["-3", "False"]],
        "metrics": ["acc"], "acc": 1.0, "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
    }  # fmt: skip
    path = tmp_path / "samples_count_2026-01-01T00-00-00.000000.jsonl"
    path.write_text(json.dumps(sample))
    (row,) = load_side(path).samples.to_dict("records")
    assert (row["task"], row["score"], row["prediction"]) == ("count", 1, "1")
    assert list(row["options"]) == []


# -- run folders, baselines, medbench import -------------------------------------------------------


def imported(tmp_path: Path, *rows: dict[str, Any], arguments: tuple[str, ...] = ()) -> RunFolder:
    source, out = write(tmp_path / "p.jsonl", *rows), tmp_path / "run"
    done = CliRunner().invoke(app, ["import", source, "--out", str(out), *arguments])
    assert done.exit_code == 0, repr(done.exception)
    return RunFolder.open(out)


def test_an_imported_run_is_reported_and_read_again(tmp_path: Path) -> None:
    rows = [
        {"options": OPTIONS, "scores": [0.1, 0.7, 0.1, 0.1], "doc_id": f"q{n}"} for n in range(3)
    ]
    rows[2]["prediction"] = "<b>[red]aspirin"
    run = imported(tmp_path, *rows, arguments=("--model", "m"))
    report = Report.read(run)
    (task,) = report.tasks
    assert (task.name, task.chance, task.protocol) == ("t", 0.25, "unknown")
    assert task.scores[0].value == pytest.approx(2 / 3)
    assert task.scores[0].calibration is not None
    assert any("scored elsewhere" in note for note in report.notes)
    assert any("No score for 3 of 3 answers" in note for note in report.notes)
    assert "<b>[red]" not in (run / "report.html").read_text("utf-8")
    done = CliRunner().invoke(app, ["report", str(run.path)])
    assert done.exit_code == 0
    side = load_side(run.path)
    assert side.name == "m"
    joined = join(side.samples, load_side(tmp_path / "p.jsonl").samples)
    assert len(joined.pairs) == 3
    assert (joined.pairs["score_a"] == joined.pairs["score_b"]).all()


def test_a_model_of_a_run_is_named_after_a_colon(tmp_path: Path) -> None:
    run = imported(tmp_path, {}, {})
    both = pd.concat([run.samples().assign(model=name) for name in ("base", "tuned")])
    run.write_table("samples.parquet", both)
    side = load_side(f"{run.path}:tuned")
    assert side.name == "tuned"
    assert side.samples["model"].unique().tolist() == ["tuned"]
    assert side.origin.endswith("run")
    with pytest.raises(InputError, match=r"several models.*run:tuned.*base, tuned"):
        load_side(run.path)
    with pytest.raises(InputError, match=r"no model 'tunde' in it; its models: base, tuned"):
        load_side(f"{run.path}:tunde")
    with pytest.raises(InputError, match="no such file or folder"):
        load_side(tmp_path / "nope")


def test_a_baseline_file_is_a_side_and_holds_no_text(tmp_path: Path) -> None:
    samples = load(tmp_path, {}, {"prediction": "water"}).assign(model="m")
    path = tmp_path / "base.jsonl"
    baseline.write(samples, baseline.BaselineInfo("m"), path)
    assert "heparin" not in path.read_text()
    side = load_side(path)
    assert side.name == "m"
    joined = join(side.samples, samples)
    assert joined.pairs["score_a"].tolist() == [1, 0]
    assert joined.pairs["target"].tolist() == ["heparin", "heparin"]
    with pytest.raises(InputError, match="differ in a and b"):
        join(side.samples, load(tmp_path, {}, {"target": "water", "prediction": "water"}))
    done = CliRunner().invoke(app, ["import", str(path), "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "run").exists()


def test_100_000_rows_are_read_in_a_few_seconds(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write(
        path,
        *(
            {"target": "B", "prediction": "ABCD"[n % 4], "correct": n % 4 == 1}
            for n in range(100_000)
        ),
    )
    started = time.process_time()
    samples = load_side(path).samples
    assert time.process_time() - started < 4
    assert samples["score"].mean() == 0.25

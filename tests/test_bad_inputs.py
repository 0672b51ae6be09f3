# ruff: noqa: E501  (a case of the table is a line)
"""Everything that can be wrong with what medbench is given: one line each, and nothing is changed.

Predictions have a table of their own (test_bad_predictions.py); here is what they share with the
rest. Every case goes through the program itself, from its arguments to its exit code.
"""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from medbench import cli
from medbench.finetune.recipe import RECIPES
from medbench.harness.suite import EMBEDDED
from medbench.tasks.sources import DATA_DIR

CHECKPOINT = EMBEDDED["embedded:clinic"]
RECIPE: dict[str, Any] = yaml.safe_load((RECIPES / "clinic.yaml").read_text("utf-8"))
SUITE: dict[str, Any] = {
    "name": "mine",
    "models": {"base": {"pretrained": "embedded:clinic"}},
    "tasks": ["clinic_text"],
}
TUNED = {"base": "base", "adapter": {"recipe": "r.yaml"}}
ADAPTER = {"base": "base", "adapter": {"path": "a"}}
QUESTIONS = {
    "file": "q.jsonl",
    "question": "q",
    "answer": "a",
    "options": ["x", "y"],
    "answer_kind": "letter",
}


def suite(**changes: Any) -> bytes:
    return yaml.safe_dump(SUITE | changes).encode()


def base(**spec: Any) -> bytes:
    return suite(models={"base": spec})


def recipe(**changes: Any) -> bytes:
    """The built-in recipe; ``data__source`` stands for ``data.source``, and so on."""
    made: dict[str, Any] = json.loads(json.dumps(RECIPE))
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (made[section] if section else made)[name] = value
    return yaml.safe_dump(made).encode()


def tuning(content: bytes, rows: bytes | None = None, name: str = "rows.jsonl") -> dict[str, bytes]:
    """A suite with a model that is tuned by the recipe *content*, on *rows*."""
    files = {"s.yaml": suite(models=SUITE["models"] | {"tuned": TUNED}), "r.yaml": content}
    return files | ({name: rows} if rows is not None else {})


def on(rows: bytes, name: str = "rows.jsonl", **changes: Any) -> dict[str, bytes]:
    fields = {"data__source": name, "data__hold_out": False, "data__validation_rows": 0}
    return tuning(recipe(**fields | changes), rows, name)


def adapter(**files: bytes) -> dict[str, bytes]:
    made = {"s.yaml": suite(models=SUITE["models"] | {"tuned": ADAPTER})}
    return made | {f"a/{name.replace('__', '.')}": content for name, content in files.items()}


def model(**files: bytes | None) -> dict[str, bytes]:
    """The embedded checkpoint as ``m`` with *files* replaced, or left out where None."""
    kept = {path.name: path.read_bytes() for path in CHECKPOINT.iterdir()}
    for name, content in files.items():
        name = name.replace("__", ".")
        kept.pop(name, None)
        if content is not None:
            kept[name] = content
    return {"s.yaml": base(pretrained="./m")} | {f"m/{n}": content for n, content in kept.items()}


def questions(rows: bytes, **changes: Any) -> dict[str, bytes]:
    files = {"mine": QUESTIONS | changes}
    return {"s.yaml": suite(tasks=["mine_letters"], question_files=files), "q.jsonl": rows}


def line(**row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


WEIGHTS = (CHECKPOINT / "model.safetensors").read_bytes()
CONFIG = (CHECKPOINT / "config.json").read_bytes()
PEFT = b'{"peft_type": "LORA", "r": 8}'
RUN = ["run", "--device", "cpu", "--suite", "s.yaml"]
MANIFEST = {"format": 2, "status": "done", "suite": {"name": "mine"}, "stages": {}, "kept": {}}
OLD = {"o/manifest.json": json.dumps(MANIFEST | {"format": 1}).encode(), "s.yaml": suite()}
NEWER = {"o/manifest.json": json.dumps(MANIFEST | {"format": 99}).encode()}

CASES: list[tuple[str, dict[str, bytes], list[str], list[str]]] = [
    # -- suite -----------------------------------------------------------------------------------
    ("suite is not there", {}, RUN, ["--suite s.yaml", "quickstart"]),
    ("suite is no YAML", {"s.yaml": b"name: [mine"}, RUN, ["s.yaml", "YAML", "line 1"]),
    ("suite is a list", {"s.yaml": b"- mine"}, RUN, ["s.yaml", "mapping", "list"]),
    ("suite is empty", {"s.yaml": b""}, RUN, ["s.yaml", "mapping"]),
    ("suite is not UTF-8", {"s.yaml": b"name: \xff\xfe"}, RUN, ["s.yaml", "utf-8"]),
    ("suite makes an object", {"s.yaml": b"name: !!python/object/apply:os.system [true]"}, RUN, ["s.yaml", "python/object"]),
    ("unknown key", {"s.yaml": suite(modles={})}, RUN, ["s.yaml", "modles", "models"]),
    ("unknown key deeper", {"s.yaml": base(pretrained="embedded:clinic", dtpye="auto")}, RUN, ["models.base.dtpye", "dtype"]),
    ("no models", {"s.yaml": suite(models={})}, RUN, ["s.yaml", "models"]),
    ("no tasks", {"s.yaml": suite(tasks=[])}, RUN, ["s.yaml", "tasks"]),
    ("no name", {"s.yaml": b"models: {b: {pretrained: x}}\ntasks: [clinic_text]"}, RUN, ["s.yaml", "name"]),
    ("name leads up", {"s.yaml": suite(name="../up")}, RUN, ["s.yaml", "name", "../up"]),
    ("model name leads up", {"s.yaml": suite(models={"../up": {"pretrained": "embedded:clinic"}})}, RUN, ["s.yaml", "../up"]),
    ("model name is a path", {"s.yaml": suite(models={"a/b": {"pretrained": "embedded:clinic"}})}, RUN, ["s.yaml", "a/b"]),
    ("unknown task", {"s.yaml": suite(tasks=["clinic_txt"])}, RUN, ["clinic_txt", "clinic_text"]),
    ("task leads up", {"s.yaml": suite(tasks=["../../etc/passwd"])}, RUN, ["../../etc/passwd"]),
    ("task twice", {"s.yaml": suite(tasks=["clinic_text", "clinic_text"])}, RUN, ["tasks", "twice"]),
    ("base of nobody", {"s.yaml": suite(models=SUITE["models"] | {"t": TUNED | {"base": "x"}})}, RUN, ["models.t.base", "'x'", "base"]),
    ("unknown dtype", {"s.yaml": base(pretrained="embedded:clinic", dtype="fp8")}, RUN, ["models.base.dtype", "bfloat16", "fp8"]),
    ("unknown back end", {"s.yaml": base(pretrained="x", backend="tensorrt")}, RUN, ["models.base", "back end", "vllm"]),
    ("key in the suite", {"s.yaml": base(backend="local-completions", args={"model": "m", "base_url": "http://h/v1", "api_key": "k"})}, RUN, ["args.api_key", "environment"]),
    ("limit below one", {"s.yaml": suite(limit=0)}, RUN, ["s.yaml", "limit", "0"]),
    ("limit is text", {"s.yaml": suite(limit="few")}, RUN, ["s.yaml", "limit", "'few'"]),
    ("latency of nobody", {"s.yaml": suite(latency={"models": ["x"]})}, RUN, ["latency.models", "'x'"]),
    ("unknown ONNX format", {"s.yaml": suite(latency={"models": ["base"], "formats": ["fp8"]})}, RUN, ["latency.formats", "fp16"]),
    # -- recipe ----------------------------------------------------------------------------------
    ("recipe is not there", {"s.yaml": suite(models=SUITE["models"] | {"tuned": TUNED})}, RUN, ["'r.yaml'", "clinic"]),
    ("recipe key missing", tuning(b"name: r"), RUN, ["r.yaml", "data"]),
    ("recipe key unknown", tuning(recipe(lr=1e-4)), RUN, ["r.yaml", "lr", "learning_rate"]),
    ("learning rate negative", tuning(recipe(learning_rate=-1)), RUN, ["r.yaml", "learning_rate", "-1"]),
    ("steps and epochs", tuning(recipe(epochs=1.0)), RUN, ["r.yaml", "'steps'", "'epochs'"]),
    ("batches do not divide", tuning(recipe(batch_size=8, micro_batch_size=3)), RUN, ["r.yaml", "batch_size 8", "3"]),
    ("unknown schedule", tuning(recipe(schedule="zigzag")), RUN, ["schedule", "zigzag", "cosine"]),
    ("unknown optimizer", tuning(recipe(optimizer="adamx")), RUN, ["optimizer", "adamx", "OptimizerNames"]),
    ("template without a column", tuning(recipe(prompt="{}")), RUN, ["prompt"]),
    ("template of broken braces", tuning(recipe(prompt="{Question")), RUN, ["prompt"]),
    ("rank of zero", tuning(recipe(adapter={**RECIPE["adapter"], "rank": 0})), RUN, ["r.yaml", "adapter"]),
    ("adapter of no kind", tuning(recipe(adapter={"kind": "dora2"})), RUN, ["r.yaml", "adapter", "lora"]),
    ("tuned on a test", tuning(recipe(data__source="pubmedqa")), RUN, ["data.source", "pubmedqa", "test set"]),
    # -- tuning rows -----------------------------------------------------------------------------
    ("rows are not there", tuning(recipe(data__source="gone.jsonl")), RUN, ["data.source", "gone.jsonl"]),
    ("rows are empty", on(b""), RUN, ["rows.jsonl"]),
    ("row is no JSON", on(line(Question="q", Response="a") + b"{"), RUN, ["rows.jsonl", "line 2", "JSON"]),
    ("row is a list", on(b"[1]\n"), RUN, ["rows.jsonl", "line 1", "list"]),
    ("row lacks a column", on(line(Question="q")), RUN, ["rows.jsonl", "row 0", "column"]),
    ("row is not UTF-8", on(b'{"Question": "\xff"}\n'), RUN, ["rows.jsonl", "UTF-8"]),
    ("column is not mapped from one", on(line(q="q"), data__columns={"Question": "nope"}), RUN, ["rows.jsonl", "row 0", "'nope'", "q"]),
    ("rows of a strange kind", on(b"x", name="rows.xml"), RUN, ["rows.xml", ".jsonl"]),
    ("rows of truncated Parquet", on(b"PAR1\0\0", name="rows.parquet"), RUN, ["rows.parquet", "Parquet"]),
    # -- questions of one's own ------------------------------------------------------------------
    ("questions are not there", {"s.yaml": suite(tasks=["mine_letters"], question_files={"mine": QUESTIONS})}, RUN, ["q.jsonl", "no such file"]),
    ("answer out of range", questions(line(q="?", x="1", y="2", a="E")), RUN, ["q.jsonl", "row 0", "2 options"]),
    ("question without text", questions(line(q="", x="1", y="2", a="A")), RUN, ["q.jsonl", "row 0"]),
    ("option is missing", questions(line(q="?", x="1", a="A")), RUN, ["q.jsonl", "'y'"]),
    ("questions are empty", questions(b""), RUN, ["q.jsonl"]),
    # -- model folder ----------------------------------------------------------------------------
    ("folder is not there", {"s.yaml": base(pretrained="./m")}, RUN, ["models.base", "./m/config.json"]),
    ("folder without config", model(config__json=None), RUN, ["models.base", "config.json"]),
    ("config is no JSON", model(config__json=b"{"), RUN, ["models.base", "config.json", "JSON"]),
    ("config is a list", model(config__json=b"[]"), RUN, ["models.base", "config.json", "object"]),
    ("weights are missing", model(model__safetensors=None), RUN, ["models.base", "m", "safetensors"]),
    ("weights are cut off", model(model__safetensors=WEIGHTS[:-8]), RUN, ["models.base", "model.safetensors", "damaged"]),
    ("weights are something else", model(model__safetensors=b"<html>no</html>"), RUN, ["models.base", "model.safetensors"]),
    ("header of a petabyte", model(model__safetensors=struct.pack("<Q", 1 << 50)), RUN, ["model.safetensors"]),
    ("weights are pickled", model(model__safetensors=None, pytorch_model__bin=b"x"), RUN, ["pytorch_model.bin", "pickle", "use_safetensors=False"]),
    ("tokenizer is missing", model(tokenizer__json=None, tokenizer_config__json=None), RUN, ["models.base", "tokenizer"]),
    ("code of its own", model(config__json=CONFIG.replace(b'"llama"', b'"evil"').replace(b"{", b'{"auto_map": {"AutoModelForCausalLM": "evil.M"},', 1)), RUN, ["models.base", "evil.M", "trust_remote_code: true"]),
    ("unknown embedded model", {"s.yaml": base(pretrained="embedded:hospital")}, RUN, ["embedded:hospital", "embedded:clinic"]),
    ("no Hub id either", {"s.yaml": base(pretrained="a/b/c d")}, RUN, ["models.base", "a/b/c d"]),
    # -- adapter ---------------------------------------------------------------------------------
    ("adapter is not there", adapter(), RUN, ["models.tuned.adapter", "a/adapter_config.json"]),
    ("adapter config is no JSON", adapter(adapter_config__json=b"no"), RUN, ["adapter_config.json", "JSON"]),
    ("adapter config is another's", adapter(adapter_config__json=b"{}"), RUN, ["adapter_config.json", "peft_type"]),
    ("adapter without weights", adapter(adapter_config__json=PEFT), RUN, ["models.tuned.adapter", "adapter_model"]),
    ("adapter is pickled", adapter(adapter_config__json=PEFT, adapter_model__bin=b"x"), RUN, ["adapter_model.bin", "pickle", "weights_only=True"]),
    ("adapter is cut off", adapter(adapter_config__json=PEFT, adapter_model__safetensors=WEIGHTS[:999]), RUN, ["adapter_model.safetensors"]),
    # -- command line ----------------------------------------------------------------------------
    ("unknown verb", {}, ["rnu"], ["rnu"]),
    ("unknown flag", {}, ["run", "--sute", "x"], ["--sute"]),
    ("flag without a value", {}, ["run", "--suite"], ["--suite"]),
    ("limit of zero", {}, ["run", "--limit", "0"], ["--limit"]),
    ("limit of text", {}, ["run", "--limit", "many"], ["--limit", "integer"]),
    ("unknown model", {}, ["run", "--models", "bse"], ["--models bse", "base"]),
    ("address of no server", {}, ["run", "--models", "tuned@http://"], ["--models", "NAME@http://HOST:PORT"]),
    ("password in an address", {}, ["run", "--models", "tuned@http://me:word@host"], ["--models", "no password"]),
    ("unknown device", {}, ["run", "--device", "tpu"], ["--device tpu", "cuda"]),
    ("override without a value", {}, ["run", "--set", "limit"], ["--set limit", "KEY=VALUE"]),
    ("override under a value", {}, ["run", "--set", "name.x=1"], ["--set name.x=1", "'name'"]),
    ("override of no YAML", {}, ["run", "--set", "limit=[1"], ["--set limit=[1", "YAML"]),
    ("data folder is not there", {}, ["run", "--data-dir", "gone"], ["--data-dir gone"]),
    ("out is a file", {"s.yaml": suite(), "o": b""}, [*RUN, "--out", "o"], ["--out o"]),
    ("out holds a thesis", {"s.yaml": suite(), "o/thesis.txt": b"x"}, [*RUN, "--out", "o", "--fresh"], ["--out o", "no run folder"]),
    ("out is of an older format", OLD, [*RUN, "--out", "o"], ["--out o", "format 1", "--fresh"]),
    ("out is of another suite", {"s.yaml": suite(name="yours"), "o/manifest.json": json.dumps(MANIFEST).encode()}, [*RUN, "--out", "o"], ["--out o", "'mine'", "'yours'"]),
    ("report of nothing", {}, ["report", "gone"], ["gone", "manifest.json"]),
    ("report of a newer format", NEWER, ["report", "o"], ["o/manifest.json", "format 99"]),
    ("report of a damaged manifest", {"o/manifest.json": b"{"}, ["report", "o"], ["o/manifest.json", "JSON"]),
    ("report of damaged samples", {"o/manifest.json": json.dumps(MANIFEST).encode(), "o/samples.parquet": b"PAR1"}, ["report", "o"], ["o/samples.parquet", "damaged"]),
    ("compare with nothing", {}, ["compare", "gone", "gone"], ["gone"]),
    ("gate of nothing", {}, ["gate", "gone"], ["gone"]),
    ("gate by broken rules", {"p.jsonl": b"", "g.yaml": b"{"}, ["gate", "p.jsonl", "--rules", "g.yaml"], ["g.yaml"]),
    ("import of nothing", {}, ["import", "gone", "--out", "o"], ["gone"]),
    ("import of a strange kind", {"p.xml": b"<x/>"}, ["import", "p.xml", "--out", "o"], ["p.xml"]),
    ("merge without a model", {}, ["merge", "--out", "o"], ["RUN"]),
    ("merge of nothing", {}, ["merge", "gone", "--out", "o"], ["gone"]),
    ("ask nothing", {}, ["ask", " "], ["empty"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "arguments", "parts"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)
def test_it_is_one_line_and_nothing_is_changed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, bytes],
    arguments: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_DIR, "")  # restored afterwards; --data-dir sets it
    monkeypatch.setattr("sys.argv", ["medbench", *arguments])
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    assert left.value.code == 2, said.err
    assert said.out == ""
    assert said.err.startswith("medbench: ")
    assert said.err.count("\n") == 1, said.err
    assert len(said.err) < 700, said.err
    for part in parts:
        assert part in said.err, said.err
    left_behind = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left_behind == set(files), "nothing is written"
    for name, content in files.items():
        assert (tmp_path / name).read_bytes() == content, "nothing is changed"
    shutil.rmtree(tmp_path)


def test_the_table_has_60_cases() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 60

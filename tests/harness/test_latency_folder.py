"""``medbench latency`` on folders: the embedded checkpoint and an export of it, really measured."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError
from medbench.harness.latency import LatencySettings
from medbench.harness.latency.folder import Asked, check, compared, formats_of, read_prompts
from medbench.harness.latency.settings import read_settings
from medbench.harness.suite import EMBEDDED

CLINIC = EMBEDDED["embedded:clinic"]
SMALL = [
    "--set", "prompt_tokens=[8]", "--set", "output_tokens=4", "--set", "warmup=1",
    "--set", "iterations=3", "--set", "memory=false",
]  # fmt: skip


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["latency", *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verb") / "clinic"
    code, _ = invoke("embedded:clinic", "--device", "cpu", "--out", str(out), *SMALL)
    assert code == 0
    return out


def test_a_checkpoint_is_exported_and_measured(measured: Path) -> None:
    result = json.loads((measured / "latency.json").read_text())

    assert (result["status"], result["model"], result["skipped"]) == ("done", "clinic", {})
    engines = [(row["engine"], row["format"], row["n"]) for row in result["latency"]]
    assert engines == [("onnxruntime", "fp32", 3), ("torch", "fp32", 3)]
    assert result["exports"]["fp32"]["precision"] == "fp32"
    assert result["environment"]["device"] == "cpu"
    assert result["peaks"]["bandwidth"]
    assert len(pd.read_parquet(measured / "timings.parquet")) == 2 * 4
    assert (measured / "exports/clinic-fp32/export.json").is_file()


def test_an_export_is_measured_as_it_is_and_compared(measured: Path, tmp_path: Path) -> None:
    folder, out = measured / "exports/clinic-fp32", tmp_path / "again"

    code, _ = invoke(
        str(folder), "--device", "cpu", "--out", str(out), "--against", str(measured), *SMALL
    )

    assert code == 0
    result = json.loads((out / "latency.json").read_text())
    assert [(row["engine"], row["format"]) for row in result["latency"]] == [
        ("onnxruntime", "fp32")
    ]
    assert result["exports"] == {}
    assert not (out / "exports").exists()
    assert [one["figure"] for one in compared(out, measured)] == ["ttft", "tpot"]


def asked(folder: Path, out: Path, device: str = "cpu") -> Asked:
    return Asked(folder, "model", out, device, ("fp32",), None, LatencySettings())


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither config\.json nor genai_config\.json there"):
        check(asked(tmp_path, tmp_path / "out"))


def test_an_export_for_another_device_is_refused(measured: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exported for cpu, to be measured on cuda"):
        check(asked(measured / "exports/clinic-fp32", tmp_path / "out", "cuda"))


def test_another_folder_is_not_written_to(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something that `medbench latency` did not write"):
        check(asked(CLINIC, tmp_path))
    assert check(asked(CLINIC, measured)).formats == ("fp32",)


def test_what_cannot_be_measured_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for settings, file in (({"cuda_graph": True}, None), ({}, tmp_path / "none.txt")):
        wrong = Asked(
            CLINIC, "clinic", tmp_path / "out", "cpu", ("fp32",), file,
            LatencySettings.model_validate(settings),
        )  # fmt: skip
        with pytest.raises(InputError, match=r"cuda_graph: needs device cuda|none\.txt: cannot be"):
            check(wrong)
    assert not list(tmp_path.iterdir())


def test_formats_are_resolved() -> None:
    assert formats_of("auto", "cpu") == ("fp32",)
    assert formats_of("auto", "cuda") == ("fp16",)
    assert formats_of("all", "cuda") == ("fp16", "bf16", "int4")
    assert formats_of("int4,auto,int4", "cpu") == ("int4", "fp32")
    with pytest.raises(InputError, match="--formats fp16: 'fp16' does not run on cpu; expected"):
        formats_of("fp16", "cpu")


def test_settings_are_checked() -> None:
    options = 'session_options={ep.cuda.fpa_intb_gemm: "1"}'
    found = read_settings(["prompt_tokens=[1, 2]", "cuda_graph=true", options], "torch, vllm")
    assert found.session_options == {"ep.cuda.fpa_intb_gemm": "1"}
    assert (found.prompt_tokens, found.cuda_graph) == ([1, 2], True)
    assert found.engines == ["torch", "vllm"]
    with pytest.raises(InputError, match="--set: repeats: unknown key; expected one of: batch"):
        read_settings(["repeats=3"], "torch")
    with pytest.raises(InputError, match="--set threads: expected KEY=VALUE"):
        read_settings(["threads"], "torch")
    with pytest.raises(InputError, match="engines"):
        read_settings([], "llama.cpp")


def test_prompts_come_from_a_file(tmp_path: Path) -> None:
    lines, table, empty = (tmp_path / name for name in ("p.txt", "p.jsonl", "e.txt"))
    lines.write_text("one\n\n two\n")
    table.write_text('{"prompt": "three\\nfour"}\n{"other": 1}\n')
    empty.write_text("\n")

    assert read_prompts(lines) == ["one", " two"]
    assert read_prompts(table) == ["three\nfour"]
    assert all(text.endswith("Answer:") for text in read_prompts(None))
    with pytest.raises(InputError, match=r"e\.txt: no prompts there; expected one a line"):
        read_prompts(empty)
    with pytest.raises(InputError, match=r"none\.txt: cannot be read as text"):
        read_prompts(tmp_path / "none.txt")

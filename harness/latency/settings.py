"""What is measured, and the columns of the table that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import InputError
from ..config import explain

COLUMNS = (
    "model",
    "engine",
    "format",
    "provider",
    "batch",
    "prompt_tokens",
    "output_tokens",
    "iteration",
    "warmup",
    "ttft_s",
    "token_s",
    "e2e_s",
    "threads",
    "load_1m",
    "clock_mhz",
    "hardware",
    "peak_bytes",
    "ttft_floor_s",
    "token_floor_s",
)
"""Columns of the timings table, in order; :func:`.measure.measure` says what they hold."""

SERIES = ("model", "engine", "format", "provider", "batch", "prompt_tokens", "output_tokens")
"""The columns that say what was asked of what: one series of requests for each value of them."""

ENGINES = ("onnxruntime", "torch", "torch-compiled", "vllm")

_Count = Annotated[int, Field(ge=1)]
_Counts = Annotated[list[_Count], Field(min_length=1)]
_Length = Annotated[int, Field(ge=2)]


class LatencySettings(BaseModel):
    """What to measure: every prompt length with every output length and every batch size.

    The defaults of *warmup* and *iterations* are those of ``vllm bench latency``.

    Attributes:
        prompt_tokens: Prompt lengths, exact: prompts are joined and cut to them.
        output_tokens: Tokens of every request, end tokens included; one number or several.
        batch: Requests at once, all of one length.
        warmup: Requests before the counted ones, for each engine and shape; kept, never counted.
        iterations: Counted requests at least, for each engine and shape.
        min_seconds: Time that the counted requests of each series take together, at least.
        threads: Of torch and of ONNX Runtime's operators.
        cores: Run on these cores alone (Linux); wherever the system likes when None.
        engines: What runs the model, in turn: ``onnxruntime`` in every exported format, ``torch``
            as transformers runs it, ``torch-compiled`` with a static cache, ``vllm``.
        cuda_graph: Let ONNX Runtime replay its steps as a CUDA graph; when None, on CUDA.
        session_options: ONNX Runtime's session configuration entries by name, such as
            ``{ep.cuda.fpa_intb_gemm: "1"}``.
        memory: Load every engine once more, alone, and record the most memory it takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: _Counts = [128]
    output_tokens: _Length | Annotated[list[_Length], Field(min_length=1)] = 128
    batch: _Counts = [1]
    warmup: Annotated[int, Field(ge=0)] = 10
    iterations: _Count = 30
    min_seconds: Annotated[float, Field(ge=0)] = 0.0
    threads: _Count = 1
    cores: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    engines: Annotated[
        list[Literal["onnxruntime", "torch", "torch-compiled", "vllm"]], Field(min_length=1)
    ] = ["onnxruntime", "torch"]
    cuda_graph: bool | None = None
    session_options: dict[str, str] = {}
    memory: bool = True

    @property
    def output_lengths(self) -> list[int]:
        """*output_tokens* as a list."""
        given = self.output_tokens
        return [given] if isinstance(given, int) else given

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Every (batch, prompt tokens, output tokens) that is measured, in order."""
        return [
            (batch, prompt, output)
            for batch in self.batch
            for prompt in self.prompt_tokens
            for output in self.output_lengths
        ]

    @property
    def longest(self) -> int:
        """Positions that the longest request takes."""
        return max(self.prompt_tokens) + max(self.output_lengths)


def read_settings(overrides: list[str], engines: str) -> LatencySettings:
    """Settings from ``KEY=VALUE`` with YAML values and comma-separated engines.

    Raises:
        InputError: A key is unknown or a value does not fit.
    """
    raw: dict[str, Any] = {"engines": [name.strip() for name in engines.split(",")]}
    for override in overrides:
        key, equals, text = override.partition("=")
        try:
            raw[key] = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError):
            equals = ""
        if not equals:
            raise InputError(
                f"--set {override}: expected KEY=VALUE with a YAML value, e.g. --set threads=2"
            )
    try:
        return LatencySettings.model_validate(raw)
    except ValidationError as error:
        raise InputError(explain("--set", error, LatencySettings)) from None


class LatencyJob(BaseModel):
    """One model to measure.

    Attributes:
        model: Its name in the table.
        model_dir: The merged checkpoint with its tokenizer, run by torch and vLLM; for ONNX alone
            a folder with the tokenizer.
        onnx: Exports of it by format, such as ``{"fp32": …, "int4": …}``.
        prompts: Real prompts, as texts or as token ids. A request takes as many of them, one after
            another, as its prompt length needs; each iteration and row starts at another one.
        settings: What to measure.
        device: Where all engines run: ``cpu``, ``cuda`` or ``cuda:N``.
        trust_remote_code: Run model code that the checkpoint ships.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_dir: Path
    onnx: dict[str, Path]
    prompts: Annotated[list[str], Field(min_length=1)] | list[list[int]]
    settings: LatencySettings
    device: str = "cpu"
    trust_remote_code: bool = False

    @property
    def provider(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.device.partition(":")[0]

    @property
    def wanted(self) -> list[tuple[str, str]]:
        """(engine, format) of all that is to run; torch's format is known when it is loaded."""
        return [
            (engine, kind)
            for engine in self.settings.engines
            for kind in (self.onnx if engine == "onnxruntime" else [""])
        ]

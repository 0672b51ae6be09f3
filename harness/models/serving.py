"""Serves a tuned model behind the OpenAI format, by an engine that exists; and names such models.

vLLM serves the base with the adapter on it, where it is installed and there is a GPU; elsewhere the
server of transformers serves the merged model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ...errors import InputError
from ..naming import NAME
from ..suite import ModelSpec, Suite
from ..tuned import Tuned

Engine = Literal["auto", "vllm", "transformers"]

SERVED = "-served"
"""What is put behind the name of a model that is asked where it is served."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def choose(engine: Engine, device: str) -> Literal["vllm", "transformers"]:
    """The engine for *device*, ``cpu`` or ``cuda``.

    Raises:
        InputError: It is not installed.
    """
    if engine == "auto":
        engine = "vllm" if device == "cuda" and find_spec("vllm") else "transformers"
    needed = ["vllm"] if engine == "vllm" else ["fastapi", "openai", "uvicorn"]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        package = "vllm" if engine == "vllm" else "'transformers[serving]'"
        raise InputError(
            f"--engine {engine} needs {', '.join(missing)}, which is not installed; "
            f"pip install {package}"
        )
    return engine


def vllm_command(tuned: Tuned, at: Address) -> list[str]:
    """The command that serves *tuned* by vLLM, under the name that it has in its run."""
    from .backends import lora_rank

    base = tuned.base
    command = ["vllm", "serve", base.source, "--host", at.host, "--port", str(at.port)]
    command += ["--enable-lora", "--max-lora-rank", str(lora_rank(tuned.adapter))]
    command += ["--lora-modules", f"{tuned.name}={tuned.adapter}"]
    command += ["--revision", base.revision] if base.revision else []
    command += ["--dtype", base.dtype] if base.dtype != "auto" else []
    return command + (["--trust-remote-code"] if base.trust_remote_code else [])


def transformers_command(tuned: Tuned, at: Address, device: str) -> list[str]:
    """The command that serves the merged model by transformers, from the folder that holds it."""
    command = ["transformers", "serve", tuned.name, "--host", at.host, "--port", str(at.port)]
    command += ["--device", device]
    return command + (["--trust-remote-code"] if tuned.base.trust_remote_code else [])


def merged(tuned: Tuned, into: Path) -> Path:
    """The folder in which the merged model lies under its own name: the run's, or made *into*."""
    from ...finetune.merge import merge_adapter

    folder = tuned.run / "merged"
    record = tuned.run.manifest().get("stages", {}).get(f"merge/{tuned.name}", {})
    if record.get("status") == "done" and (folder / tuned.name / "config.json").is_file():
        return folder
    merge_adapter(tuned.base, tuned.adapter, into / tuned.name)
    return into


def with_endpoints(suite: Suite, models: str | None) -> tuple[Suite, str | None]:
    """*suite* with a model for each ``NAME@http://…`` in ``--models``, and what they are called.

    ``tuned@http://localhost:8000`` is asked by the name ``tuned`` at that address, as text without
    a chat template, and is called ``tuned-served``.

    Raises:
        InputError: An address is none.
    """
    found, names = dict(suite.models), []
    for name in (models or "").split(","):
        model, at, url = name.strip().partition("@")
        if not at or not url.startswith("http"):
            names.append(name)
            continue
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or not model:
            raise InputError(
                f"--models {models}: {name.strip()!r}: expected NAME@http://HOST:PORT, e.g. "
                "tuned@http://localhost:8000"
            )
        if not re.fullmatch(NAME, model + SERVED):
            raise InputError(
                f"--models: {model}@…: expected a name of letters, digits and . _ -, as it is a "
                "folder's too; for a model that its server calls otherwise, write backend and args "
                "into the suite"
            )
        if parts.username or parts.query:
            raise InputError(f"--models: {model}@…: no password and no query in an address")
        path = parts.path.rstrip("/") or "/v1/completions"
        spec = {
            "model": model,
            "base_url": f"{parts.scheme}://{parts.netloc}{path}",
            "tokenizer_backend": None,
            "tokenized_requests": False,
            "eos_string": _end_of_text(suite, model),
        }
        found[model + SERVED] = ModelSpec(backend="local-completions", args=spec)
        names.append(model + SERVED)
    return suite.model_copy(update={"models": found}), models and ",".join(names)


def _end_of_text(suite: Suite, name: str) -> str | None:
    """The token that ends a text of model *name*, sent as a stop by lm-eval; None if unknown."""
    spec = suite.models.get(name)
    base = suite.models[spec.base] if spec and spec.base else spec
    if base is None or base.pretrained is None:
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.source, revision=base.revision)
    except (OSError, ValueError):  # what is wrong with it is said where it is loaded
        return None
    return str(tokenizer.eos_token) if tokenizer.eos_token else None


def said(tuned: Tuned, at: Address) -> str:
    """How to ask what is served, as JSON for curl."""
    body = json.dumps({"model": tuned.name, "prompt": "…", "max_tokens": 64, "temperature": 0})
    return f"curl {at.url}/v1/completions -H 'Content-Type: application/json' -d '{body}'"

"""What a model of a suite can run on: lm-eval's back ends, what each can do, how each is built.

The table and the checks load nothing, so that a plan is refused before anything is loaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import InputError, StageError
from ..secrets import redact, secrets

if TYPE_CHECKING:
    from ..suite import ModelSpec

HTTP = ("aiohttp", "requests", "tenacity")
"""What lm-eval's clients of HTTP endpoints import; the extra ``medbench[api]``."""

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for ``max_lora_rank`` (vllm.config.lora)."""


@dataclass(frozen=True)
class Backend:
    """What a back end can be asked.

    Attributes:
        name: As lm-eval's registry has it, or ``medbench``.
        likelihoods: It says how likely a given text is.
        generates: It writes text.
        chat: It takes messages and applies the model's chat template itself.
        remote: The weights are behind a URL; the model is named by ``args.model``.
        torch: transformers loads the weights in this process, so adapters, quantisation, merging
            and export apply.
        lora: An adapter can be put on it.
        packages: What must be installed.
        key: The environment variable without which its client does not start.
    """

    name: str
    likelihoods: bool = True
    generates: bool = True
    chat: bool = False
    remote: bool = False
    torch: bool = False
    lora: bool = False
    packages: tuple[str, ...] = ()
    key: str | None = None

    @property
    def openai(self) -> bool:
        """Whether it speaks the OpenAI format through lm-eval's own client."""
        return self.name.startswith(("local-", "openai-"))

    def can(self, generate: bool) -> bool:
        """Whether it can be asked for text, or else for log-likelihoods."""
        return self.generates if generate else self.likelihoods


def _chat(name: str, key: str | None = None, packages: tuple[str, ...] = HTTP) -> Backend:
    return Backend(name, likelihoods=False, chat=True, remote=True, packages=packages, key=key)


KNOWN = {
    backend.name: backend
    for backend in (
        Backend("medbench", torch=True, lora=True),
        Backend("hf", torch=True, lora=True),
        Backend("vllm", lora=True, packages=("vllm",)),
        Backend("sglang", packages=("sglang",)),
        Backend("onnxruntime", generates=False, packages=("onnxruntime",)),
        Backend("onnxruntime-genai", packages=("onnxruntime_genai",)),
        Backend("local-completions", remote=True, packages=HTTP),
        _chat("local-chat-completions"),
        _chat("openai-chat-completions", "OPENAI_API_KEY"),
        # OpenAI gives log-probabilities of a prompt for two models of 2023 only.
        Backend(
            "openai-completions",
            likelihoods=False,
            remote=True,
            packages=(*HTTP, "tiktoken"),
            key="OPENAI_API_KEY",
        ),
        _chat("anthropic-chat", "ANTHROPIC_API_KEY"),
        _chat("litellm", packages=(*HTTP, "litellm")),
    )
}
"""The back ends whose abilities are known here. lm-eval's others are taken at their word."""


def find(name: str) -> Backend:
    """The back end called *name*.

    Raises:
        ValueError: Neither medbench nor lm-eval has it.
    """
    if name in KNOWN:
        return KNOWN[name]
    from lm_eval.models import MODEL_MAPPING

    if name not in MODEL_MAPPING:
        raise ValueError(
            f"no such back end; expected one of: {', '.join(KNOWN)}, or another name of lm-eval's"
        )
    return Backend(name)


# -- what is checked before anything runs --------------------------------------------------------

_SECRET = re.compile(
    r"(.*_)?(key|token|secret|password|auth|authorization|headers?|credentials?|cookies?)", re.I
)
_TEXT_TOKEN = re.compile(r"(bos|eos|pad|unk|mask|think_start|think_end)_token")
"""lm-eval's settings that are tokens of a text, not of a login."""


def secret_in(args: Mapping[str, Any]) -> str | None:
    """The first key of *args* that holds a secret, or None.

    Secrets are what is called so (``api_key``, ``header``, …), a password or query in a URL, and
    any text that holds the value of an environment variable called so.
    """
    known = secrets()
    for key, value in _leaves(args):
        names = key.split(".")
        if any(_SECRET.fullmatch(name) and not _TEXT_TOKEN.fullmatch(name) for name in names):
            return key
        if not isinstance(value, str):
            continue
        if any(secret in value for secret in known):
            return key
        if names[-1].endswith("url") and (urlsplit(value).username or urlsplit(value).query):
            return key
    return None


def _leaves(args: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in args.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_spec(spec: ModelSpec) -> None:
    """Check what a base model of a suite says of its back end.

    Raises:
        ValueError: Something is missing, does not belong there or is a secret.
    """
    backend = find(spec.backend)
    if key := secret_in(spec.args):
        raise ValueError(
            f"args.{key} is, or holds, a secret; keys are read from the environment only: "
            "OPENAI_API_KEY, or the variable that 'key_env' names"
        )
    if not backend.remote:
        if spec.key_env:
            raise ValueError(f"key_env: {backend.name} sends no key; leave it out")
        if not backend.torch and spec.quantization != "none":
            raise ValueError(
                f"quantization: only medbench and hf quantise on loading; for {backend.name} "
                "give its own argument under args"
            )
        return
    extra = spec.model_fields_set & {"pretrained", "revision", "dtype", "quantization"}
    if extra:
        raise ValueError(
            f"{sorted(extra)[0]}: an endpoint's weights are not loaded here; "
            "name the model as args.model"
        )
    if not spec.args.get("model"):
        raise ValueError("args.model is missing; expected the name that the endpoint knows it by")
    url = spec.args.get("base_url")
    if url is None and backend.name.startswith("local-"):
        raise ValueError(
            "args.base_url is missing; expected e.g. http://localhost:8000/v1/chat/completions"
        )
    if url is not None and urlsplit(str(url)).scheme not in {"http", "https"}:
        raise ValueError(f"args.base_url {url!r}: expected a whole http:// or https:// URL")


def check_ready(where: str, spec: ModelSpec) -> None:
    """Check that this machine has what a base model's back end needs.

    Args:
        where: How the suite names it, e.g. ``models.fast``.
        spec: The model.

    Raises:
        InputError: A package or a key is missing.
    """
    backend = find(spec.backend)
    missing = [package for package in backend.packages if find_spec(package) is None]
    if missing:
        extra = "'medbench[api]'" if set(missing) <= set(HTTP) else " ".join(missing)
        raise InputError(
            f"{where}: back end {backend.name} needs {', '.join(missing)}, which is not installed; "
            f"pip install {extra}"
        )
    key = spec.key_env or backend.key
    if key and not os.environ.get(key):
        raise InputError(f"{where}: {key} is not set; put the endpoint's key into that variable")


# -- how it is built -----------------------------------------------------------------------------


def arguments(spec: ModelSpec, adapter: Path | None = None) -> dict[str, Any]:
    """What lm-eval's class gets for a model whose weights are not loaded by medbench.

    Args:
        spec: A base model.
        adapter: Folder of a PEFT adapter to put on it, where the back end takes one.

    Raises:
        StageError: vLLM takes no adapter of that rank.
    """
    found: dict[str, Any] = dict(spec.args)
    if spec.key_env:
        found["header"] = {"Authorization": f"Bearer {os.environ[spec.key_env]}"}
    if not find(spec.backend).remote:
        found["pretrained"] = spec.source
        given = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code or None}
        given["dtype"] = None if spec.dtype == "auto" else spec.dtype
        found |= {key: value for key, value in given.items() if value is not None}
    if adapter is not None:
        found |= {"lora_local_path": str(adapter), "max_lora_rank": lora_rank(adapter)}
    return found


def build(spec: ModelSpec, adapter: Path | None = None) -> Any:
    """lm-eval's model of a back end that loads, or reaches, weights of its own.

    Raises:
        StageError: It does not take these arguments, or does not start.
    """
    try:
        lm = lm_class(spec.backend)(**arguments(spec, adapter))
    except (TypeError, OSError, ValueError, ImportError) as error:
        raise StageError(
            f"back end {spec.backend} does not start: {redact(str(error))}. Check args "
            f"({', '.join(spec.args) or 'none'}) against lm-eval's class of that name"
        ) from None
    if spec.backend == "onnxruntime":
        _know_head_size(lm)
    return lm


def _know_head_size(lm: Any) -> None:
    """Tell lm-eval's *lm* how wide a key is.

    The Model Builder (onnxruntime-genai 0.18) leaves that size a name, ``kv_cache_dim``, in the
    graph. lm-eval 0.4.13 takes a name that it does not know for 1, and the first request fails.
    """
    width = lm._genai_config.get("model", {}).get("decoder", {}).get("head_size")
    known = lm._resolve_dim
    if width is not None:
        lm._resolve_dim = lambda dim, length: width if dim == "kv_cache_dim" else known(dim, length)


def lm_class(backend: str) -> Any:
    """lm-eval's class of a back end."""
    from lm_eval.api.registry import get_model

    return get_model(backend)


def lora_rank(adapter: Path) -> int:
    """The smallest rank that vLLM can make room for and that holds every layer of *adapter*."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    room = [allowed for allowed in LORA_RANKS if allowed >= rank]
    if not room:
        raise StageError(
            f"adapter {adapter}: rank {rank}; vLLM takes at most {LORA_RANKS[-1]}, "
            "score it with backend medbench"
        )
    return room[0]

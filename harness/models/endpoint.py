"""Models behind a URL: what a reply says of itself, and what went wrong on the way.

lm-eval's clients ask, retry and time out. Added here: the server's own count of tokens and reason
for stopping, errors that name the URL, and that no key reaches a log.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import MedbenchError, StageError
from ..progress import Tick, bars_of
from ..secrets import redact
from ..suite import ModelSpec
from . import backends

if TYPE_CHECKING:
    from ..folder.journal import Journal


class Reply(str):
    """Generated text, with what the server said of it.

    Attributes:
        tokens: Its length as the server counted it, or None where it did not say.
        truncated: The server stopped at the token limit.
    """

    __slots__ = ("tokens", "truncated")
    tokens: int | None
    truncated: bool


@contextlib.contextmanager
def connected(where: str, spec: ModelSpec) -> Iterator[Any]:
    """Yield lm-eval's client of an endpoint; what goes wrong is told in one sentence.

    Args:
        where: How the suite names the model, e.g. ``models.chat``.
        spec: The model.

    Raises:
        StageError: The endpoint could not be reached, took too long or refused.
    """
    with _explained(where, spec.args.get("base_url")):
        lm = backends.build(spec)
        _hide_secrets(lm)
        if backends.find(spec.backend).openai:
            _return_replies(lm)
        yield lm


def complete(
    where: str,
    spec: ModelSpec,
    chats: list[list[dict[str, str]]],
    limit: int,
    journal: Journal,
    tick: Tick,
) -> list[str]:
    """A chat model's reply to each of *chats*, at temperature 0.

    Args:
        where: How the suite names the model.
        spec: A model on a chat back end.
        chats: Messages with ``role`` and ``content``.
        limit: The most tokens of a reply.
        journal: Of these chats with this model; what it knows is not asked again.
        tick: Hears of replies.

    Raises:
        StageError: As :func:`connected`.
    """
    from lm_eval.api.instance import Instance

    from .answered import answered

    if not chats:
        return []
    settings = {"until": [], "do_sample": False, "temperature": 0, "max_gen_toks": limit}
    with (
        connected(where, spec) as lm,
        answered(lm, journal, tick, remote=True) as known,
        bars_of(lm, known.tick),
    ):
        asked = [
            Instance(
                request_type="generate_until",
                doc={},
                arguments=(lm.apply_chat_template(chat), dict(settings)),
                idx=0,
            )
            for chat in chats
        ]
        return list(lm.generate_until(asked))


def _return_replies(lm: Any) -> None:
    parse = lm.parse_generations

    def replies(outputs: Any, **options: Any) -> list[Reply]:
        bodies = outputs if isinstance(outputs, list) else [outputs]
        for body in bodies:
            if not (isinstance(body, dict) and body.get("choices")):
                raise StageError(
                    f"{_address(lm.base_url)} answered without 'choices': "
                    f"{redact(str(body))[:300]}; expected the OpenAI format"
                )
        about = [one for body in bodies for one in _about(body)]
        texts = parse(outputs=outputs, **options)
        return [reply(text, *one) for text, one in zip(texts, about, strict=True)]

    lm.parse_generations = replies


def _about(body: dict[str, Any]) -> list[tuple[int | None, bool]]:
    """(tokens, truncated) of each choice of a response, in the order of their index."""
    choices = sorted(body["choices"], key=lambda choice: int(choice.get("index", 0)))
    usage = (body.get("usage") or {}).get("completion_tokens")
    tokens = usage if len(choices) == 1 and isinstance(usage, int) else None
    return [(tokens, choice.get("finish_reason") == "length") for choice in choices]


def reply(text: str | None, tokens: int | None, truncated: bool) -> Reply:
    """A :class:`Reply`; a model that spent its tokens on thinking has no text: None."""
    made = Reply(text or "")
    made.tokens, made.truncated = tokens, truncated
    return made


@contextlib.contextmanager
def _explained(where: str, url: str | None) -> Iterator[None]:
    import aiohttp
    import requests

    try:
        yield
    except (requests.RequestException, aiohttp.ClientError, TimeoutError) as error:
        raise StageError(
            f"{where}: {_address(url)} {_trouble(error)}. What it answered is kept: mend it and "
            "give the same command again"
        ) from None
    except MedbenchError:
        raise
    except Exception as error:
        if redact(str(error)) == str(error):
            raise
        raise StageError(f"{where}: {type(error).__name__}: {redact(str(error))}") from None


def _trouble(error: BaseException) -> str:
    import requests

    response = getattr(error, "response", None)
    status = response.status_code if response is not None else getattr(error, "status", None)
    if status in {401, 403}:
        return f"refused the key (HTTP {status}); set OPENAI_API_KEY, or the variable of key_env"
    if status:
        said = redact(response.text)[:200] if response is not None else ""
        return f"answered HTTP {status}" + (f": {' '.join(said.split())}" if said else "")
    if isinstance(error, TimeoutError | requests.Timeout):
        return "did not answer in time; raise args.timeout (seconds)"
    return f"cannot be reached ({type(error).__name__}); is the server up?"


def _address(url: str | None) -> str:
    """*url* without what may be secret in it."""
    if not url:
        return "the endpoint"
    found = urlsplit(url)
    return f"{found.scheme}://{found.netloc.rpartition('@')[2]}{found.path}"


class _Hide(logging.Filter):
    """Takes secrets out of a record: aiohttp's errors show their request's headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        return True


_HIDE = _Hide()


def _hide_secrets(lm: Any) -> None:
    names = [kind.__module__ for kind in type(lm).__mro__ if kind.__module__ in sys.modules]
    for name in {*names, "asyncio"}:
        logging.getLogger(name).addFilter(_HIDE)  # a filter that is there already is not added

"""Whether what a plan needs from the Hugging Face Hub is there, before the first stage starts.

Where the Hub cannot be reached, what lies in its cache does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError
from ...finetune.recipe import HUB
from ...tasks import sources
from ..models.backends import find
from ..secrets import redact
from ..suite import ModelSpec
from .plan import Plan
from .weights import CONVERT_MODEL, refuse_pickle

TIMEOUT = 10.0
"""Seconds that the Hub has for an answer."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the Hub, as datasets.load_dataset names it."""

    name: str
    config: str | None
    split: str | None
    revision: str | None


def check_hub(plan: Plan) -> list[str]:
    """Check the models and data sets that *plan* takes from the Hub.

    Returns:
        What a user must know: which of them come from the cache, because the Hub is out of reach.

    Raises:
        InputError: One of them is not there, not for this user, pickled, or neither to be had from
            the Hub nor in its cache.
    """
    models = dict(_models(plan))
    data = dict(_data(plan))
    if not models and not data:
        return []
    notes = []
    for where, spec in models.items():
        if why := _look_up_model(where, spec):
            _check_cached_model(where, spec, why)
            notes.append(f"{where}: {spec.source} comes from the cache; {why}")
    for where, one in data.items():
        if why := _look_up_data(where, one):
            _check_cached_data(where, one, why)
            notes.append(f"{where}: {one.name} comes from the cache; {why}")
    return notes


def _models(plan: Plan) -> Iterator[tuple[str, ModelSpec]]:
    """Models whose weights lie on the Hub, by how the suite names them."""
    judge = plan.suite.judge
    named = [(f"models.{name}", plan.spec(name)) for name in map(plan.base_of, plan.models)]
    named += [("judge.model", judge.model)] if judge and plan.judged() else []
    for where, spec in named:
        if spec.pretrained and not find(spec.backend).remote and not Path(spec.source).exists():
            yield where, spec


def _data(plan: Plan) -> Iterator[tuple[str, DataSet]]:
    """Data sets of the Hub, by how the suite or a recipe names them."""
    for task in plan.tasks:
        yield from _published(f"task {task.name}", task.data)
    for recipe in plan.recipes.values():
        data, where = recipe.data, f"recipe {recipe.name!r}, data.source"
        yield from _published(where, data.source)
        if data.source.startswith(HUB):
            name = data.source.removeprefix(HUB)
            yield where, DataSet(name, data.config, data.split or "train", data.revision)


def _published(where: str, name: str) -> Iterator[tuple[str, DataSet]]:
    source = sources.SOURCES.get(name)
    if source and source.hub and not sources.local_file(name):
        yield where, DataSet(source.hub, source.config, source.split, source.revision)


def _look_up_model(where: str, spec: ModelSpec) -> str | None:
    """None when the Hub has it, else why the Hub cannot be asked."""
    info = _look_up("model", where, spec.source, spec.revision)
    if isinstance(info, str):
        return info
    files = [sibling.rfilename for sibling in info.siblings or []]
    top = [file for file in files if "/" not in file and file.startswith(("model", "pytorch_mod"))]
    refuse_pickle(where, spec.source, top, CONVERT_MODEL)
    return None


def _look_up_data(where: str, one: DataSet) -> str | None:
    info = _look_up("dataset", where, one.name, one.revision)
    return info if isinstance(info, str) else None


def _look_up(kind: Literal["model", "dataset"], where: str, name: str, revision: str | None) -> Any:
    """What the Hub says of a repository; a text, why, where it cannot be asked.

    Raises:
        InputError: It is not there, or not for this user.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    model = kind == "model"
    what, here = ("model", "no such folder here and ") if model else ("data set", "")
    try:
        info = api.repo_info(name, revision=revision, repo_type=kind, timeout=TIMEOUT)
        if info.gated:
            api.auth_check(name, repo_type=kind)
    except HFValidationError:
        key, folder = (".pretrained", " or the folder of a checkpoint") if model else ("", "")
        raise InputError(
            f"{where}{key}: the Hub allows no {what} the name {name!r}; expected OWNER/NAME{folder}"
        ) from None
    except GatedRepoError:
        raise InputError(
            f"{where}: the {what} {name} is gated; accept its terms on its page and set HF_TOKEN, "
            "or log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise InputError(
            f"{where}: the {what} {name} has no revision {revision!r}; name one of its branches, "
            "tags or commits"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{where}: {name}: {here}no such {what} on the Hub (a private one needs HF_TOKEN or "
            "`hf auth login`)"
        ) from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        words = redact(" ".join(str(error).split()))[:160]
        return f"the Hub cannot be reached ({type(error).__name__}: {words})"
    return info


def _check_cached_model(where: str, spec: ModelSpec, why: str) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(spec.source, revision=spec.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = Path()
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise InputError(
            f"{where}: {spec.source} is not in the cache, and {why}; fetch it on a machine with "
            f"network (`hf download {spec.source}`) or name a local folder"
        )


def _check_cached_data(where: str, one: DataSet, why: str) -> None:
    from datasets import load_dataset
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True  # else it asks the Hub again and again, for half a minute
    try:
        load_dataset(one.name, one.config, split=one.split, revision=one.revision)
    except Exception:  # whatever the Hub's client raises
        raise InputError(
            f"{where}: the data set {one.name} is not in the cache, and {why}; fetch it on a "
            "machine with network, or give local files by --data-dir"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = before

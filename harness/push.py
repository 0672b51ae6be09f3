"""A tuned model to the Hugging Face Hub: which files, staged in a folder, uploaded in one commit.

Only files of the lists below ever leave: weights, configs, tokenizer, recipe, losses, card. The
token comes from the environment or the Hub's login, is read by the Hub's client, and is written
nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, StageError
from ..finetune.recipe import HUB
from .tuned import Tuned, public_name

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "recipe.yaml", "losses.csv")
MERGED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "medbench-merge.json",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Parcel:
    """What is to be uploaded: *what* of *tuned* to *repo*, with *card* as its README.md."""

    tuned: Tuned
    what: str
    repo: str
    card: str


def check_repo(repo: str) -> None:
    """Raise InputError where *repo* is no ``OWNER/NAME``."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"--to {repo}: {str(error).splitlines()[0]}") from None
    if "/" not in repo:
        raise InputError(f"--to {repo}: expected OWNER/NAME")


def merged_folder(tuned: Tuned) -> Path:
    """Where the merged checkpoint of *tuned* lies.

    Raises:
        InputError: It was not merged yet.
    """
    folder = tuned.run / f"merged/{tuned.name}"
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: no merged checkpoint there; make it with `medbench merge "
            f"{tuned.run.path}:{tuned.name} --out {folder}`"
        )
    return folder


@contextlib.contextmanager
def staged(parcel: Parcel) -> Iterator[Path]:
    """A temporary folder that holds just what is uploaded; gone when the block ends.

    Raises:
        InputError: Nothing was merged where the merged model is to be uploaded, or the base's
            tokenizer cannot be read.
    """
    tuned = parcel.tuned
    with tempfile.TemporaryDirectory(prefix="medbench-push-") as made:
        folder = Path(made)
        if parcel.what != "adapter":
            _link(merged_folder(tuned), folder, (*MERGED_FILES, *TOKENIZER_FILES))
        if parcel.what != "merged":
            inside = folder if parcel.what == "adapter" else folder / "adapter"
            _link(tuned.adapter, inside, ADAPTER_FILES)
            _name_base(inside / "adapter_config.json", tuned)
            _strip_paths(inside / "recipe.yaml")
            if parcel.what == "adapter":
                _tokenizer(tuned, folder)
        (folder / "README.md").write_text(parcel.card, "utf-8")
        yield folder


def listing(folder: Path) -> list[tuple[str, int]]:
    """(path, bytes) of every file that is uploaded."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def upload(parcel: Parcel, folder: Path, *, private: bool) -> str:
    """Make the repository where it is not there, upload *folder* in one commit; its URL.

    Raises:
        InputError: There is no token.
        StageError: The Hub refuses or cannot be reached, or the repository is there and public
            while *private* is asked for.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise InputError(
            "no token for the Hugging Face Hub; set HF_TOKEN in the environment or run "
            "`hf auth login`"
        )
    # huggingface_hub reads HF_ENDPOINT when it is imported; here it holds when it is asked for.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        api.create_repo(parcel.repo, private=private, exist_ok=True)
        if private and not api.model_info(parcel.repo).private:
            raise StageError("it is there already and public; make it private in its settings")
        commit = api.upload_folder(
            repo_id=parcel.repo,
            folder_path=folder,
            commit_message=f"Upload {parcel.what} of {parcel.tuned.name} with medbench",
        )
    except Exception as error:  # whatever the Hub's client and its transport raise
        reason = str(error).strip().replace(token, "…").splitlines() or [type(error).__name__]
        raise StageError(
            f"{parcel.repo}: the upload failed ({reason[0]}). Check name, token and network; the "
            "same command tries again"
        ) from None
    return str(commit.commit_url)


def _link(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    """The files of *source* that *names* allow, linked into *folder* (copied across disks)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for path in source.glob(name):
            try:
                (folder / path.name).symlink_to(path.resolve())
            except OSError:
                shutil.copyfile(path, folder / path.name)


def _name_base(path: Path, tuned: Tuned) -> None:
    """It says where the base lay on this machine; others need its name."""
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    base = {"base_model_name_or_path": public_name(tuned.base), "revision": tuned.base.revision}
    path.unlink()  # it is a link
    path.write_text(json.dumps(config | base, indent=2) + "\n", "utf-8")


def _strip_paths(path: Path) -> None:
    """Let a recipe name its data file, not the folder that it lay in."""
    if not path.is_file():
        return
    import yaml

    recipe = yaml.safe_load(path.read_text("utf-8"))
    source = str(recipe.get("data", {}).get("source", ""))
    if "/" in source and not source.startswith(HUB):
        recipe["data"]["source"] = Path(source).name
    path.unlink()
    path.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), "utf-8")


def _tokenizer(tuned: Tuned, folder: Path) -> None:
    """The tokenizer that the adapter brings, or its base's."""
    if (tuned.adapter / "tokenizer_config.json").is_file():
        _link(tuned.adapter, folder, TOKENIZER_FILES)
        return
    from transformers import AutoTokenizer

    base = tuned.base
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base.source, revision=base.revision, trust_remote_code=base.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"base {base.pretrained}: its tokenizer cannot be read ({str(error).splitlines()[0]})"
        ) from error
    tokenizer.save_pretrained(folder)

"""Recipe: how an adapter is trained. Every shipped YAML spells out every key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ..errors import InputError
from ..harness.config import Section, explain, read_yaml
from .adapters import Adapter, Positive

HUB = "hub:"
"""How a source begins that is a data set of the Hub and none of medbench's own names."""

RECIPES = Path(__file__).parent / "recipes"


class Data(Section):
    """Which rows are tuned on.

    Attributes:
        source: ``clinic``, a data source of `medbench tasks`, the path of a local
            JSON/JSONL/CSV/Parquet file, or ``hub:OWNER/NAME`` for any other data set of the Hub.
        config, split, revision: Of a ``hub:`` source; null for the others.
        columns: New column names and the source's own that they are made from; null keeps all.
        question: The column by whose hash a row is held out for testing.
        hold_out: Leave out the rows that the held-out tasks test on, and those that resemble them.
        overlap: What becomes of rows that are questions of the suite's tests, copied or reworded
            (docs/reference/overlap.md): ``refuse`` to tune, ``drop`` them, or tune on them and
            ``report`` it.
        rows: Take the first so many of the rows that are left; all when null.
        validation_rows: Keep so many of those, evenly spread, out of training, to watch their loss.
    """

    source: str
    config: str | None
    split: str | None
    revision: str | None
    columns: dict[str, str] | None
    question: str = "Question"
    hold_out: bool
    overlap: Literal["refuse", "drop", "report"] = "refuse"
    rows: Positive | None
    validation_rows: Annotated[int, Field(ge=0)]


class Recipe(Section):
    """One way to train an adapter.

    Attributes:
        backend: ``unsloth``, ``trl`` (with peft and bitsandbytes), or ``auto``: Unsloth where it is
            installed and there is a CUDA GPU.
        format: How a row becomes text. ``text``: the templates below as they are. ``chat``: prompt
            and completion are one turn each of the tokenizer's chat template. ``messages``: the
            row's column ``messages`` holds a conversation that ends with the assistant.
        prompt, completion: Templates over the columns of a row, ``{Column}``; null for
            ``messages``. The tokenizer's end-of-sequence token is added to the completion.
        loss_on: ``completion``, or ``text``: the prompt's tokens count too, as in the tutorials.
        quantization: How the frozen base is held while tuning; ``nf4`` is QLoRA
            (Dettmers et al. 2023, arXiv:2305.14314).
        batch_size: Rows per optimizer step, over all GPUs: what the loss curve depends on.
        micro_batch_size: How many of them go through at once, padded to the longest. ``auto``: as
            many as memory holds, without padding where there is a GPU; the curve stays the same.
        steps, epochs: Exactly one is set.
        precision: Of the computation; ``auto`` is float32 on a CPU, bfloat16 on a GPU that has it.
        warmup_steps: So many, or the share of all steps where it is below 1.
        optimizer, schedule: Names that transformers' TrainingArguments know.
        checkpoint_steps: Keep the state so often, to go on from after a crash; null for never.
        watch: Experiment trackers that hear of every log line.
    """

    name: str
    data: Data
    format: Literal["text", "chat", "messages"]
    prompt: str | None
    completion: str | None
    loss_on: Literal["completion", "text"]
    max_length: Positive
    backend: Literal["auto", "unsloth", "trl"]
    quantization: Literal["none", "nf4", "int8"]
    adapter: Adapter
    batch_size: Positive
    micro_batch_size: Positive | Literal["auto"]
    steps: Positive | None
    epochs: Annotated[float, Field(gt=0)] | None
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: str
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    optimizer: str
    gradient_checkpointing: bool
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    logging_steps: Positive
    checkpoint_steps: Positive | None
    watch: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]]
    seed: Annotated[int, Field(ge=0, lt=2**32)]

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected exactly one of 'steps' and 'epochs' to be set")
        if self.micro_batch_size != "auto" and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if self.steps is not None and self.logging_steps > self.steps:
            raise ValueError(
                f"logging_steps {self.logging_steps} is more than steps {self.steps}: no loss "
                "would be logged"
            )
        if self.checkpoint_steps and self.checkpoint_steps % self.logging_steps:
            raise ValueError(
                f"checkpoint_steps {self.checkpoint_steps} is no multiple of logging_steps "
                f"{self.logging_steps}: a loss averaged across a crash would be lost"
            )
        templates = (self.prompt is not None, self.completion is not None)
        if templates != ((False,) * 2 if self.format == "messages" else (True,) * 2):
            raise ValueError(
                "expected 'prompt' and 'completion' for the formats text and chat, and null for "
                "both for messages"
            )
        if self.adapter.kind == "prefix" and self.gradient_checkpointing:
            raise ValueError("a prefix does not survive gradient_checkpointing; set it to false")
        hub = self.data.source.startswith(HUB)
        if not hub and (self.data.config or self.data.split or self.data.revision):
            raise ValueError("data.config, split and revision belong to a source hub:OWNER/NAME")
        return self

    def yaml(self) -> str:
        """The recipe, spelled out in full."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def builtin_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a built-in recipe by name, or any other by path.

    Raises:
        InputError: No such recipe, an unknown or missing key, or a value that does not fit.
    """
    path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(
                f"recipe {name_or_path!r}: no built-in recipe and no file of that name; "
                f"built-in are: {', '.join(builtin_recipes())}"
            )
    try:
        return Recipe.model_validate(read_yaml(path))
    except ValidationError as error:
        raise InputError(explain(path, error, Recipe)) from None

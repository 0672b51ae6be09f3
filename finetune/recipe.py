"""Recipe: how an adapter is trained. Every shipped YAML spells out every key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ..errors import InputError
from ..harness.config import Section, explain, read_yaml

RECIPES = Path(__file__).parent / "recipes"

Positive = Annotated[int, Field(ge=1)]


class Data(Section):
    """Which rows are tuned on.

    Attributes:
        source: ``clinic``, a data source of `medbench tasks`, or the path of a local
            JSON/JSONL/CSV/Parquet file.
        question: The column by whose hash a row is held out for testing.
        hold_out: Leave out the rows that the held-out tasks test on.
        rows: Take the first so many of the rows that are left; all when null.
    """

    source: str
    question: str = "Question"
    hold_out: bool
    rows: Positive | None


class Lora(Section):
    """LoRA (Hu et al. 2021, arXiv:2106.09685), keys as in peft's LoraConfig.

    ``bias`` is ``none``: trained biases stay when an adapter is switched off, so the base could not
    be scored beside it.
    """

    r: Positive
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    bias: Literal["none"]
    target_modules: list[str] = Field(min_length=1)


class Recipe(Section):
    """One way to train an adapter.

    Attributes:
        prompt, completion: Templates over the columns of a row, ``{Column}``. The loss is taken on
            the completion only; the tokenizer's end-of-sequence token is added to it.
        quantization: How the frozen base is held while tuning; ``nf4`` is QLoRA
            (Dettmers et al. 2023, arXiv:2305.14314).
        batch_size: Rows per optimizer step. ``micro_batch_size`` of them go through at once.
        steps, epochs: Exactly one is set.
        precision: Of the computation; ``auto`` is float32 on a CPU, bfloat16 on a GPU that has it.
        optimizer, schedule: Names that transformers' TrainingArguments know.
    """

    name: str
    data: Data
    prompt: str
    completion: str
    max_length: Positive
    quantization: Literal["none", "nf4", "int8"]
    lora: Lora
    batch_size: Positive
    micro_batch_size: Positive
    steps: Positive | None
    epochs: Annotated[float, Field(gt=0)] | None
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: str
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    optimizer: str
    gradient_checkpointing: bool
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    logging_steps: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)]

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected exactly one of 'steps' and 'epochs' to be set")
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if self.steps is not None and self.logging_steps > self.steps:
            raise ValueError(
                f"logging_steps {self.logging_steps} is more than steps {self.steps}: no loss "
                "would be logged"
            )
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

"""The kinds of adapter that a recipe may train, and peft's configuration of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ..harness.config import Section

if TYPE_CHECKING:
    from peft import PeftConfig

Positive = Annotated[int, Field(ge=1)]
Modules = Annotated[list[str], Field(min_length=1)]


class Lora(Section):
    """LoRA (Hu et al. 2021, arXiv:2106.09685), keys as in peft's LoraConfig.

    ``dora`` splits weights into magnitude and direction (Liu et al. 2024, arXiv:2402.09353);
    ``rslora`` scales by alpha / √r (Kalajdzievski 2023, arXiv:2312.03732). ``bias`` is ``none``:
    trained biases stay when an adapter is switched off, so the base could not be scored beside it.
    """

    kind: Literal["lora"]
    r: Positive
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    bias: Literal["none"]
    dora: bool
    rslora: bool
    target_modules: Modules

    def config(self) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            bias=self.bias,
            use_dora=self.dora,
            use_rslora=self.rslora,
            target_modules=self.target_modules,
        )


class Ia3(Section):
    """IA3 (Liu et al. 2022, arXiv:2205.05638): learned scales of activations.

    ``feedforward_modules``, some of ``target_modules``, are scaled at their input.
    """

    kind: Literal["ia3"]
    target_modules: Modules
    feedforward_modules: list[str]

    def config(self) -> PeftConfig:
        from peft import IA3Config

        return IA3Config(
            task_type="CAUSAL_LM",
            target_modules=self.target_modules,
            feedforward_modules=self.feedforward_modules,
        )


class Prefix(Section):
    """Prefix tuning (Li and Liang 2021, arXiv:2101.00190): learned keys and values before the text.

    Its virtual tokens forbid packed rows, so tuning pads and scoring asks one question at a time;
    it cannot be merged into the weights, so nothing is exported.
    """

    kind: Literal["prefix"]
    virtual_tokens: Positive

    def config(self) -> PeftConfig:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.virtual_tokens)


Adapter = Annotated[Lora | Ia3 | Prefix, Field(discriminator="kind")]

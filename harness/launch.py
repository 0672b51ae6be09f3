"""Whether a plan can be done as it was launched; what cannot is refused before anything runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import InputError
from ..finetune.layout import most_rows

if TYPE_CHECKING:
    from .planning.plan import Plan
    from .ranks import Ranks

REFUSED = {
    "FSDP_OFFLOAD_PARAMS": (
        "true",
        "fsdp_offload_params: shares of the base stay on the GPUs; set it to false and use more "
        "GPUs, or quantization: nf4",
    ),
    "FSDP_RESHARD_AFTER_FORWARD": (
        "false",
        "fsdp_reshard_after_forward: false would leave the whole base on every GPU; set it to "
        "true, or use --multi_gpu in place of --use_fsdp",
    ),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "true",
        "fsdp_activation_checkpointing: the recipe's gradient_checkpointing says it; set the "
        "launcher's to false",
    ),
}
"""Variables of `accelerate launch`: the value that cannot be done, and what to do instead."""


def check_launch(plan: Plan, ranks: Ranks) -> None:
    """Check that *plan* can be done by so many processes.

    Raises:
        InputError: The launcher shards models in a way that medbench does not, a model's engine
            shares its work out by itself, or a batch cannot be shared.
    """
    if ranks.size == 1:
        return
    _check_sharding(plan)
    for name in plan.models:
        backend = plan.backend(name)
        if not (backend.torch or backend.remote):
            raise InputError(
                f"models.{name}: back end {backend.name} spreads over GPUs by its own args (e.g. "
                "tensor_parallel_size); start medbench without a launcher"
            )
    for recipe in plan.recipes.values():
        most_rows(recipe, ranks.size)


def _check_sharding(plan: Plan) -> None:
    if _said("ACCELERATE_USE_DEEPSPEED") == "true":
        raise InputError(
            "ACCELERATE_USE_DEEPSPEED is set, but DeepSpeed's engine replaces optimizer, clipping "
            "and checkpoints with its own: use FSDP (`accelerate launch --use_fsdp --fsdp_version "
            "2`) for a base that is too large for one GPU (docs/how-to/several-gpus.md)"
        )
    if _said("ACCELERATE_USE_FSDP") != "true":
        return
    if _said("FSDP_VERSION") != "2":
        raise InputError(
            "the launcher asks for version 1 of FSDP, which flattens the weights of a layer into "
            "one tensor and so cannot hold an adapter beside a frozen base; set fsdp_version: 2 "
            "(`accelerate launch --use_fsdp --fsdp_version 2`)"
        )
    for name, (value, why) in REFUSED.items():
        if _said(name) == value:
            raise InputError(why)
    for recipe in plan.recipes.values():
        if recipe.quantization == "int8":
            raise InputError(
                f"recipe {recipe.name!r}: quantization: int8 cannot be sharded, for bitsandbytes "
                "keeps what belongs to a weight outside of it; use nf4 or none"
            )


def _said(name: str) -> str:
    return os.environ.get(name, "").lower()

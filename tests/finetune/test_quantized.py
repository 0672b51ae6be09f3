"""What bitsandbytes' 8-bit product keeps: the stand-in that is traced, beside the real one."""

import logging
from collections.abc import Callable

import pytest
import torch
from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState
from bitsandbytes.functional import int8_vectorwise_quant
from torch.utils.checkpoint import checkpoint

from medbench.finetune.quantized import Int8Product
from medbench.finetune.skeleton import _Live

TOKENS, INNER, OUTER = 64, 256, 128
PLACE = 8
"""Bytes of a column's index, which bitsandbytes keeps beside the column."""


def kept(product: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, *held: object) -> int:
    live = _Live([x, *(one for one in held if isinstance(one, torch.Tensor))])
    with live:
        out = checkpoint(lambda given: product(given * 1.0), x, use_reentrant=False)
        size = live.now
        out.sum().backward()
    return size


@pytest.mark.parametrize("outliers", [0, 40, INNER])
def test_input_and_outliers_survive_checkpointing(
    outliers: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "bitsandbytes")
    torch.manual_seed(0)
    x = torch.randn(1, TOKENS, INNER).clamp(-5, 5).to(torch.bfloat16)
    x[0, 3, :outliers] = 9
    x.requires_grad_()
    weight = torch.randn(OUTER, INNER, dtype=torch.bfloat16)
    codes, scales, _ = int8_vectorwise_quant(weight.half())

    def real(given: torch.Tensor) -> torch.Tensor:
        state = MatmulLtState()
        state.has_fp16_weights, state.threshold = False, 6.0
        state.CB, state.SCB = codes, scales
        return MatMul8bitLt.apply(given, weight, None, None, state)

    theirs = kept(real, x, weight, codes, scales)
    mine = kept(lambda given: Int8Product.apply(given, weight, outliers), x, weight)
    assert theirs - mine == PLACE * outliers
    assert mine == 2 * TOKENS * (INNER + outliers + OUTER)  # the product itself is kept by us

"""Makes ``lm_eval --model medbench`` work.

lm-eval 0.4.13 has no way to name a model class outside itself. But it imports torch, and torch
calls the entry points of the group ``torch.backends`` at the end of its own import;
:func:`register` is one of them. In processes that are not lm-eval's it does nothing.
"""

from __future__ import annotations

import sys


def register() -> None:
    """Put ``medbench`` into lm-eval's registry, by name, if lm-eval is what imports torch."""
    if "lm_eval" not in sys.modules:
        return
    import lm_eval.models  # its own models first: the registry fills itself only while empty
    from lm_eval.api.registry import model_registry

    if "medbench" not in lm_eval.models.MODEL_MAPPING and "medbench" not in model_registry:
        model_registry.register("medbench", target="medbench.harness.scorer.lm:PackedLM")

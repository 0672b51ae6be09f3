"""``medbench``, the lm-eval model that computes each distinct token once.

A drop-in for lm-eval's own ``hf``: log-likelihoods come from packed rows of a trie (trie.py,
packing.py) and equal those of ``hf`` with ``softmax_dtype=float32``; generation is lm-eval's.
Models that cannot take the rows' mask are found out and scored by ``hf``'s own code.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.registry import register_model
from lm_eval.models import huggingface
from lm_eval.models.utils import has_bos_prefix

from ...errors import InputError, StageError
from ..progress import Tick, silent
from ..ranks import sharded
from .fit import find_budget, known_misfit, probe
from .packing import SHORTEST, Engine, out_of_memory
from .trie import Trie

logger = logging.getLogger(__name__)

Pair = tuple[Any, list[int], list[int]]
"""lm-eval's request: its strings, context ids, continuation ids."""


@register_model("medbench")
class PackedLM(huggingface.HFLM):  # type: ignore[misc]
    """lm-eval's HF model with log-likelihoods from packed rows.

    Args:
        token_budget: Tokens a row; by default as many as help and fit.
        tick: Hears of finished requests; by default there is a progress bar.
        pretrained, tokenizer, peft, ...: As for ``lm_eval.models.huggingface.HFLM``.

    Raises:
        InputError: The budget is no positive number.
    """

    def __init__(
        self,
        *args: Any,
        token_budget: int | None = None,
        tick: Tick | None = None,
        softmax_dtype: str = "float32",
        **options: Any,
    ) -> None:
        super().__init__(*args, softmax_dtype=softmax_dtype, **options)
        self._budget = None if token_budget is None else int(token_budget)
        if self._budget is not None and self._budget < 1:
            raise InputError(f"token_budget {token_budget}: expected at least 1 token a row")
        self._tick = tick
        self._unfit: str | None = None
        self._probed = self._told = False
        # With a tp_plan all processes are one model; after sharded tuning one process has all GPUs.
        if options.get("tp_plan") is None and not sharded():
            self._join()

    @property
    def _engine(self) -> Engine:
        return Engine(self.model, self.mixed_precision_dtype)

    def _join(self) -> None:
        """Take this process's place among those of ``accelerate launch``, on any device."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not hasattr(self, "accelerator"):
            from accelerate import Accelerator

            self.accelerator = Accelerator(cpu=self.device.type == "cpu")
        if hasattr(self, "accelerator"):
            self._rank = self.accelerator.process_index
            self._world_size = self.accelerator.num_processes

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether greedy decoding gives it) of each continuation."""
        if self.enable_thinking or self.backend != "causal":
            return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))
        pairs = self._encode_pairs([request.args for request in requests])
        self._warn_of_truncation(requests, pairs)
        return self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each whole text, in windows of the model's length."""
        windows: list[Pair] = []
        owner: list[int] = []
        for index, request in enumerate(requests):
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(window)))
                owner.append(index)
        found = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        totals = np.zeros(len(requests))
        np.add.at(totals, owner, [value for value, _ in found])
        for request, total in zip(requests, totals.tolist(), strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return list(totals.tolist())

    def _loglikelihood_tokens(
        self,
        requests: list[Pair],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        if not requests:
            return []
        if self.backend != "causal":
            return list(super()._loglikelihood_tokens(requests, disable_tqdm, override_bs))
        limit = self.max_length
        whole = [self._clip(pair, limit) for pair in requests]
        if self._misfit(max(len(tokens) for tokens, _ in whole) - 1):
            self.logits_cache &= _one_split_each(requests)
            return list(super()._loglikelihood_tokens(requests, disable_tqdm, override_bs))
        trie, budget = Trie(whole), self._budget or SHORTEST
        with self._progress(len(requests), disable_tqdm) as tick:
            totals, greedy, left = self._engine.answer(
                trie, budget, lambda answered: tick(answered, len(requests), "")
            )
        if left < budget:
            logger.warning("out of memory: rows now hold %d tokens", left)
            self._budget = left
        answers = list(zip(totals.tolist(), greedy.tolist(), strict=True))
        for (strings, _, _), found in zip(requests, answers, strict=True):
            if strings is not None:
                self.cache_hook.add_partial("loglikelihood", strings, found)
        return answers

    @staticmethod
    def _clip(pair: Pair, limit: int) -> tuple[list[int], int]:
        """(tokens, number asked): the last *limit* + 1 tokens, since the last one is never fed."""
        strings, context, continuation = pair
        if not context or not 0 < len(continuation) <= limit:
            raise StageError(
                f"request {strings!r} has {len(context)} context and {len(continuation)} "
                f"continuation tokens; expected at least 1 and 1 to {limit}"
            )
        return (context + continuation)[-(limit + 1) :], len(continuation)

    def _encode_pairs(self, texts: list[tuple[str, str]]) -> list[Pair]:
        """Token ids as lm-eval's ``_encode_pair`` finds them, each distinct string encoded once."""
        wholes = {context + continuation for context, continuation in texts if context}
        contexts = {context.rstrip() for context, _ in texts if context}
        encoded = self._encode(wholes | contexts)
        pairs: list[Pair] = []
        for context, continuation in texts:
            if context:
                start = encoded[context.rstrip()]
                rest = encoded[context + continuation][len(start) :]
            else:
                rest = self.tok_encode(continuation, add_special_tokens=False)
                start = [self.prefix_token_id]
                if rest[:1] == start:
                    rest = rest[1:]
            pairs.append(((context, continuation), start, rest))
        return pairs

    def _encode(self, strings: set[str]) -> dict[str, list[int]]:
        """Each of *strings* as ``tok_encode`` encodes it.

        A fast tokenizer gets them all in one call, without offsets, on all cores; one that does
        more than its backend is found out by its first string.
        """
        special = True if self.add_bos_token is None else self.add_bos_token
        start = self.tokenizer.decode(self.prefix_token_id)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        encoded: dict[str, list[int]] = {}
        for begun in (False, True):
            group = [text for text in strings if has_bos_prefix(text, start) == begun]
            if backend is not None and group:
                expected = self.tok_encode(group[0])  # also switches off padding and truncation
                found = backend.encode_batch_fast(group, add_special_tokens=special and not begun)
                if found[0].ids == expected:
                    encoded.update((text, one.ids) for text, one in zip(group, found, strict=True))
                    continue
            encoded.update((text, self.tok_encode(text)) for text in group)
        return encoded

    def _warn_of_truncation(self, requests: Sequence[Any], pairs: list[Pair]) -> None:
        limit = self.max_length
        cut: dict[str, dict[int, None]] = {}
        for request, (_, context, continuation) in zip(requests, pairs, strict=True):
            if len(context) + len(continuation) > limit + 1:
                cut.setdefault(str(request.task_name), {})[request.doc_id] = None
        for task, documents in cut.items():
            logger.warning(
                "%s: longer than the model's %d tokens, cut from the left: documents %s",
                task, limit, ", ".join(map(str, documents)),
            )  # fmt: skip

    @contextlib.contextmanager
    def _progress(self, total: int, quiet: bool) -> Iterator[Tick]:
        """Who hears of finished requests: the tick that was given, or lm-eval's kind of bar."""
        if self.rank != 0:
            yield silent
        elif self._tick is not None:
            yield self._tick
        else:
            bar = huggingface.tqdm(total=total, disable=quiet, desc="Scoring requests")

            def tick(done: int, _total: int, _note: str) -> None:
                bar.update(done - bar.n)

            yield tick
            bar.close()

    def _misfit(self, longest: int) -> bool:
        """Whether ``hf``'s own code must score, because the model cannot take packed rows."""
        reason = known_misfit(self.model, longest)
        if reason is None and not self._probed:
            self._probed = True
            self._unfit = self._probe()
        reason = reason or self._unfit
        if reason is not None and not self._told:
            self._told = True
            logger.warning("%s; scoring every request on its own, as lm-eval's hf does", reason)
        return reason is not None

    def _probe(self) -> str | None:
        """Find the budget; say why the model cannot take packed rows, or None if it can."""
        try:
            fit = probe(self._engine)
            if self._budget is None:
                self._budget = find_budget(self._engine)
        except Exception as failure:  # whatever a foreign model says to a mask it does not know
            if out_of_memory(failure):
                raise
            return f"the model does not take packed rows ({type(failure).__name__}: {failure})"
        if not fit.good:
            return f"the model does not keep branches of a packed row apart (error {fit.error:.2g})"
        return None


def _one_split_each(requests: list[Pair]) -> bool:
    """Whether requests that feed the same tokens also ask for as many of them.

    lm-eval's cache of logits answers them from one forward pass and, where they ask for different
    numbers, reads the shorter ones' log-probabilities at the wrong positions.
    """
    asked: dict[tuple[int, ...], int] = {}
    return all(
        asked.setdefault(tuple(context + rest[:-1]), len(rest)) == len(rest)
        for _, context, rest in requests
    )

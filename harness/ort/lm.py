"""The lm-eval model over an ONNX export: every task, asked of the graph that is deployed.

Words, tokens, windows, truncation and stop strings are those of the torch model's scorer
(scorer/lm.py), by inheritance; only the forward pass is another. Log-likelihoods come from the
requests' trie (engine.py), generation from greedy steps over a batch of right-padded prompts.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.models.utils_hf import stop_sequences_criteria
from transformers import AutoTokenizer

from ...errors import InputError, StageError
from ..scorer.lm import PackedLM
from .engine import BUDGET, Engine
from .session import read_config, rows
from .sessions import Sessions

_GREEDY: dict[str, tuple[Any, ...]] = {
    "do_sample": (False, None),
    "temperature": (0, None),
    "num_beams": (1, None),
    "repetition_penalty": (1, None),
}
"""Values under which generating is greedy; ``top_p`` and the like then change nothing."""

logger = logging.getLogger(__name__)


class OnnxLM(PackedLM):
    """An export as an lm-eval model.

    Args:
        folder: The export, with its tokenizer.
        device: ``cpu``, ``cuda`` or ``cuda:N``; never replaced by another one.
        threads: On a CPU: of an operator while generating, and callers of one thread each for
            log-likelihoods; as many as torch uses when None.
        batch_size: Prompts a step while generating; fewer where memory has no room for the caches,
            which have the length of the context that was exported.
        options: As for ``lm_eval.models.huggingface.HFLM``, of what concerns text:
            ``add_bos_token``, ``think_end_token``, ….

    Raises:
        InputError: The folder holds no such export, or the device cannot be used.
        StageError: ONNX Runtime cannot load the graph.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        batch_size: int = 16,
        **options: Any,
    ) -> None:
        if not (folder / "tokenizer_config.json").is_file():
            raise InputError(
                f"{folder / 'tokenizer_config.json'}: missing; expected an export with its "
                "tokenizer, as `medbench run` leaves under exports/"
            )
        self._kind = device.partition(":")[0]
        self._sessions = Sessions(folder, device, threads or torch.get_num_threads())
        session = self._sessions.scoring()
        config = read_config(folder)["model"]
        ends = config["eos_token_id"]
        self._ends = torch.tensor([ends] if isinstance(ends, int) else ends)
        most = rows(session.row_bytes, torch.device(device))
        if most < batch_size:
            logger.warning("the memory has room for the caches of %d prompts at a time", most)
        options = {"token_budget": BUDGET[self._kind]} | options
        longest = session.max_len
        options["max_length"] = min(int(options.get("max_length") or longest), longest)
        # What lm-eval's class wants to know of a model that it does not run itself.
        weights = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
        stand_in = SimpleNamespace(
            device=torch.device(device),
            config=SimpleNamespace(),
            num_parameters=lambda: weights,  # about: a byte each
        )
        super().__init__(
            pretrained=stand_in,
            tokenizer=AutoTokenizer.from_pretrained(folder),
            backend="causal",
            batch_size=min(batch_size, most),
            **options,
        )

    @property
    def _engine(self) -> Any:
        return Engine(self._sessions.callers(), self._kind)

    def _join(self) -> None:
        """Stay alone: under ``accelerate launch`` the first process scores exports by itself."""

    def _misfit(self, longest: int) -> bool:
        return False

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any
    ) -> torch.Tensor:
        """Continue left-padded prompts greedily, as ``generate`` of transformers does.

        A row ends with an end token or a stop string, and is padded from there; the batch ends
        when all its rows have.

        Args:
            context: Token ids [B, T], padded on the left.
            max_length: Of prompt, padding and continuation.
            stop: Texts that end a row.
            options: ``attention_mask`` [B, T], 0 over padding; and lm-eval's generation settings.

        Returns:
            Token ids [B, at most max_length]: *context*, then what was generated.

        Raises:
            StageError: A setting asks for something else than greedy decoding.
        """
        for name, allowed in _GREEDY.items():
            if options.get(name) not in allowed:
                raise StageError(
                    f"generation_kwargs.{name}: {options[name]!r}; an ONNX export is decoded "
                    "greedily here, leave it out or score the torch model"
                )
        real = options["attention_mask"].bool()
        texts = [ids[mask] for ids, mask in zip(context, real, strict=True)]
        lengths = torch.tensor([len(text) for text in texts])
        batch, width = context.shape
        endings = stop_sequences_criteria(self.tokenizer, stop, width, batch)
        said = torch.full((batch, max_length), self.tokenizer.pad_token_id)
        said[:, :width] = context
        ended = torch.zeros(batch, dtype=torch.bool)
        session = self._sessions.generating()
        session.reset()
        prompts = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        ends = torch.arange(batch) * prompts.shape[1] + lengths - 1
        chosen = session.ask(prompts, ends, lengths.tolist()).argmax(-1).cpu()
        for at in range(width, max_length):
            said[~ended, at] = chosen[~ended]
            ended |= torch.isin(chosen, self._ends)
            endings(said[:, : at + 1], None)
            for one in endings:
                ended |= torch.tensor(one.done_tracker)
            if ended.all() or at + 1 == max_length:
                break
            chosen = session.step(chosen[:, None])[:, 0].argmax(-1).cpu()
        session.reset()
        return said[:, : at + 1]

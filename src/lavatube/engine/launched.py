"""A step whose tokens are chosen on the device, and on their way to the host: launched, and not waited for yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lavatube.engine.chunk import Chunk
from lavatube.engine.sampler import Choice
from lavatube.model.replay import Decoded

Results = list[list[Choice] | None]
"""Of each chunk what comes next; None for one of which nothing is worth keeping."""


@dataclass(frozen=True, slots=True)
class Launched:
    """Shapes: chosen (rows,) int64 on the device; `_told` (2, rows) on the host, good once it `_is_told`."""

    chunks: Sequence[Chunk]
    chosen: Tensor
    _told: Tensor
    _is_told: torch.cuda.Event | None

    @classmethod
    def choose(cls, chunks: Sequence[Chunk], decoded: Decoded, forbidden_ids: Tensor) -> Launched:
        """The likeliest token of each row that is allowed. The logits are used up.

        What is kept are tensors of its own: the next step is launched before this one is read, and overwrites those.
        """
        hidden, logits = decoded
        sums = hidden.sum(dim=-1, dtype=torch.float32)  # as in Runner: with one that is no number, it is none
        is_good = sums.isfinite() & logits.amin(dim=-1).isfinite() & logits.amax(dim=-1).isfinite()
        chosen = logits.index_fill_(1, forbidden_ids, -torch.inf).argmax(dim=-1)
        told = torch.stack([chosen, is_good.long()]).to("cpu", non_blocking=True)  # into memory that is pinned
        if logits.device.type != "cuda":
            return cls(chunks, chosen, told, None)
        # Of this copy, and not of the device: that has the next step to do by the time this one is read.
        is_told = torch.cuda.Event()  # type: ignore[no-untyped-call]
        is_told.record()
        return cls(chunks, chosen, told, is_told)

    def places(self, chunks: Sequence[Chunk]) -> list[int]:
        """Where in `chosen` the token is that each of these begins with."""
        place_of = {chunk.sequence: place for place, chunk in enumerate(self.chunks)}
        return [place_of[chunk.sequence] for chunk in chunks]

    def read(self) -> Results:
        """Wait for this step, and for none that was launched after it."""
        if self._is_told is not None:
            self._is_told.synchronize()
        chosen, is_good = self._told.tolist()
        return [[Choice(token_id)] if good else None for token_id, good in zip(chosen, is_good, strict=True)]

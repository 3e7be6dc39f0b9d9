"""Rows of logits in, the next token ids out: a pure function of (row, Sampling, position).

What else is in the batch, the device and the run do not matter: the draw is a number made from the seed and the
position, not the next value of a generator.

Source: order of the filters and "at least one token is kept" as in transformers' generate (temperature, top-k, top-p).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Final

import torch

from lavatube.engine.wire import Sampling

_SEED_AND_POSITION: Final = struct.Struct(">QQ")
_SEED_MASK: Final = 2**64 - 1


class Sampler:
    """Chooses tokens, never one of `forbidden_ids` (placeholders) nor one the tokenizer does not know."""

    def __init__(self, vocab_size: int, forbidden_ids: Iterable[int], num_token_ids: int, device: torch.device) -> None:
        """`num_token_ids` is how many ids the tokenizer knows; rows from there on are padding."""
        self._is_forbidden = torch.zeros(vocab_size, dtype=torch.bool)
        self._is_forbidden[num_token_ids:] = True
        self._is_forbidden[list(forbidden_ids)] = True
        self._is_forbidden = self._is_forbidden.to(device)

    def sample(self, logits: torch.Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[int | None]:
        """The next id of each row; None where the row has a NaN or an infinity, since any choice from it is noise.

        `positions` are those of the tokens to come, counted from the start of the prompt.

        Shapes: logits (rows, vocabulary) float32.
        """
        is_finite = torch.isfinite(logits).all(dim=-1)
        allowed = logits.masked_fill(~is_finite[:, None], 0.0).masked_fill(self._is_forbidden, -torch.inf)
        chosen = allowed.argmax(dim=-1)
        for row, (sampling, position) in enumerate(zip(samplings, positions, strict=True)):
            if sampling.temperature > 0:
                chosen[row] = draw(allowed[row], sampling, uniform(sampling.seed, position))
        pairs = zip(chosen.tolist(), is_finite.tolist(), strict=True)
        return [token_id if is_good else None for token_id, is_good in pairs]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), the same on every machine, without relation between neighbouring seeds or positions."""
    key = _SEED_AND_POSITION.pack(seed & _SEED_MASK, position)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def draw(row: torch.Tensor, sampling: Sampling, point: float) -> torch.Tensor:
    """The id at `point` of the cumulative distribution.

    In double precision and relative to the largest, so that no temperature overflows and sums are exact enough.
    """
    scores = row.double()
    scores = (scores - scores.max()) / sampling.temperature
    ids = torch.arange(len(scores), device=scores.device)
    if 0 < sampling.top_k < len(scores):
        scores, ids = scores.topk(sampling.top_k)
    probabilities = scores.softmax(dim=-1)
    if sampling.top_p < 1:
        probabilities, order = probabilities.sort(descending=True, stable=True)
        ids = ids[order]
        is_kept = probabilities.cumsum(dim=-1) - probabilities < sampling.top_p
        is_kept[0] = True
        probabilities = probabilities * is_kept
    sums = probabilities.cumsum(dim=-1)
    total = sums[-1]
    target = torch.minimum(total * point, torch.nextafter(total, torch.zeros_like(total)))  # rounding may reach it
    return ids[torch.searchsorted(sums, target, right=True)]

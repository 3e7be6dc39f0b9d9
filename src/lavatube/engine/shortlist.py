"""The token that `draw` would give, found among the likeliest: all logits in single precision, a few exactly.

On a CPU the whole in double precision costs a hundred times as much. A sum in single precision comes with a bound of
its error: what the few can't tell within it is left to `draw`, so the answer is the same to the last token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from lavatube.engine.wire import Sampling

BLOCK: Final = 64
"""So many ids that follow each other are looked at as one."""
_LISTED: Final = 64
_MOST_LISTED: Final = 256
_SINGLE: Final = 1e-5
"""Bounds the relative error of a sum of weights in single precision, which is about 3e-6 for 10^5 of them."""
_DOUBLE: Final = 1e-12
_TEMPERATURES: Final = (1e-3, 1e3)

Array = NDArray[Any]


def draw_from_shortlist(logits: Tensor, samplings: Sequence[Sampling], points: Sequence[float]) -> list[int | None]:
    """The id at each row's point of its distribution; None where `draw` must be asked.

    Shapes: logits (rows, vocabulary) float32 on the CPU. Temperatures are above 0.
    """
    found: list[int | None] = [None] * len(samplings)
    low, high = _TEMPERATURES
    mild = [row for row, sampling in enumerate(samplings) if low <= sampling.temperature <= high]
    filtered = [row for row in mild if _is_filtered(samplings[row])]
    for rows, choose in ((filtered, _choose_filtered), ([row for row in mild if row not in filtered], _choose_any)):
        if rows:
            some = logits if len(rows) == len(logits) else logits[rows]
            with np.errstate(divide="ignore", invalid="ignore"):  # log of no min_p; rows in which nothing is allowed
                chosen = choose(some, [samplings[row] for row in rows], np.array([points[row] for row in rows]))
            for row, token_id in zip(rows, chosen.tolist(), strict=True):
                found[row] = None if token_id < 0 else token_id
    return found


def _is_filtered(sampling: Sampling) -> bool:
    return sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0


def _choose_any(logits: Tensor, samplings: Sequence[Sampling], points: Array) -> Array:
    """Without a filter: the block in which the point lies, and the token in it. Shapes: out (rows,), -1 for unknown."""
    temperatures = _column(samplings, lambda sampling: sampling.temperature)
    blocks = _blocks(logits)  # (rows, blocks, BLOCK)
    top = blocks.amax(dim=(1, 2)).double().numpy()[:, None]
    sums = _block_sums(blocks, top, temperatures)
    ends = sums.cumsum(axis=1)
    targets, slack = points * ends[:, -1], 2 * _SINGLE * ends[:, -1]
    rows = np.arange(len(samplings))
    block = np.minimum((ends <= targets[:, None]).sum(axis=1), ends.shape[1] - 1)
    weights = _weights(blocks.numpy()[rows, block], top, temperatures)  # (rows, BLOCK)
    inner = (ends - sums)[rows, block][:, None] + weights.cumsum(axis=1)
    place = np.minimum((inner <= targets[:, None]).sum(axis=1), BLOCK - 1)
    end = inner[rows, place]
    is_sure = (targets - (end - weights[rows, place]) > slack) & (end - targets > slack)
    return np.where(is_sure, block * BLOCK + place, -1)


def _choose_filtered(logits: Tensor, samplings: Sequence[Sampling], points: Array) -> Array:
    """With filters: of what they keep, if all of it is near the top. Shapes: out (rows,), -1 for unknown."""
    temperatures = _column(samplings, lambda sampling: sampling.temperature)
    top_k = _column(samplings, lambda sampling: sampling.top_k).astype(np.int64)
    top_p = _column(samplings, lambda sampling: sampling.top_p)
    log_min_p = np.log(_column(samplings, lambda sampling: sampling.min_p))
    blocks = _blocks(logits)
    row, ids, listed, border = _likeliest(blocks, max(_LISTED, min(int(top_k.max()) + 1, _MOST_LISTED)))
    ranked = np.sort(_table(row, listed, len(samplings), -np.inf))[:, ::-1]  # (rows, listed)
    top = ranked[:, :1].astype(np.float64)
    weights = _weights(ranked, top, temperatures)

    # Who is not listed is below all who are: the k-th is known if there are so many.
    has_k, has_p = top_k > 0, top_p < 1
    kth = np.take_along_axis(ranked, np.clip(top_k, 1, ranked.shape[1]) - 1, axis=1)
    is_sure = ~has_k | ((top_k <= ranked.shape[1]) & (kth > -np.inf))
    floors = np.where(has_k, kth, -np.inf)
    weights = np.where(ranked >= floors, weights, 0.0)

    # The weight of all is known within its error; as many must be kept at its least as at its most.
    sums = weights.cumsum(axis=1)
    total, error = sums[:, -1:], np.where(has_k, _DOUBLE, _SINGLE)
    if (has_p & ~has_k).any():
        total = np.where(has_k, total, _block_sums(blocks, top, temperatures).sum(axis=1, keepdims=True))
    before = sums - weights
    fewest, most = ((before < top_p * total * (1 + sign * error)).sum(axis=1, keepdims=True) for sign in (-1, 1))
    is_sure &= ~has_p | ((fewest == most) & (has_k | (sums[:, -1:] >= top_p * total * (1 + error))))
    pth = np.take_along_axis(ranked, np.clip(most, 1, ranked.shape[1]) - 1, axis=1)
    floors = np.where(has_p, np.maximum(floors, pth), floors)

    is_sure &= (floors > -np.inf) | ((border - top) / temperatures < log_min_p)
    scores = _scores(listed, top[row, 0], temperatures[row, 0])
    is_kept = (listed >= floors[row, 0]) & (scores >= log_min_p[row, 0])
    kept = _table(row, np.where(is_kept, torch.from_numpy(scores).exp().numpy(), 0.0), len(samplings), 0.0)
    sums = kept.cumsum(axis=1)
    totals = sums[:, -1]
    targets = np.minimum(totals * points, np.nextafter(totals, 0.0))
    place = np.minimum((sums <= targets[:, None]).sum(axis=1, keepdims=True), sums.shape[1] - 1)
    chosen = np.take_along_axis(_table(row, ids, len(samplings), 0), place, axis=1)
    return np.where(is_sure, chosen, -1)[:, 0]


def _likeliest(blocks: Tensor, num_blocks: int) -> tuple[Array, Array, Array, Array]:
    """All logits above a border, by row and then by id: their rows, ids and values; and each row's border.

    Shapes: (listed,) three times, (rows, 1).
    """
    maxima = blocks.amax(dim=2).numpy()
    num_rows, total = maxima.shape
    num_blocks = min(num_blocks, total)
    best = np.sort(np.argpartition(maxima, total - num_blocks, axis=1)[:, total - num_blocks :], axis=1)
    border = np.take_along_axis(maxima, best, axis=1).min(axis=1, keepdims=True)
    if num_blocks == total:
        border = np.full_like(border, -np.inf)
    near = blocks.numpy()[np.arange(num_rows)[:, None], best].reshape(num_rows, -1)
    row, place = np.divmod(np.flatnonzero(near > border), near.shape[1])
    return row, best[row, place // BLOCK] * BLOCK + place % BLOCK, near[row, place], border


def _table(row: Array, values: Array, num_rows: int, missing: float) -> Array:
    """Values in the order of their rows, one row under the other. Shapes: out (rows, most in a row or 1)."""
    counts = np.bincount(row, minlength=num_rows)
    table = np.full((num_rows, max(int(counts.max()), 1)), missing, dtype=values.dtype)
    table[row, np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)] = values
    return table


def _blocks(logits: Tensor) -> Tensor:
    """Shapes: (rows, vocabulary) → (rows, blocks, BLOCK), filled up with what is never said."""
    missing = -logits.shape[1] % BLOCK
    whole = pad(logits, (0, missing), value=-torch.inf) if missing else logits
    return whole.view(len(whole), -1, BLOCK)


def _block_sums(blocks: Tensor, top: Array, temperatures: Array) -> Array:
    """Of the weights, in single precision within a block. Shapes: out (rows, blocks) float64."""
    sums = np.empty(blocks.shape[:2])
    weights = torch.empty(blocks.shape[1:])
    scratch = weights.numpy()
    for row, values in enumerate(blocks.numpy()):  # one by one: a row stays in the processor's cache
        np.subtract(values, np.float32(top[row, 0]), out=scratch)
        np.multiply(scratch, np.float32(1 / temperatures[row, 0]), out=scratch)
        np.exp(scratch, out=scratch)
        sums[row] = weights.sum(dim=1).numpy()
    return sums


def _weights(logits: Array, top: Array, temperatures: Array) -> Array:
    """Relative to the largest, as `draw` computes them."""
    return torch.from_numpy(_scores(logits, top, temperatures)).exp().numpy()


def _scores(logits: Array, top: Array, temperatures: Array) -> Array:
    return (logits.astype(np.float64) - top) / temperatures


def _column(samplings: Sequence[Sampling], value: Callable[[Sampling], float]) -> Array:
    """Shapes: out (rows, 1) float64."""
    return np.array([[value(sampling)] for sampling in samplings], dtype=np.float64)

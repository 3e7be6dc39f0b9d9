"""One token of each row, at random: the filters of the distribution, and the draw at a point of it.

All in double precision and relative to the largest logit, so that no temperature overflows and sums are exact enough.
Filters are thresholds, so that tokens that are equally likely are kept or dropped together, in whatever order.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from lavatube.engine.upload import upload
from lavatube.engine.wire import Sampling
from lavatube.model.native import native

_SEED_AND_POSITION: Final = struct.Struct(">QQ")
_SEED_MASK: Final = 2**64 - 1
_HEAD: Final = 256  # ranking so many is cheap, and most answers are among them


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), the same on every machine, without relation between neighbouring seeds or positions."""
    key = _SEED_AND_POSITION.pack(seed & _SEED_MASK, position)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def draw(logits: Tensor, samplings: Sequence[Sampling], points: Sequence[float], *, may_read: bool = True) -> Tensor:
    """The id at each row's point of its cumulative distribution, in the order of ids.

    Without `may_read` nothing is decided by a value: that is more work, but a device is not waited for.

    Shapes: logits (rows, vocabulary), out (rows,). Temperatures are above 0.
    """
    scores = logits.double()
    scores = scores - scores.amax(dim=-1, keepdim=True)
    scores = scores / _column([sampling.temperature for sampling in samplings], scores)
    sums = _filter(scores, samplings, may_read=may_read).exp().cumsum(dim=-1)
    totals = sums[:, -1:]
    targets = totals * _column(points, scores)
    targets = torch.minimum(targets, torch.nextafter(totals, torch.zeros_like(totals)))  # rounding may reach it
    # Of a row in which nothing can be said there are no sums, and a place behind the last is none.
    return torch.searchsorted(sums, targets, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def _filter(scores: Tensor, samplings: Sequence[Sampling], *, may_read: bool) -> Tensor:
    """-inf for what top-k, top-p and min-p drop; each row keeps its largest, which is 0."""
    vocab_size = scores.shape[1]
    ranking = [
        index for index, sampling in enumerate(samplings) if 0 < sampling.top_k < vocab_size or sampling.top_p < 1
    ]
    if ranking and not may_read:
        scores = scores.masked_fill(scores < _floors_unread(scores, samplings), -torch.inf)
    elif ranking:
        ranked = scores[ranking]
        floors = _floors(ranked, [samplings[index] for index in ranking])
        scores[ranking] = ranked.masked_fill(ranked < floors, -torch.inf)
    if any(sampling.min_p > 0 for sampling in samplings):
        floors = _column([math.log(sampling.min_p) if sampling.min_p else -math.inf for sampling in samplings], scores)
        scores = scores.masked_fill(scores < floors, -torch.inf)
    return scores


def _floors(scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """The smallest score of each row that top-k and top-p keep. Shapes: scores (rows, vocabulary), out (rows, 1).

    The kernels find it without a ranking. Else the head of one nearly always settles it; the whole vocabulary is ranked
    only where it does not.
    """
    vocab_size = scores.shape[1]
    sizes = [min(sampling.top_k or vocab_size, vocab_size) for sampling in samplings]
    needed = max(size if size < vocab_size else 1 for size in sizes)
    kernels = native()
    if kernels is not None:
        by_rank = _kth(scores.topk(needed).values, sizes, vocab_size)
        return kernels.nucleus(scores, by_rank, _shares(samplings, scores)) if _any_share(samplings) else by_rank
    floors, is_settled = _floors_in_head(scores, samplings, sizes, min(max(_HEAD, needed + 1), vocab_size))
    return floors if is_settled else _floors_in_head(scores, samplings, sizes, vocab_size)[0]


def _floors_unread(scores: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """The same without a look at whether a head is enough. Shapes: scores (rows, vocabulary), out (rows, 1)."""
    vocab_size = scores.shape[1]
    sizes = [min(sampling.top_k or vocab_size, vocab_size) for sampling in samplings]
    needed = max(size if size < vocab_size else 1 for size in sizes)
    return _floors_in_head(scores, samplings, sizes, vocab_size if _any_share(samplings) else needed)[0]


def _floors_in_head(
    scores: Tensor, samplings: Sequence[Sampling], sizes: Sequence[int], head: int
) -> tuple[Tensor, bool]:
    """The floors as the `head` likeliest tokens show them, and whether those are enough to know."""
    vocab_size = scores.shape[1]
    is_whole = upload(torch.tensor(sizes), scores.device)[:, None] == vocab_size
    ranked = scores.topk(head).values if head < vocab_size else scores.sort(dim=-1, descending=True).values
    floors = _kth(ranked, sizes, vocab_size)
    if not _any_share(samplings):
        return floors, True
    # What is before a token decides, so that the first is always kept and the one that reaches top_p is, too.
    limits = _shares(samplings, scores)
    weights = ranked.exp().masked_fill(ranked < floors, 0.0)
    totals = torch.where(is_whole, scores.exp().sum(dim=-1, keepdim=True), weights.sum(dim=-1, keepdim=True))
    num_kept = (weights.cumsum(dim=-1) - weights < limits * totals).sum(dim=-1, keepdim=True)
    by_share = ranked.gather(1, (num_kept - 1).clamp(min=0))
    # Behind the head there may be more that top-p keeps, or that are as likely as the k-th and count in the total.
    last = ranked[:, -1:]
    is_open = limits.isfinite() & torch.where(is_whole, num_kept == head, (last >= floors) & last.isfinite())
    is_settled = head == vocab_size or not bool(is_open.any())
    return torch.where(limits.isfinite(), torch.maximum(floors, by_share), floors), is_settled


def _kth(ranked: Tensor, sizes: Sequence[int], vocab_size: int) -> Tensor:
    """The smallest score that top-k keeps; none where it keeps all. Shapes: ranked (rows, head), out (rows, 1)."""
    size = upload(torch.tensor(sizes), ranked.device)[:, None]
    return ranked.gather(1, size.clamp(max=ranked.shape[1]) - 1).masked_fill(size == vocab_size, -torch.inf)


def _any_share(samplings: Sequence[Sampling]) -> bool:
    return any(sampling.top_p < 1 for sampling in samplings)


def _shares(samplings: Sequence[Sampling], like: Tensor) -> Tensor:
    """What top-p keeps of the weight; more than there is where it keeps all. Shapes: out (rows, 1)."""
    return _column([sampling.top_p if sampling.top_p < 1 else math.inf for sampling in samplings], like)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Shapes: out (rows, 1) float64."""
    return upload(torch.tensor(values, dtype=torch.float64), like.device)[:, None]

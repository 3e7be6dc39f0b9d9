"""The sampler's definition in plain Python, one row at a time: the slow reference that tests compare with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

from lavatube.engine.wire import Sampling

Distribution = dict[int, float]


def adjusted(logits: Sequence[float], sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Bias, repetition penalty over all, the other penalties over the answer, no stop token before min_tokens."""
    scores = list(logits)
    for token_id, bias in sampling.logit_bias:
        scores[token_id] += bias
    for token_id in {*prompt, *answer}:
        score = scores[token_id]
        scores[token_id] = score * sampling.repetition_penalty if score < 0 else score / sampling.repetition_penalty
    for token_id, count in Counter(answer).items():
        scores[token_id] -= sampling.frequency_penalty * count + sampling.presence_penalty
    if len(answer) < sampling.min_tokens:
        for token_id in sampling.stop_token_ids:
            scores[token_id] = -math.inf
    return scores


def softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / math.fsum(weights) for weight in weights]


def distribution(scores: Sequence[float], sampling: Sampling) -> Distribution:
    """Temperature, top-k, top-p, min-p, in this order; ties at a border are kept together."""
    shares = dict(enumerate(softmax([score / sampling.temperature for score in scores])))
    if sampling.top_k:
        border = sorted(shares.values(), reverse=True)[: sampling.top_k][-1]
        shares = _renormalised({token_id: share for token_id, share in shares.items() if share >= border})
    if sampling.top_p < 1:
        kept, total = [], 0.0
        for share in sorted(shares.values(), reverse=True):
            if kept and total >= sampling.top_p:
                break
            kept.append(share)
            total += share
        shares = _renormalised({token_id: share for token_id, share in shares.items() if share >= kept[-1]})
    border = sampling.min_p * max(shares.values())
    return _renormalised({token_id: share for token_id, share in shares.items() if share >= border})


def drawn(shares: Distribution, point: float) -> int:
    """The token in whose part of [0, 1) the point lies, parts in the order of ids."""
    total = 0.0
    for token_id, share in sorted(shares.items()):
        total += share
        if point < total:
            return token_id
    return max(shares)


def near_border(shares: Distribution, point: float) -> bool:
    """Whether the rounding of single precision may decide."""
    total, sums = 0.0, []
    for _, share in sorted(shares.items()):
        total += share
        sums.append(total)
    return any(abs(point - at) < 1e-5 for at in sums)


def logprob(logits: Sequence[float], token_id: int, unsayable: Collection[int]) -> float:
    """In the distribution over what can be said."""
    sayable = [logit for index, logit in enumerate(logits) if index not in unsayable]
    top = max(sayable)
    return logits[token_id] - top - math.log(math.fsum(math.exp(logit - top) for logit in sayable))


def _renormalised(shares: Distribution) -> Distribution:
    total = math.fsum(shares.values())
    return {token_id: share / total for token_id, share in shares.items()}

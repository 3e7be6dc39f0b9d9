"""Rows of logits in, the next tokens out: a pure function of (logits, Sampling, the tokens so far), row by row.

What else is in the batch, the device and the run do not matter: a draw is a number made from the seed and the position,
not the next value of a generator.

Source: order of the steps as in transformers' generate: bias, penalties, bans; then temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import torch
from torch import Tensor

from lavatube.engine.draw import draw, uniform
from lavatube.engine.on_device import choose_on_device
from lavatube.engine.penalties import adjust
from lavatube.engine.row import Row
from lavatube.engine.shortlist import draw_from_shortlist
from lavatube.engine.wire import Logprobs, Sampling
from lavatube.model.native import native


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The token that was chosen, and how likely it was where that was asked for."""

    token_id: int
    logprobs: Logprobs | None = None


class Sampler:
    """Chooses tokens, never one of `forbidden_ids` (placeholders) nor one the tokenizer does not know."""

    def __init__(self, vocab_size: int, forbidden_ids: Iterable[int], num_token_ids: int, device: torch.device) -> None:
        """`num_token_ids` is how many ids the tokenizer knows; rows from there on are padding."""
        forbidden = {token_id for token_id in forbidden_ids if token_id < vocab_size} | {
            *range(num_token_ids, vocab_size)
        }
        self._forbidden = frozenset(forbidden)
        self.forbidden_ids = torch.tensor(sorted(forbidden), dtype=torch.int64, device=device)

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Choice | None]:
        """The next token of each row; None where the logits have a NaN or an infinity: any choice from it is noise.

        Shapes: logits (rows, vocabulary) float32, used up: what can't be said is -inf afterwards.
        """
        if logits.device.type != "cpu":
            found = choose_on_device(logits, rows, self.forbidden_ids)
            return [None if one is None else Choice(*one) for one in found]
        chosen, is_finite = _scan(logits)
        if all(is_finite) and self._forbidden.isdisjoint(chosen) and all(row.is_plain for row in rows):
            return [Choice(token_id) for token_id in chosen]
        logits.index_fill_(1, self.forbidden_ids, -torch.inf)
        if not all(is_finite):
            logits[[index for index, is_good in enumerate(is_finite) if not is_good]] = 0.0
        chosen = _choose(adjust(logits, rows), rows)
        choices = zip(chosen, _logprobs(logits, chosen, rows), is_finite, strict=True)
        return [Choice(token_id, likely) if is_good else None for token_id, likely, is_good in choices]


def _scan(logits: Tensor) -> tuple[list[int], list[bool]]:
    """The likeliest of each row, and whether the row is of numbers only; where it is not, the first is any."""
    kernels = native()
    if kernels is not None:
        return kernels.find_largest(logits)
    is_good = logits.amin(dim=-1).isfinite() & logits.amax(dim=-1).isfinite()  # NaN is both least and most
    return logits.argmax(dim=-1).tolist(), is_good.tolist()


def _choose(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """The likeliest of each row, or one that is drawn. Shapes: logits (rows, vocabulary), as the rows want them."""
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    chosen = _scan(logits)[0] if len(drawn) < len(rows) else [0] * len(rows)
    if drawn:
        samplings = [rows[index].sampling for index in drawn]
        points = [uniform(rows[index].sampling.seed, rows[index].position) for index in drawn]
        some = logits if len(drawn) == len(rows) else logits[drawn]
        for index, token_id in zip(drawn, _draw(some, samplings, points), strict=True):
            chosen[index] = token_id
    return chosen


def _draw(logits: Tensor, samplings: Sequence[Sampling], points: Sequence[float]) -> list[int]:
    """From the shortlist where that tells."""
    found = draw_from_shortlist(logits, samplings, points)
    left = [index for index, token_id in enumerate(found) if token_id is None]
    if left:
        whole = draw(logits[left], [samplings[index] for index in left], [points[index] for index in left])
        for index, token_id in zip(left, whole.tolist(), strict=True):
            found[index] = token_id
    return [token_id for token_id in found if token_id is not None]


def _logprobs(logits: Tensor, chosen: Sequence[int], rows: Sequence[Row]) -> list[Logprobs | None]:
    """For the rows that ask."""
    found: list[Logprobs | None] = [None] * len(rows)
    asking = [index for index, row in enumerate(rows) if row.sampling.top_logprobs is not None]
    if not asking:
        return found
    table = logits[asking].double().log_softmax(dim=-1)  # (asking, vocabulary)
    own = table[range(len(asking)), [chosen[index] for index in asking]].tolist()
    most = max(rows[index].sampling.top_logprobs or 0 for index in asking)
    values, ids = table.topk(min(most, table.shape[1]))
    for index, chosen_value, row_values, row_ids in zip(asking, own, values.tolist(), ids.tolist(), strict=True):
        top = list(zip(row_ids, row_values, strict=True))[: rows[index].sampling.top_logprobs or 0]
        found[index] = Logprobs(chosen_value, [(token_id, value) for token_id, value in top if value > -torch.inf])
    return found

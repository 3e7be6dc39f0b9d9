"""Tokens of logits that are on a device: all is worked out there, and read once. What the CPU chooses is chosen.

Which operations there are is decided by what the rows ask for, and never by a value that had to be read back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavatube.engine.draw import draw, uniform
from lavatube.engine.penalties import adjust
from lavatube.engine.row import Row
from lavatube.engine.upload import upload
from lavatube.engine.wire import Logprobs, Sampling

_ANY_DRAW = Sampling(1, temperature=1.0)  # of a row that wants none


def choose_on_device(
    logits: Tensor, rows: Sequence[Row], forbidden_ids: Tensor
) -> list[tuple[int, Logprobs | None] | None]:
    """Of each row the token, and how likely it is where that is asked for; None where the row is not of numbers only.

    Shapes: logits (rows, vocabulary) float32, used up; forbidden_ids (n,).
    """
    found: list[tuple[int, Logprobs | None] | None] = []
    for row, (token_id, is_good, *likely) in zip(rows, work_out(logits, rows, forbidden_ids).tolist(), strict=True):
        wanted = row.sampling.top_logprobs
        logprobs = None if wanted is None else _logprobs(likely, wanted)
        found.append((int(token_id), logprobs) if is_good else None)
    return found


def work_out(logits: Tensor, rows: Sequence[Row], forbidden_ids: Tensor) -> Tensor:
    """All that there is to read, together.

    Shapes: as above; out (rows, 2) float64, the token and whether the row is of numbers only, and if any row asks how
    likely tokens are (rows, 3 + 2 · n): then that of the token, those of the n likeliest, and their ids.
    """
    is_good = logits.amin(dim=-1).isfinite() & logits.amax(dim=-1).isfinite()  # NaN is both least and most
    logits.index_fill_(1, forbidden_ids, -torch.inf)
    logits = logits.masked_fill_(~is_good[:, None], 0.0)
    chosen = _choose(adjust(logits, rows), rows)[:, None]
    parts = [chosen, is_good[:, None]]
    asked = [row.sampling.top_logprobs for row in rows if row.sampling.top_logprobs is not None]
    if asked:
        table = logits.double().log_softmax(dim=-1)
        parts += [table.gather(1, chosen), *table.topk(min(max(asked), table.shape[1]))]
    return torch.cat([part.double() for part in parts], dim=1)


def _choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Shapes: logits (rows, vocabulary), as the rows want them; out (rows,)."""
    likeliest = logits.argmax(dim=-1)
    is_drawn = [row.sampling.temperature > 0 for row in rows]
    if not any(is_drawn):
        return likeliest
    samplings = [row.sampling if wanted else _ANY_DRAW for row, wanted in zip(rows, is_drawn, strict=True)]
    points = [uniform(row.sampling.seed, row.position) for row in rows]
    drawn = draw(logits, samplings, points, may_read=False)
    return drawn if all(is_drawn) else torch.where(upload(torch.tensor(is_drawn), logits.device), drawn, likeliest)


def _logprobs(likely: list[float], wanted: int) -> Logprobs:
    own, *top = likely
    values, ids = top[: len(top) // 2], top[len(top) // 2 :]
    pairs = list(zip(map(int, ids), values, strict=True))[:wanted]
    return Logprobs(own, [(token_id, value) for token_id, value in pairs if value > -torch.inf])

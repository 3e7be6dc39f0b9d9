"""What moves or bans single tokens before one is chosen: bias, penalties for what was said, min_tokens, a grammar.

Sparse: a row that asks for none of it costs nothing, one that does costs the tokens it names or has seen; as arrays,
for those are thousands, and all streams wait.

Source: repetition penalty as in CTRL (arXiv:1909.05858) and transformers, over prompt and answer; presence and
frequency penalty as OpenAI's API documents them, over the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavatube.engine.row import Row
from lavatube.engine.upload import upload

Cells = tuple[Tensor, Tensor, Tensor]
"""Cells of the logits: their rows, their ids, and a number for each."""
Pairs = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Of one row: ids, and a number for each."""


def adjust(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """The logits as the rows want them; a copy where any wants something.

    Shapes: (rows, vocabulary) float32.
    """
    biases = _cells(logits, map(_biases, rows))
    repeated = _cells(logits, map(_repeated, rows))
    said = _cells(logits, map(_said, rows))
    banned = _cells(logits, map(_banned, rows))
    constrained = [index for index, row in enumerate(rows) if row.allowed is not None]
    if biases is repeated is said is banned is None and not constrained:
        return logits
    logits = logits.clone()
    if biases is not None:
        at_row, at_id, bias = biases
        logits[at_row, at_id] += bias
    if repeated is not None:
        at_row, at_id, penalty = repeated
        scores = logits[at_row, at_id]
        logits[at_row, at_id] = torch.where(scores < 0, scores * penalty, scores / penalty)
    if said is not None:
        at_row, at_id, penalty = said
        logits[at_row, at_id] -= penalty
    if banned is not None:
        at_row, at_id, _ = banned
        logits[at_row, at_id] = -torch.inf
    if constrained:
        is_allowed = _unpack([rows[index].allowed or b"" for index in constrained], logits)
        at_row = upload(torch.tensor(constrained), logits.device)
        logits.index_copy_(0, at_row, logits[at_row].masked_fill_(~is_allowed, -torch.inf))
    return logits


def _biases(row: Row) -> Pairs | None:
    pairs = row.sampling.logit_bias
    return (np.array([token_id for token_id, _ in pairs]), np.array([bias for _, bias in pairs])) if pairs else None


def _repeated(row: Row) -> Pairs | None:
    """Ids as often as they stand there: each time the cell becomes the same, by what it was."""
    penalty = row.sampling.repetition_penalty
    return None if penalty == 1 else _pairs(np.array(row.token_ids, np.int64), penalty)


def _said(row: Row) -> Pairs | None:
    presence, frequency = row.sampling.presence_penalty, row.sampling.frequency_penalty
    if presence == frequency == 0:
        return None
    ids, counts = np.unique(np.array(row.answer_ids, np.int64), return_counts=True)
    return ids, presence + frequency * counts.astype(np.float64)


def _banned(row: Row) -> Pairs | None:
    return None if row.may_stop else _pairs(np.array(row.sampling.stop_token_ids, np.int64), 0.0)


def _pairs(ids: NDArray[np.int64], value: float) -> Pairs:
    return ids, np.full(len(ids), value)


def _cells(logits: Tensor, by_row: Iterable[Pairs | None]) -> Cells | None:
    """None where there are none. An id past the vocabulary is a placeholder's and has no logit."""
    found = [(index, *pairs) for index, pairs in enumerate(by_row) if pairs is not None]
    if not found:
        return None
    rows, ids, values = zip(*found, strict=True)
    at_row, at_id, value = np.repeat(rows, list(map(len, ids))), np.concatenate(ids), np.concatenate(values)
    has_logit = at_id < logits.shape[1]
    if not has_logit.any():
        return None
    device = logits.device
    return (
        upload(torch.from_numpy(at_row[has_logit]), device),
        upload(torch.from_numpy(at_id[has_logit]), device),
        upload(torch.from_numpy(value[has_logit]).to(logits.dtype), device),
    )


def _unpack(masks: Sequence[bytes], logits: Tensor) -> Tensor:
    """Shapes: out (masks, vocabulary) bool."""
    packed = upload(torch.frombuffer(bytearray().join(masks), dtype=torch.uint8), logits.device).view(len(masks), -1)
    bits = (packed[:, :, None] >> torch.arange(8, device=logits.device, dtype=torch.uint8)) & 1  # (masks, bytes, 8)
    return bits.flatten(1)[:, : logits.shape[1]].bool()

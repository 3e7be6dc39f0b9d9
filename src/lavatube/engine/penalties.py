"""What moves or bans single tokens before one is chosen: bias, penalties for what was said, min_tokens, a grammar.

Sparse: a row that asks for none of it costs nothing, one that does costs the tokens it names or has seen.

Source: repetition penalty as in CTRL (arXiv:1909.05858) and transformers, over prompt and answer; presence and
frequency penalty as OpenAI's API documents them, over the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lavatube.engine.row import Row
from lavatube.engine.upload import upload

Cells = tuple[Tensor, Tensor, Tensor]
"""Cells of the logits, none of them twice: their rows, their ids, and a number for each."""


def adjust(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """The logits as the rows want them; a copy where any wants something.

    Shapes: (rows, vocabulary) float32.
    """
    biases = _cells(logits, (row.sampling.logit_bias for row in rows))
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


def _repeated(row: Row) -> Iterable[tuple[int, float]]:
    penalty = row.sampling.repetition_penalty
    return () if penalty == 1 else ((token_id, penalty) for token_id in set(row.token_ids))


def _said(row: Row) -> Iterable[tuple[int, float]]:
    presence, frequency = row.sampling.presence_penalty, row.sampling.frequency_penalty
    if presence == frequency == 0:
        return ()
    return ((token_id, presence + frequency * count) for token_id, count in Counter(row.answer_ids).items())


def _banned(row: Row) -> Iterable[tuple[int, float]]:
    return () if row.may_stop else ((token_id, 0.0) for token_id in set(row.sampling.stop_token_ids))


def _cells(logits: Tensor, by_row: Iterable[Iterable[tuple[int, float]]]) -> Cells | None:
    """None where there are none. An id past the vocabulary is a placeholder's and has no logit."""
    vocab_size = logits.shape[1]
    found = [
        (index, token_id, value)
        for index, pairs in enumerate(by_row)
        for token_id, value in pairs
        if token_id < vocab_size
    ]
    if not found:
        return None
    at_row, at_id, values = zip(*found, strict=True)
    device = logits.device
    return (
        upload(torch.tensor(at_row), device),
        upload(torch.tensor(at_id), device),
        upload(torch.tensor(values, dtype=logits.dtype), device),
    )


def _unpack(masks: Sequence[bytes], logits: Tensor) -> Tensor:
    """Shapes: out (masks, vocabulary) bool."""
    packed = upload(torch.frombuffer(bytearray().join(masks), dtype=torch.uint8), logits.device).view(len(masks), -1)
    bits = (packed[:, :, None] >> torch.arange(8, device=logits.device, dtype=torch.uint8)) & 1  # (masks, bytes, 8)
    return bits.flatten(1)[:, : logits.shape[1]].bool()

"""Packs many conversations about one picture behind one image prefix, each blind to the others.

Every conversation starts at the position right after the image, as it does when served alone, so one run over the image
teaches about ten questions. Token ids are those of the rendered chat template (tested).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from train.dialogue import SYSTEMS, Conversation, sample_conversation, sample_single
from train.llava import NUM_IMAGE_TOKENS
from train.pool import untabulate
from train.questions import choose
from train.tokenizer import BOS, EOS, IMAGE, PAD, SPECIALS

TEXT_TOKENS = 256
SYSTEM_SHARE = 0.1
CONVERSATION_SHARE = 0.5
IGNORED = -100
PREFIX, PADDING = 0, -1


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of packed pictures.

    Shapes: ids, labels, positions (n, length) int64; mask (n, 1, length, length) bool, true where a token may look;
    image_start: where the image tokens begin, the same in every row. Labels are already moved one to the left.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor
    image_start: int


def segment(tokenizer: Tokenizer, conversation: Conversation) -> tuple[list[int], list[bool]]:
    """Tokenise what follows the image, and mark what the model itself must say.

    A conversation without a picture starts with its own prefix instead.
    """
    ids: list[int] = []
    is_answer: list[bool] = []
    for turn, exchange in enumerate(conversation.exchanges):
        first = "\n" if conversation.has_picture else _opening(conversation.system)
        start = "USER: " if turn else first
        asked = tokenizer.encode(f"{start}{exchange.question.strip()} ASSISTANT:").ids
        said = [*tokenizer.encode(f" {exchange.answer}").ids, SPECIALS.index(EOS)]
        ids += asked + said
        is_answer += [False] * len(asked) + [True] * len(said)
    return ids, is_answer


def prefix(tokenizer: Tokenizer, system: str) -> list[int]:
    """Tokenise what comes before the image."""
    return list(tokenizer.encode(_opening(system)).ids)


def _opening(system: str) -> str:
    return f"{BOS}{system} USER: " if system else f"{BOS}USER: "


def pack(random: np.random.Generator, tokenizer: Tokenizer, tables: np.ndarray) -> Packed:
    """Fill a batch with made-up conversations about its pictures. Shapes: tables (n, 6, 7)."""
    system = choose(random, SYSTEMS) if random.random() < SYSTEM_SHARE else ""
    start = prefix(tokenizer, system)
    opening = start + [SPECIALS.index(IMAGE)] * NUM_IMAGE_TOKENS
    length = len(opening) + TEXT_TOKENS
    num_rows = len(tables)
    ids = np.full((num_rows, length), SPECIALS.index(PAD))
    labels = np.full((num_rows, length), IGNORED)
    positions = np.zeros((num_rows, length), dtype=np.int64)
    segments = np.full((num_rows, length), PADDING)
    sees_image = np.zeros((num_rows, length), dtype=bool)
    for row in range(num_rows):
        ids[row, : len(opening)] = opening
        positions[row, : len(opening)] = np.arange(len(opening))
        segments[row, : len(opening)] = PREFIX
        at, number = len(opening), PREFIX + 1
        for conversation in _sample(random, tables[row]):
            tokens, is_answer = segment(tokenizer, conversation)
            end = at + len(tokens)
            if end > length:
                break
            ids[row, at:end] = tokens
            spoken = np.flatnonzero(is_answer)
            labels[row, at + spoken - 1] = np.array(tokens)[spoken]
            first = len(opening) if conversation.has_picture else 0
            positions[row, at:end] = first + np.arange(len(tokens))
            segments[row, at:end] = number
            sees_image[row, at:end] = conversation.has_picture
            at, number = end, number + 1
    return Packed(
        torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(positions),
        torch.from_numpy(_mask(segments, sees_image)), len(start),
    )  # fmt: skip


def _sample(random: np.random.Generator, table: np.ndarray) -> Sequence[Conversation]:
    things = untabulate(table)
    num_talks = 2 if random.random() < CONVERSATION_SHARE else 0
    talks = [sample_conversation(random, things) for _ in range(num_talks)]
    return [*talks, *(sample_single(random, things) for _ in range(14))]


def _mask(segments: np.ndarray, sees_image: np.ndarray) -> np.ndarray:
    """Let a token see what came before it in its own conversation and, where it has one, its picture."""
    length = segments.shape[1]
    causal = np.tril(np.ones((length, length), dtype=bool))
    same = segments[:, :, None] == segments[:, None, :]
    image = sees_image[:, :, None] & (segments[:, None, :] == PREFIX)
    return np.asarray(causal[None] & (same | image))[:, None]

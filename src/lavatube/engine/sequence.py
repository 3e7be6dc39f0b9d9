"""One answer to be inside the engine: its token ids, how many of them are computed, and where it stands."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import torch

from lavatube.engine.blocks import BlockTable, new_table
from lavatube.engine.grammar import Matcher
from lavatube.engine.lookup import Lookup
from lavatube.engine.prefix import block_key, root_key
from lavatube.engine.row import Row
from lavatube.engine.wire import Pixels, Sampling
from lavatube.geometry import ImagePlan


class SequenceState(Enum):
    """WAITING holds nothing on the device; RUNNING holds blocks; FINISHED is for ever.

    EXPECTED, too, holds nothing, and is in no queue: it waits for its grammar, or for the prompt that it shares.
    """

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()
    EXPECTED = auto()


_LEGAL_MOVES: Final = {
    SequenceState.WAITING: {SequenceState.RUNNING, SequenceState.FINISHED},
    SequenceState.RUNNING: {SequenceState.WAITING, SequenceState.FINISHED},
    SequenceState.FINISHED: set[SequenceState](),
    SequenceState.EXPECTED: {SequenceState.WAITING, SequenceState.RUNNING, SequenceState.FINISHED},
}


MAX_RECENT: Final = 16


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """One image, how it is laid out, and the token ids from `start` up to `end` that are its placeholders.

    `key` names its features in the caches.
    """

    start: int
    end: int
    pixels: Pixels
    plan: ImagePlan
    key: bytes = b""


@dataclass(slots=True, eq=False)
class Sequence:
    """The prompt and what was added to it so far.

    `token_ids` is both; the first `num_computed_tokens` of them have their keys and values in the cache. `features`
    are the encoded images whose placeholders are not yet computed: (placeholders, hidden), by the index in `images`.
    `siblings` are the request's other choices, which begin where this one's prompt ends. `block_keys` name the full
    blocks of its tokens, as far as they were asked for; the first `num_remembered_blocks` can be found by others.
    `num_cached_tokens` of its prompt were found when it first began. Moments are seconds of the engine's clock.
    """

    request_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    sampling: Sampling
    images: tuple[ImageSpan, ...] = ()
    salt: bytes = b""
    choice: int = 0
    matcher: Matcher | None = None
    lookup: Lookup | None = None
    siblings: list[Sequence] = field(default_factory=list)
    arrived_s: float = 0.0
    scheduled_s: float | None = None
    first_token_s: float | None = None
    recent_tokens_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RECENT))
    state: SequenceState = SequenceState.EXPECTED
    num_computed_tokens: int = 0
    num_cached_tokens: int | None = None
    block_table: BlockTable = field(default_factory=new_table)
    block_keys: list[bytes] = field(default_factory=list)
    num_remembered_blocks: int = 0
    features: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        """1 when decoding: the token sampled last; more while there is prompt, or a recomputation, to do."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_completion_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_left(self) -> int:
        """Tokens that may still come."""
        return self.sampling.max_tokens - self.num_completion_tokens

    @property
    def images_ahead(self) -> list[int]:
        """Images that are still to be computed and not encoded yet."""
        return [
            index
            for index, span in enumerate(self.images)
            if span.end > self.num_computed_tokens and index not in self.features
        ]

    @property
    def num_ready_tokens(self) -> int:
        """Tokens before the first placeholder whose image is not encoded yet."""
        ahead = self.images_ahead
        return self.images[ahead[0]].start if ahead else self.num_tokens

    @property
    def is_plain(self) -> bool:
        """Whether what comes next is the likeliest token, whatever came before. Then it is so from there on."""
        return self.matcher is None and not self.siblings and self.next_row().is_plain

    def next_row(self, guess: tuple[int, ...] = ()) -> Row:
        """What the choice of the next token depends on, and of the one after a guess, should that be right."""
        allowed = None if self.matcher is None else self.matcher.allowed()
        token_ids = [*self.token_ids, *guess] if guess else self.token_ids
        return Row(self.sampling, token_ids, self.num_prompt_tokens, allowed)

    def move(self, state: SequenceState) -> None:
        assert state in _LEGAL_MOVES[self.state], f"{self.request_id} can't go from {self.state} to {state}"
        self.state = state

    def compute(self, end: int) -> None:
        """The tokens up to `end` are in the cache now; the features of images that lie before it are let go."""
        assert self.num_computed_tokens < end <= len(self.token_ids)
        self.num_computed_tokens = end
        if self.features:
            for index in [index for index in self.features if self.images[index].end <= end]:
                del self.features[index]

    def adopt(self, num_tokens: int) -> int:
        """The first `num_tokens` were found in the cache. Returns how many of the prompt's were when it first began."""
        assert self.num_computed_tokens == 0
        self.num_computed_tokens = num_tokens
        self.num_remembered_blocks = len(self.block_table)
        if self.num_cached_tokens is None:
            self.num_cached_tokens = min(num_tokens, self.num_prompt_tokens)
        return self.num_cached_tokens

    def keys_of_blocks(self, num_blocks: int, block_size: int) -> list[bytes]:
        """The keys of its first `num_blocks`, all of which its tokens must fill."""
        assert num_blocks * block_size <= self.num_tokens
        while len(self.block_keys) < num_blocks:
            start = len(self.block_keys) * block_size
            end = start + block_size
            before = self.block_keys[-1] if self.block_keys else root_key(self.salt)
            images = [(span.start - start, span.key) for span in self.images if span.start < end and start < span.end]
            self.block_keys.append(block_key(before, self.token_ids[start:end], images))
        return self.block_keys[:num_blocks]

    def forget(self) -> None:
        """Nothing is computed any more; the tokens so far are the prompt of a recomputation."""
        self.num_computed_tokens = self.num_remembered_blocks = 0
        self.features.clear()

    def num_tokens_since(self, moment_s: float) -> int:
        """Tokens sampled after a moment not long ago; of more than MAX_RECENT it says MAX_RECENT."""
        return sum(token_s > moment_s for token_s in self.recent_tokens_s)

    def durations(self, now_s: float) -> tuple[float, float, float]:
        """Seconds in the queue, from there to the first token, and from there until now."""
        scheduled_s = now_s if self.scheduled_s is None else self.scheduled_s
        first_token_s = now_s if self.first_token_s is None else self.first_token_s
        return scheduled_s - self.arrived_s, first_token_s - scheduled_s, now_s - first_token_s

"""The blocks of the paged KV cache: who holds which, and what is in the others. Knows counts, ids and keys; no tensors.

A sequence's keys and values lie in blocks of `block_size` tokens, named in order by its block table. Blocks are counted
by their users: full ones are shared, by the choices of one prompt and by prompts that begin alike, and nobody writes to
them any more. A full block whose contents have a key stays findable after its last user, until its memory is needed.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

BlockTable: TypeAlias = "array[int]"
"""Of 64-bit integers, as a step's tensor has them: so it is made of all tables by copying bytes."""


def new_table(blocks: Iterable[int] = ()) -> BlockTable:
    """A table that names these; an empty one is what `BlockAllocator` grows."""
    return array("q", blocks)


class BlockAllocator:
    """Grows and releases block tables; the only one that changes them."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._num_users = [0] * num_blocks
        # Blocks without a user: those without a key, longest free first; those with one, least recently used first.
        self._blank = deque(range(num_blocks))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks without a user, whatever is in them."""
        return len(self._blank) + len(self._idle)

    @property
    def num_remembered(self) -> int:
        """Blocks whose contents can be found by their key."""
        return len(self._key_of)

    @property
    def num_tokens(self) -> int:
        """Tokens that the whole cache holds."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens fill, the last one perhaps in part."""
        return -(-num_tokens // self.block_size)

    def holds(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether the table is long enough as it is."""
        return len(table) * self.block_size >= num_tokens

    def can_grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether `grow` would find the blocks it needs."""
        return self.blocks_for(num_tokens) - len(table) <= self.num_free

    def grow(self, table: BlockTable, num_tokens: int) -> None:
        """Extend `table` until it holds `num_tokens`; one that is long enough stays as it is."""
        assert self.can_grow(table, num_tokens), "ask can_grow first"
        while len(table) < self.blocks_for(num_tokens):
            block = self._take()
            self._num_users[block] = 1
            table.append(block)

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the first keys, up to the first that is not remembered."""
        found = []
        for key in keys:
            if key not in self._block_of:
                break
            found.append(self._block_of[key])
        return found

    def num_left(self, found: Sequence[int], num_tokens: int) -> int:
        """Blocks that would be left free after `adopt` and `grow`; negative when there are too few."""
        num_idle = sum(self._num_users[block] == 0 for block in found)
        return self.num_free - num_idle - (self.blocks_for(num_tokens) - len(found))

    def adopt(self, table: BlockTable, found: Sequence[int]) -> None:
        """Let an empty table begin with blocks that `find` found."""
        assert not table
        for block in found:
            self._num_users[block] += 1
            self._idle.pop(block, None)
            table.append(block)

    def remember(self, block: int, key: bytes) -> None:
        """Name a full block by its contents; where others have the same, the one that came first is kept."""
        assert self._num_users[block] > 0, f"block {block} is nobody's"
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def can_fork(self, num_tokens: int) -> bool:
        """Whether `fork` would find the block it may need."""
        return num_tokens % self.block_size == 0 or self.num_free > 0

    def fork(self, table: BlockTable, fork: BlockTable, num_tokens: int) -> list[tuple[int, int]]:
        """Let the empty table `fork` hold the same `num_tokens` as `table`; returns blocks to copy, (from, to).

        Full blocks are shared. The last one, when it is not full, is copied at once and not on write: both tables write
        to it in the very next step.
        """
        assert self.can_fork(num_tokens), "ask can_fork first"
        assert not fork
        for block in table[: num_tokens // self.block_size]:
            self._num_users[block] += 1
            fork.append(block)
        if num_tokens % self.block_size == 0:
            return []
        self.grow(fork, num_tokens)
        return [(table[len(fork) - 1], fork[-1])]

    def release(self, table: BlockTable) -> None:
        """Give up all blocks of `table`, and empty it: the last first, for one is found only behind those before it."""
        while table:
            block = table.pop()
            assert self._num_users[block] > 0, f"block {block} was released twice"
            self._num_users[block] -= 1
            if self._num_users[block] == 0 and block in self._key_of:
                self._idle[block] = None
            elif self._num_users[block] == 0:
                self._blank.append(block)

    def check_integrity(self, tables: Iterable[BlockTable]) -> None:
        """Assert that the counts are those of `tables` (all that exist), and that no block is lost or free twice."""
        users = Counter(block for table in tables for block in table)
        for block, count in enumerate(self._num_users):
            assert count == users[block], f"block {block} counts {count} users and has {users[block]}"
        unused = [block for block, count in enumerate(self._num_users) if count == 0]
        assert sorted([*self._blank, *self._idle]) == unused, "the free lists are not the blocks without a user"
        assert not self._key_of.keys() & set(self._blank), "a blank block has a key"
        assert self._idle.keys() <= self._key_of.keys(), "an idle block has no key"
        assert {block: key for key, block in self._block_of.items()} == self._key_of, "keys and blocks disagree"

    def _take(self) -> int:
        """A free block; what is remembered goes last, and of that what was used longest ago goes first."""
        if self._blank:
            return self._blank.popleft()
        block, _ = self._idle.popitem(last=False)
        del self._block_of[self._key_of.pop(block)]
        return block

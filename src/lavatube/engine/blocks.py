"""The blocks of the paged KV cache: who holds which, and which are free. Knows counts and ids; no tensors.

A sequence's keys and values lie in blocks of `block_size` tokens, named in order by its block table. Blocks are counted
by their users: the choices of one prompt share those that the prompt fills, which nobody writes to any more.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

BlockTable = list[int]


class BlockAllocator:
    """Grows and releases block tables; the only one that changes them."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._num_users = [0] * num_blocks
        self._free = deque(range(num_blocks))  # the longest free is taken first, so contents live as long as they can

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_tokens(self) -> int:
        """Tokens that the whole cache holds."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens fill, the last one perhaps in part."""
        return -(-num_tokens // self.block_size)

    def can_grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether `grow` would find the blocks it needs."""
        return self.blocks_for(num_tokens) - len(table) <= len(self._free)

    def grow(self, table: BlockTable, num_tokens: int) -> None:
        """Extend `table` until it holds `num_tokens`; one that is long enough stays as it is."""
        assert self.can_grow(table, num_tokens), "ask can_grow first"
        while len(table) < self.blocks_for(num_tokens):
            block = self._free.popleft()
            self._num_users[block] = 1
            table.append(block)

    def can_fork(self, num_tokens: int) -> bool:
        """Whether `fork` would find the block it may need."""
        return num_tokens % self.block_size == 0 or bool(self._free)

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
        """Give up all blocks of `table`, the last first, and empty it."""
        while table:
            block = table.pop()
            assert self._num_users[block] > 0, f"block {block} was released twice"
            self._num_users[block] -= 1
            if self._num_users[block] == 0:
                self._free.append(block)

    def check_integrity(self, tables: Iterable[BlockTable]) -> None:
        """Assert that the counts are those of `tables` (all that exist), and that no block is lost or free twice."""
        users = Counter(block for table in tables for block in table)
        for block, count in enumerate(self._num_users):
            assert count == users[block], f"block {block} counts {count} users and has {users[block]}"
        unused = [block for block, count in enumerate(self._num_users) if count == 0]
        assert sorted(self._free) == unused, "the free list is not the blocks without a user"

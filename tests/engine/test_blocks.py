"""Blocks are never lost, never handed out twice, and always enough when `can_grow` says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.engine.blocks import BlockAllocator, BlockTable


def test_a_table_grows_by_whole_blocks() -> None:
    blocks = BlockAllocator(num_blocks=4, block_size=16)
    table: BlockTable = []
    for num_tokens, num_blocks in ((1, 1), (16, 1), (17, 2), (5, 2)):
        blocks.grow(table, num_tokens)
        assert len(table) == num_blocks
    assert blocks.num_free == 2


def test_what_does_not_fit_is_known_before() -> None:
    blocks = BlockAllocator(num_blocks=2, block_size=16)
    assert blocks.can_grow([], 32)
    assert not blocks.can_grow([], 33)
    with pytest.raises(AssertionError):
        blocks.grow([], 33)


def test_the_longest_free_block_is_taken_first() -> None:
    blocks = BlockAllocator(num_blocks=3, block_size=1)
    first: BlockTable = []
    second: BlockTable = []
    blocks.grow(first, 1)
    blocks.grow(second, 1)
    blocks.release(first)
    blocks.grow(first, 1)
    assert first == [2]


def test_releasing_twice_is_noticed() -> None:
    blocks = BlockAllocator(num_blocks=2, block_size=16)
    table: BlockTable = []
    blocks.grow(table, 1)
    stale = list(table)
    blocks.release(table)
    with pytest.raises(AssertionError, match="twice"):
        blocks.release(stale)


@pytest.mark.parametrize("tables", [[], [[0], [0]], [[0, 1]]])
def test_integrity_is_broken_by_tables_that_are_not_ours(tables: list[BlockTable]) -> None:
    blocks = BlockAllocator(num_blocks=3, block_size=16)
    blocks.grow([], 1)
    with pytest.raises(AssertionError):
        blocks.check_integrity(tables)


@given(
    num_blocks=st.integers(1, 12),
    block_size=st.integers(1, 5),
    moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=40),
)
def test_no_block_is_lost_or_shared(num_blocks: int, block_size: int, moves: list[tuple[int, int]]) -> None:
    """Move (table, 0) releases, any other grows to so many tokens."""
    blocks = BlockAllocator(num_blocks, block_size)
    tables: list[BlockTable] = [[] for _ in range(4)]
    for index, num_tokens in moves:
        table = tables[index]
        if num_tokens == 0:
            blocks.release(table)
        elif blocks.can_grow(table, num_tokens):
            before = list(table)
            blocks.grow(table, num_tokens)
            assert table[: len(before)] == before
            assert len(table) * block_size >= num_tokens
        else:
            assert blocks.blocks_for(num_tokens) - len(table) > blocks.num_free
        blocks.check_integrity(tables)
    for table in tables:
        blocks.release(table)
    assert blocks.num_free == num_blocks

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


@pytest.mark.parametrize(("num_tokens", "num_shared", "copies"), [(32, 2, []), (33, 2, [(2, 3)]), (5, 0, [(0, 1)])])
def test_a_fork_shares_full_blocks_and_copies_the_last(
    num_tokens: int, num_shared: int, copies: list[tuple[int, int]]
) -> None:
    blocks = BlockAllocator(num_blocks=8, block_size=16)
    table: BlockTable = []
    fork: BlockTable = []
    blocks.grow(table, num_tokens)
    assert blocks.can_fork(num_tokens)
    assert blocks.fork(table, fork, num_tokens) == copies
    blocks.check_integrity([table, fork])
    assert len(fork) == len(table)
    assert [mine == theirs for mine, theirs in zip(fork, table, strict=True)].count(True) == num_shared
    blocks.release(table)
    blocks.check_integrity([fork])
    blocks.release(fork)
    assert blocks.num_free == 8


def test_a_fork_that_finds_no_block_is_known_before() -> None:
    blocks = BlockAllocator(num_blocks=1, block_size=16)
    table: BlockTable = []
    blocks.grow(table, 16)
    assert blocks.can_fork(16)
    assert not blocks.can_fork(15)
    with pytest.raises(AssertionError):
        blocks.fork(table, [], 15)


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
    """Move (table, 0) releases, any other grows to so many tokens; an empty table may fork its neighbour instead."""
    blocks = BlockAllocator(num_blocks, block_size)
    tables: list[BlockTable] = [[] for _ in range(4)]
    for index, num_tokens in moves:
        table = tables[index]
        if num_tokens == 0:
            blocks.release(table)
        elif not table and num_tokens % 3 == 0:
            neighbour = tables[index - 1]
            held = len(neighbour) * block_size - num_tokens % block_size if neighbour else 0
            if blocks.can_fork(held):
                blocks.fork(neighbour, table, held)
                assert len(table) == len(neighbour)
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

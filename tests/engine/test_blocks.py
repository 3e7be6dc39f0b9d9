"""Blocks are never lost, never handed out twice, and always enough when `can_grow` says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.engine.blocks import BlockAllocator, BlockTable, new_table


def test_a_table_grows_by_whole_blocks() -> None:
    blocks = BlockAllocator(num_blocks=4, block_size=16)
    table: BlockTable = new_table()
    for num_tokens, num_blocks in ((1, 1), (16, 1), (17, 2), (5, 2)):
        blocks.grow(table, num_tokens)
        assert len(table) == num_blocks
    assert blocks.num_free == 2


def test_what_does_not_fit_is_known_before() -> None:
    blocks = BlockAllocator(num_blocks=2, block_size=16)
    assert blocks.can_grow(new_table(), 32)
    assert not blocks.can_grow(new_table(), 33)
    with pytest.raises(AssertionError):
        blocks.grow(new_table(), 33)


def test_the_longest_free_block_is_taken_first() -> None:
    blocks = BlockAllocator(num_blocks=3, block_size=1)
    first: BlockTable = new_table()
    second: BlockTable = new_table()
    blocks.grow(first, 1)
    blocks.grow(second, 1)
    blocks.release(first)
    blocks.grow(first, 1)
    assert list(first) == [2]


def test_releasing_twice_is_noticed() -> None:
    blocks = BlockAllocator(num_blocks=2, block_size=16)
    table: BlockTable = new_table()
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
    table: BlockTable = new_table()
    fork: BlockTable = new_table()
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
    table: BlockTable = new_table()
    blocks.grow(table, 16)
    assert blocks.can_fork(16)
    assert not blocks.can_fork(15)
    with pytest.raises(AssertionError):
        blocks.fork(table, new_table(), 15)


@pytest.mark.parametrize("tables", [[], [new_table([0]), new_table([0])], [new_table([0, 1])]])
def test_integrity_is_broken_by_tables_that_are_not_ours(tables: list[BlockTable]) -> None:
    blocks = BlockAllocator(num_blocks=3, block_size=16)
    blocks.grow(new_table(), 1)
    with pytest.raises(AssertionError):
        blocks.check_integrity(tables)


@given(
    num_blocks=st.integers(1, 12),
    block_size=st.integers(1, 5),
    moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=40),
)
def test_no_block_is_lost_or_shared_by_mistake(num_blocks: int, block_size: int, moves: list[tuple[int, int]]) -> None:
    """Move (table, 0) releases, any other grows to so many tokens; an empty table may fork its neighbour instead."""
    blocks = BlockAllocator(num_blocks, block_size)
    tables: list[BlockTable] = [new_table() for _ in range(4)]
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
            assert list(table[: len(before)]) == before
            assert len(table) * block_size >= num_tokens
        else:
            assert blocks.blocks_for(num_tokens) - len(table) > blocks.num_free
        blocks.check_integrity(tables)
    for table in tables:
        blocks.release(table)
    assert blocks.num_free == num_blocks


def keys(text: str) -> list[bytes]:
    """Of as many blocks as the text has letters: each names all before it, too."""
    return [text[: end + 1].encode() for end in range(len(text))]


def filled(blocks: BlockAllocator, text: str) -> BlockTable:
    """A table of full blocks that are remembered by what is in them."""
    table: BlockTable = new_table()
    blocks.grow(table, len(text) * blocks.block_size)
    for block, key in zip(table, keys(text), strict=True):
        blocks.remember(block, key)
    return table


def test_what_is_remembered_is_found_while_it_is_used_and_after() -> None:
    blocks = BlockAllocator(num_blocks=8, block_size=4)
    table = filled(blocks, "abc")
    held = list(table)
    assert blocks.find(keys("abx")) == held[:2]
    blocks.release(table)
    assert blocks.num_free == 8
    assert blocks.find(keys("abcd")) == held
    assert blocks.find(keys("xbc")) == []


def test_blocks_that_are_found_are_counted_before_they_are_taken() -> None:
    blocks = BlockAllocator(num_blocks=4, block_size=4)
    blocks.release(filled(blocks, "ab"))
    found = blocks.find(keys("ab"))
    assert blocks.num_left(found, 16) == 0
    assert blocks.num_left(found, 17) == -1
    table: BlockTable = new_table()
    blocks.adopt(table, found)
    other: BlockTable = new_table()
    blocks.adopt(other, found)
    assert blocks.num_free == 2
    blocks.check_integrity([table, other])
    blocks.release(table)
    assert blocks.num_free == 2
    blocks.check_integrity([other])


def test_the_least_recently_used_goes_first_and_a_tail_before_its_head() -> None:
    blocks = BlockAllocator(num_blocks=5, block_size=1)
    for text in ("ab", "xy"):
        blocks.release(filled(blocks, text))
    table: BlockTable = new_table()
    blocks.adopt(table, blocks.find(keys("ab")))
    blocks.release(table)  # used just now
    blocks.grow(table, 1)  # the one that was never used
    assert (len(blocks.find(keys("xy"))), len(blocks.find(keys("ab")))) == (2, 2)
    blocks.grow(table, 2)
    assert (len(blocks.find(keys("xy"))), len(blocks.find(keys("ab")))) == (1, 2)
    blocks.grow(table, 4)
    assert (len(blocks.find(keys("xy"))), len(blocks.find(keys("ab")))) == (0, 1)
    blocks.check_integrity([table])


def test_of_two_with_the_same_contents_the_first_is_found() -> None:
    blocks = BlockAllocator(num_blocks=4, block_size=1)
    first, second = filled(blocks, "a"), filled(blocks, "a")
    assert blocks.find(keys("a")) == list(first)
    assert blocks.num_remembered == 1
    blocks.check_integrity([first, second])


@given(
    num_blocks=st.integers(1, 10),
    moves=st.lists(st.tuples(st.integers(0, 3), st.text("ab", max_size=5)), max_size=40),
)
def test_what_is_found_is_what_was_put_there(num_blocks: int, moves: list[tuple[int, str]]) -> None:
    """A model of the contents: whoever grows into a block writes it, and nobody else's may change under them."""
    blocks = BlockAllocator(num_blocks, block_size=1)
    tables: list[BlockTable] = [new_table() for _ in range(4)]
    texts = [""] * 4
    contents: dict[int, bytes] = {}
    for index, text in moves:
        blocks.release(tables[index])
        texts[index] = ""
        found = blocks.find(keys(text))
        assert [contents[block] for block in found] == keys(text)[: len(found)]
        if blocks.num_left(found, len(text)) >= 0:
            free = blocks.num_free
            texts[index] = text
            blocks.adopt(tables[index], found)
            blocks.grow(tables[index], len(text))
            for block, key in list(zip(tables[index], keys(text), strict=True))[len(found) :]:
                contents[block] = key
                blocks.remember(block, key)
            assert blocks.num_free <= free
        for table, held in zip(tables, texts, strict=True):
            assert [contents[block] for block in table] == keys(held)
        blocks.check_integrity(tables)

"""The event log: every reader sees everything, in order, from where it asked."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavatube.predictions.events import Completed, Ended, Event, Output, Started, Status, joined
from lavatube.predictions.log import EventLog


def filled(texts: list[str], *, is_ended: bool = True) -> EventLog:
    log = EventLog()
    log.append(Started(1))
    offset = 0
    for index, text in enumerate(texts):
        log.append(Output(log.next_id, text, offset, index))
        offset += len(text)
    if is_ended:
        log.append(Completed(log.next_id, Status.SUCCEEDED))
    return log


async def collect(log: EventLog, after: int = 0) -> list[Event]:
    return [event async for events in log.follow(after) for event in events]


async def test_ids_count_from_one_and_offsets_add_up() -> None:
    events = await collect(filled(["a", "bcd", "é"]))
    assert [event.id for event in events] == [1, 2, 3, 4, 5]
    outputs = [event for event in events if isinstance(event, Output)]
    text = "abcdé"
    assert [text[event.offset : event.offset + len(event.text)] for event in outputs] == ["a", "bcd", "é"]


@given(num_outputs=st.integers(0, 20), after=st.integers(0, 30))
def test_a_reader_gets_exactly_what_comes_after_its_position(num_outputs: int, after: int) -> None:
    log = filled(["x"] * num_outputs)
    ids = [event.id for event in asyncio.run(collect(log, after))]
    assert ids == (list(range(after + 1, num_outputs + 3)) or [num_outputs + 2])


async def test_readers_at_any_position_see_the_same_end_while_it_is_written() -> None:
    log = EventLog()
    readers = [asyncio.create_task(collect(log, after)) for after in (0, 1, 3)]
    log.append(Started(1))
    for index in range(50):
        await asyncio.sleep(0)
        log.append(Output(log.next_id, "t", index, index))
    late = asyncio.create_task(collect(log))
    await asyncio.sleep(0)
    log.append(Completed(log.next_id, Status.CANCELED))
    everything = await late
    assert len(everything) == 52
    for reader, after in zip(readers, (0, 1, 3), strict=True):
        assert await reader == everything[after:]


async def test_an_idle_reader_is_told_so_and_misses_nothing() -> None:
    log = filled(["a"], is_ended=False)
    reader = log.follow(idle_s=0.01)
    assert len(await anext(reader)) == 2
    assert [await anext(reader) for _ in range(2)] == [[], []]
    log.append(Completed(log.next_id, Status.SUCCEEDED))
    assert [event async for events in reader for event in events] == [Completed(3, Status.SUCCEEDED)]


def test_nothing_comes_after_the_end() -> None:
    log = filled([])
    with pytest.raises(AssertionError):
        log.append(Output(log.next_id, "late", 0, 0))


async def test_who_is_behind_is_given_bounded_pieces_until_it_has_all() -> None:
    log = filled(["x" * 10_000] * 30)
    pieces = [events async for events in log.follow()]
    assert len(pieces) > 10
    assert sum(map(len, pieces)) == 32
    assert max(sum(len(event.text) for event in events if isinstance(event, Output)) for events in pieces) <= 20_000


texts = st.lists(st.tuples(st.integers(0, 1), st.text(min_size=1, max_size=3)), max_size=12)


@given(written=texts)
def test_joined_pieces_say_the_same_and_go_on_from_the_last(written: list[tuple[int, str]]) -> None:
    outputs, offsets, counts = [], [0, 0], [0, 0]
    for event_id, (choice, text) in enumerate(written, 2):
        outputs.append(Output(event_id, text, offsets[choice], counts[choice], choice))
        offsets[choice] += len(text)
        counts[choice] += 1
    events: list[Event] = [Started(1), *outputs, Ended(len(written) + 2, 0, "stop")]
    pieces = list(joined(events))
    for choice in (0, 1):
        whole = "".join(text for other, text in written if other == choice)
        mine = [piece for piece in pieces if isinstance(piece, Output) and piece.choice == choice]
        assert "".join(piece.text for piece in mine) == whole
        assert all(whole[piece.offset :].startswith(piece.text) for piece in mine)
    for before, after in itertools.pairwise(pieces):
        assert not (isinstance(before, Output) and isinstance(after, Output) and before.choice == after.choice)
        assert list(joined(event for event in events if event.id > before.id)) == pieces[pieces.index(after) :]

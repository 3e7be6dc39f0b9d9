"""The inbox of a stream: in order, nothing lost, and less often when its taker is late."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from lavatube.engine.inbox import Inbox
from lavatube.engine.wire import Done, Logprobs, RequestEvent, Tokens
from lavatube.errors import EngineCrashed, LavatubeError


def tokens(*token_ids: int, choice: int = 0) -> Tokens:
    return Tokens("a", 0, list(token_ids), choice, [Logprobs(-float(token_id), []) for token_id in token_ids])


def by_choice(items: list[RequestEvent | LavatubeError]) -> list[tuple[int, int, float]]:
    """(choice, id, logprob) of every token, in order."""
    return [
        (item.choice, token_id, likely.chosen)
        for item in items
        if isinstance(item, Tokens)
        for token_id, likely in zip(item.token_ids, item.logprobs, strict=True)
    ]


async def test_what_waits_is_taken_together() -> None:
    inbox = Inbox()
    for item in (tokens(1), tokens(2), tokens(3, choice=1), tokens(4, choice=1), tokens(5)):
        inbox.put(item)
    taken = [await inbox.take() for _ in range(3)]
    assert taken == [tokens(1, 2), tokens(3, 4, choice=1), tokens(5)]


async def test_who_waits_is_told_of_each_at_once() -> None:
    inbox = Inbox()
    taker = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.put(tokens(1))
    assert await taker == tokens(1)


async def test_an_end_is_never_joined_to_anything() -> None:
    inbox = Inbox()
    done, crash = Done("a", "stop", 1, 0, 1, 0.0, 0.0, 0.0), EngineCrashed("It ended.")
    for item in (tokens(1), done, crash):
        inbox.put(item)
    assert [await inbox.take() for _ in range(3)] == [tokens(1), done, crash]


@given(choices=st.lists(st.integers(0, 2), min_size=1, max_size=30), pauses=st.sets(st.integers(0, 30)))
def test_nothing_is_lost_however_late_the_taker_is(choices: list[int], pauses: set[int]) -> None:
    async def run() -> list[RequestEvent | LavatubeError]:
        inbox, taken = Inbox(), []
        for place, choice in enumerate(choices):
            inbox.put(tokens(place, choice=choice))
            if place in pauses:
                taken.append(await inbox.take())
        inbox.put(Done("a", "stop", 1, 0, 1, 0.0, 0.0, 0.0))
        while not taken or not isinstance(taken[-1], Done):
            taken.append(await inbox.take())
        return taken

    assert by_choice(asyncio.run(run())) == [(choice, place, -float(place)) for place, choice in enumerate(choices)]

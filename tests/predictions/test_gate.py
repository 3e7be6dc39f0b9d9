"""The gate: never more inside than fits, everybody gets in, and a waiter that leaves takes nothing with it."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from lavatube.predictions.gate import Gate
from lavatube.predictions.turns import Claim

VISITS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=30
)


@given(VISITS, st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost_whoever_leaves_when(visits: list[tuple[str, int, int, bool]], capacity: int) -> None:
    asyncio.run(_visit(visits, capacity))


async def _visit(visits: list[tuple[str, int, int, bool]], capacity: int) -> None:
    gate = Gate(capacity)
    inside: Counter[int] = Counter()
    entered = set()

    async def visit(number: int, claim: Claim, stay: int) -> None:
        await gate.enter(claim)
        entered.add(number)
        inside[number] = claim.cost
        assert sum(inside.values()) <= capacity or len(+inside) == 1
        try:
            for _ in range(stay):
                await asyncio.sleep(0)
        finally:
            inside[number] = 0
            gate.leave(claim)

    tasks = []
    for number, (owner, cost, stay, is_leaving) in enumerate(visits):
        tasks.append(asyncio.create_task(visit(number, Claim(owner, cost=cost), stay)))
        if number % 3 == 0:
            await asyncio.sleep(0)
        if is_leaving:
            tasks[number // 2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    assert {number for number, result in enumerate(results) if result is None} <= entered
    assert (gate.num_waiting, gate._used) == (0, 0)


async def test_a_large_claim_is_not_overtaken_and_gets_in_alone() -> None:
    gate = Gate(2)
    small, large = Claim("a", cost=1), Claim("b", cost=5)
    await gate.enter(small)
    waiting = asyncio.create_task(gate.enter(large))
    await asyncio.sleep(0)
    behind = asyncio.create_task(gate.enter(small))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.leave(small)
    await waiting
    assert not behind.done()
    gate.leave(large)
    await behind
    gate.leave(small)

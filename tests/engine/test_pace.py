"""The pace on machines made of numbers: steps stay short, prompts get on, whatever things cost."""

from __future__ import annotations

import random
import statistics

from hypothesis import given
from hypothesis import strategies as st

from lavatube.engine.pace import MIN_PROMPT_TOKENS, MOST_PROMPTS, SHARE, UNNOTICED_S, Pace, Work

MOST = 3.0
LEARNING_STEPS = 12

Costs = st.tuples(st.floats(1e-3, 0.5), st.floats(1e-5, 0.2), st.floats(1e-6, 5e-3))


def steps(
    costs: tuple[float, float, float], count: int, *, has_images: bool, has_prompts: bool, num_waiting: int = 1
) -> list[float]:
    """How long steps take on a machine with these costs, give or take a tenth; after some that only decode."""
    decode_s, layer_s, token_s = costs
    rng = random.Random(0)
    pace = Pace()
    taken = []
    for number in range(5 + count):
        kinds = {"has_images": has_images, "has_prompts": has_prompts}
        work = pace.plan(**kinds, num_waiting=num_waiting) if number >= 5 else Work()
        step_s = (decode_s + work.num_layers * layer_s + work.num_prompt_tokens * token_s) * rng.uniform(0.95, 1.05)
        pace.observe(work, step_s)
        taken.append(step_s)
    return taken[5:]


@given(Costs, st.booleans(), st.booleans())
def test_no_step_is_long_once_the_costs_are_known(
    costs: tuple[float, float, float], has_images: bool, has_prompts: bool
) -> None:
    decode_s, layer_s, token_s = costs
    taken = steps(costs, 60, has_images=has_images, has_prompts=has_prompts)[LEARNING_STEPS:]
    # What is done in any case: a layer, and a few tokens.
    least_s = decode_s + has_images * layer_s + has_prompts * MIN_PROMPT_TOKENS * token_s
    assert max(taken) <= max(MOST * decode_s, 1.2 * least_s, decode_s + 2 * UNNOTICED_S) * 1.1


@given(Costs)
def test_what_is_allowed_is_used(costs: tuple[float, float, float]) -> None:
    decode_s, _, token_s = costs
    taken = steps(costs, 60, has_images=False, has_prompts=True)[LEARNING_STEPS:]
    if MIN_PROMPT_TOKENS * token_s < decode_s:
        assert statistics.median(taken) >= 1.5 * decode_s


@given(Costs, st.integers(1, 100))
def test_the_more_prompts_wait_the_longer_a_step_up_to_a_bound(
    costs: tuple[float, float, float], num_waiting: int
) -> None:
    decode_s, _, token_s = costs
    taken = steps(costs, 60, has_images=False, has_prompts=True, num_waiting=num_waiting)[LEARNING_STEPS:]
    share = SHARE * min(num_waiting, MOST_PROMPTS)
    least_s = decode_s + MIN_PROMPT_TOKENS * token_s
    assert max(taken) <= max((1.2 + share) * decode_s, 1.2 * least_s, decode_s + 2 * UNNOTICED_S) * 1.1
    if MIN_PROMPT_TOKENS * token_s < decode_s:
        assert statistics.median(taken) >= (0.8 + 0.5 * share) * decode_s


@given(Costs, st.booleans())
def test_there_is_always_progress(costs: tuple[float, float, float], has_prompts: bool) -> None:
    """Of each kind of work in every other step, at the least."""
    pace = Pace()
    decode_s, layer_s, token_s = costs
    done = []
    for _ in range(30):
        done.append(pace.plan(has_images=True, has_prompts=has_prompts))
        pace.observe(done[-1], decode_s + done[-1].num_layers * layer_s + done[-1].num_prompt_tokens * token_s)
    turns = 2 if has_prompts else 1
    assert sum(work.num_layers >= 1 for work in done) == 30 / turns
    assert sum(work.num_prompt_tokens >= MIN_PROMPT_TOKENS for work in done) == 30 - 30 / turns


def test_decoding_alone_plans_nothing() -> None:
    assert Pace().plan(has_images=False, has_prompts=False) == Work()

"""Guessing ahead: fewer steps, and the same answers to the last token, whatever is asked for and whoever is there."""

from __future__ import annotations

from itertools import cycle, islice

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from lavatube.engine.core import EngineCore
from lavatube.engine.lookup import FIRST_LENGTH, FIRST_REST, Lookup
from lavatube.engine.speculator import MAX_ROWS, Speculator
from lavatube.engine.wire import Done, RequestEvent, Sampling, Submit, Tokens
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.requests import GREEDY, SEEDED, answer, failure, run, submit
from tests.engine.test_grammar import DIGITS, HOT, texts

PLACEHOLDER = 9
FEW_WORDS = ((40, 90.0), (41, 90.0), (42, 88.0))  # so that answers repeat themselves, and guesses are often right


@pytest.fixture(scope="module")
def repetitive(spec: ModelSpec) -> list[Submit]:
    said = Sampling(max_tokens=50, temperature=3.0, seed=3, logit_bias=FEW_WORDS)
    return [
        submit(spec, "greedy", replace(GREEDY, max_tokens=50, logit_bias=FEW_WORDS[:1]), num_images=1, seed=1),
        submit(spec, "drawn", said, seed=2),
        submit(spec, "stopped", replace(said, temperature=1.0, seed=4, stop_token_ids=(42,), min_tokens=20), seed=3),
        submit(spec, "told", replace(said, top_logprobs=2, repetition_penalty=1.1, frequency_penalty=0.1), seed=4),
        submit(spec, "several", replace(said, num_choices=3, max_tokens=30), length=30, seed=5),
        submit(spec, "free", SEEDED, num_images=1, seed=6),
        submit(spec, "kept", replace(HOT, grammar=DIGITS), seed=7),
    ]


def build(
    model: Llava, spec: ModelSpec, max_guess: int, num_blocks: int = 64, max_step_tokens: int = 512
) -> EngineCore:
    return EngineCore(
        model,
        spec,
        num_blocks=num_blocks,
        max_sequences=8,
        max_step_tokens=max_step_tokens,
        num_token_ids=len(texts(spec)),
        token_texts=texts(spec),
        max_guess=max_guess,
    )


def told(events: list[RequestEvent]) -> list[tuple[object, ...]]:
    """All that a client could see, but for times."""
    found: list[tuple[object, ...]] = []
    for event in events:
        if isinstance(event, Tokens):
            likely = [(pytest.approx(one.chosen, abs=1e-4), [ids for ids, _ in one.top]) for one in event.logprobs]
            found.append((event.choice, event.position, event.token_ids, likely))
        elif isinstance(event, Done):
            found.append((event.choice, event.reason, event.completion_tokens))
    return sorted(found, key=lambda one: one[:2] if isinstance(one[1], int) else (one[0], 10**6))


@pytest.mark.parametrize("max_guess", [1, 4, 7])
def test_each_alone_as_without_guessing(
    model: Llava, spec: ModelSpec, repetitive: list[Submit], max_guess: int
) -> None:
    num_guessed = num_right = 0
    for request in repetitive:
        core = build(model, spec, max_guess)
        events = run(core, request)[request.request_id]
        assert told(events) == told(run(build(model, spec, 0), request)[request.request_id])
        num_guessed += core.guesses.made
        num_right += core.guesses.right
    assert 20 < num_right < num_guessed, "both kinds of guesses must come up"


@pytest.mark.parametrize(("num_blocks", "max_step_tokens"), [(64, 512), (64, 11), (15, 24)])
def test_all_together_as_without_guessing(
    model: Llava, spec: ModelSpec, repetitive: list[Submit], num_blocks: int, max_step_tokens: int
) -> None:
    """With room for all, with hardly any in a step, and with so few blocks that they make room for each other."""
    plain = run(build(model, spec, 0), *repetitive)
    guessed = run(build(model, spec, 4, num_blocks, max_step_tokens), *repetitive)
    assert {name: told(events) for name, events in guessed.items()} == {
        name: told(events) for name, events in plain.items()
    }


def test_an_answer_goes_on_elsewhere_as_it_would_have(model: Llava, spec: ModelSpec, repetitive: list[Submit]) -> None:
    request = repetitive[1]
    whole = answer(run(build(model, spec, 4), request)["drawn"])
    events = run(build(model, spec, 4), replace(request, begun=[whole[:17]]))["drawn"]
    assert [token_id for event in events if isinstance(event, Tokens) for token_id in event.token_ids] == whole[17:]


def test_right_guesses_save_steps(model: Llava, spec: ModelSpec, repetitive: list[Submit]) -> None:
    core = build(model, spec, 4)
    core.submit(repetitive[0])
    num_steps = 0
    while core.has_work:
        core.step()
        num_steps += 1
    assert num_steps <= 20, "50 times the same token"


def test_choices_whose_prompt_ends_in_a_step_of_one_token_all_begin(model: Llava, spec: ModelSpec) -> None:
    """Such a step looks as if the answer had begun."""
    several = replace(SEEDED, num_choices=3)
    request = replace(submit(spec, "several", several), token_ids=[5, 6, 7, 8, 5, 6, 7, 8, 5])
    wanted = told(run(build(model, spec, 0, max_step_tokens=8), request)["several"])
    assert told(run(build(model, spec, 4, max_step_tokens=8), request)["several"]) == wanted


@pytest.mark.parametrize("is_lasting", [False, True])
def test_what_is_no_number_behind_a_right_guess_is_computed_again(
    model: Llava, spec: ModelSpec, repetitive: list[Submit], monkeypatch: pytest.MonkeyPatch, *, is_lasting: bool
) -> None:
    """It may have been the guess's fault; if it was not, the request fails, and does not wait for ever."""
    plain, has_begun, wanted = model.logits, False, answer(run(build(model, spec, 0), repetitive[0])["greedy"])

    def logits(hidden: Tensor) -> Tensor:
        nonlocal has_begun
        found = plain(hidden)
        if len(found) > 1 or (has_begun and is_lasting):
            has_begun = True
            found[-1, 0] = torch.nan
        return found

    monkeypatch.setattr(model, "logits", logits)
    events = run(build(model, spec, 4), repetitive[0])["greedy"]
    assert has_begun
    if is_lasting:
        assert failure(events[-1:]) == "engine_numerical_error"
    else:
        assert answer(events) == wanted


def test_a_guess_is_what_followed_the_last_time() -> None:
    lookup = Lookup(2, PLACEHOLDER)
    assert lookup.guess([1, 2, 3, 4, 1, 2, 5, 6, 1, 2], room=8) == [5, 6]
    assert lookup.guess([1, 2, 3, 4, 1, 2, 5, 6, 1, 2, 3], room=1) == [4], "the longer match"
    assert Lookup(2, PLACEHOLDER).guess([1, 2, 3], room=8) == []


def test_pictures_are_never_guessed() -> None:
    assert Lookup(4, PLACEHOLDER).guess([1, 2, PLACEHOLDER, PLACEHOLDER, 1, 2], room=8) == []
    assert Lookup(4, PLACEHOLDER).guess([1, 2, 3, PLACEHOLDER, PLACEHOLDER, 1, 2], room=8) == [3]


def test_a_guess_grows_while_it_is_right_and_rests_when_it_is_wrong() -> None:
    lookup, tokens = Lookup(16, PLACEHOLDER), list(islice(cycle(range(20, 50)), 64))
    assert len(lookup.guess(tokens, room=99)) == FIRST_LENGTH
    lookup.learn(FIRST_LENGTH, FIRST_LENGTH, len(tokens))
    assert len(lookup.guess(tokens, room=99)) == 2 * FIRST_LENGTH
    lookup.learn(2 * FIRST_LENGTH, 0, len(tokens))
    assert lookup.guess(tokens, room=99) == []
    assert len(lookup.guess([*tokens, *tokens[4 : 4 + FIRST_REST]], room=99)) == FIRST_LENGTH


def test_a_full_step_and_the_last_token_leave_no_room(spec: ModelSpec) -> None:
    from lavatube.engine.admission import admit

    request = submit(spec, "a", replace(GREEDY, max_tokens=2))
    (sequence,) = admit(replace(request, token_ids=[5, 6, 7, 5, 6]), spec, 256, 0.0)
    speculator = Speculator(4, PLACEHOLDER)
    assert speculator.guess(sequence, num_rows=MAX_ROWS) == ()
    assert speculator.guess(sequence, num_rows=1) == (7,)
    sequence.token_ids += [7]
    assert speculator.guess(sequence, num_rows=1) == ()

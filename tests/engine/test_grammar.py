"""Answers that keep to a grammar: whatever the model would rather say, alone, in company and after preemption."""

from __future__ import annotations

import json
import re
import threading

import pytest
from msgspec.structs import replace

from lavatube.engine import grammar as module
from lavatube.engine.core import EngineCore
from lavatube.engine.grammar import MAX_COMPILED, Grammars, Matcher
from lavatube.engine.wire import Done, Sampling
from lavatube.errors import InvalidInput
from lavatube.model.llava import Llava
from lavatube.spec import ModelSpec
from tests.engine.requests import SEEDED, answer, drain, failure, run, submit
from tests.engine.test_choices import answers

HEAD = '%llguidance {"no_forcing": true}\nstart: '
DIGITS = HEAD + "/[0-9]{2,5}-[ab]/"
PERSON = (
    HEAD
    + "%json "
    + json.dumps(
        {
            "type": "object",
            "properties": {"sky": {"enum": ["blue", "grey"]}, "size": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["sky", "size"],
            "additionalProperties": False,
            "x-guidance": {"whitespace_flexible": False},
        }
    )
)
HOT = Sampling(max_tokens=60, temperature=3.0, seed=5, stop_token_ids=(2,))


def texts(spec: ModelSpec) -> list[bytes]:
    """Ids 20 to 275 say one byte each, some later ones a word; the first are control tokens."""
    words = [b"blue", b'{"', b'":', b"12", b"sky", b"0-a", b"size"]
    found = [b""] * 20 + [bytes([byte]) for byte in range(256)] + words
    return found[: spec.language.vocab_size]


def said(spec: ModelSpec, ids: list[int]) -> str:
    return b"".join(texts(spec)[token_id] for token_id in ids).decode()


def build(model: Llava, spec: ModelSpec, num_blocks: int = 64) -> EngineCore:
    return EngineCore(
        model,
        spec,
        num_blocks=num_blocks,
        max_sequences=8,
        max_step_tokens=512,
        num_token_ids=len(texts(spec)),
        token_texts=texts(spec),
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_answers_match(model: Llava, spec: ModelSpec, temperature: float) -> None:
    core = build(model, spec)
    requests = [
        submit(spec, f"{seed}", replace(HOT, temperature=temperature, seed=seed, grammar=DIGITS), seed=seed)
        for seed in range(6)
    ]
    for events in run(core, *requests, submit(spec, "free", SEEDED)).values():
        if events[0].request_id == "free":
            continue
        assert re.fullmatch("[0-9]{2,5}-[ab]", said(spec, answer(events)))
        assert isinstance(events[-1], Done)
        assert events[-1].reason == "stop"


def test_json_is_whole_and_fits_its_schema(model: Llava, spec: ModelSpec) -> None:
    for seed in range(4):
        events = run(build(model, spec), submit(spec, "a", replace(HOT, seed=seed, grammar=PERSON)))["a"]
        value = json.loads(said(spec, answer(events)))
        assert set(value) == {"sky", "size"}
        assert value["sky"] in ("blue", "grey")
        assert 0 <= value["size"] <= 99


def test_an_answer_that_is_cut_is_a_beginning(model: Llava, spec: ModelSpec) -> None:
    events = run(build(model, spec), submit(spec, "a", replace(HOT, max_tokens=2, grammar=PERSON)))["a"]
    assert isinstance(events[-1], Done)
    assert events[-1].reason == "length"
    assert said(spec, answer(events)).startswith("{")


def test_choices_and_preemption_keep_their_places(model: Llava, spec: ModelSpec) -> None:
    request = submit(spec, "a", replace(HOT, num_choices=4, grammar=PERSON), length=30)
    wanted = answers(run(build(model, spec), request)["a"])
    assert len({tuple(ids) for ids in wanted}) > 1
    assert all(json.loads(said(spec, ids)) for ids in wanted)
    assert answers(run(build(model, spec, num_blocks=6), request)["a"]) == wanted


def test_an_answer_that_was_begun_elsewhere_goes_on_in_its_grammar(model: Llava, spec: ModelSpec) -> None:
    request = submit(spec, "a", replace(HOT, grammar=PERSON))
    whole = answer(run(build(model, spec), request)["a"])
    again = replace(request, begun=[whole[:5]])
    events = run(build(model, spec), again)["a"]
    assert [token_id for event in events[:-1] for token_id in event.token_ids] == whole[5:]  # type: ignore[union-attr]
    (end,) = run(build(model, spec), replace(request, begun=[whole]))["a"]
    assert isinstance(end, Done)
    assert end.reason == "stop"


@pytest.fixture
def may_compile(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No grammar is compiled before it is set."""
    event, compile_ = threading.Event(), Grammars.matcher

    def wait_and_compile(self: Grammars, grammar: str) -> Matcher:
        assert event.wait(60)
        return compile_(self, grammar)

    monkeypatch.setattr(Grammars, "matcher", wait_and_compile)
    return event


def test_others_go_on_while_a_grammar_is_compiled(model: Llava, spec: ModelSpec, may_compile: threading.Event) -> None:
    core = build(model, spec)
    core.submit(submit(spec, "a", replace(HOT, grammar=DIGITS)))
    core.submit(submit(spec, "b", SEEDED))
    events = [event for _ in range(SEEDED.max_tokens) for event in core.step()]
    assert len(answer(events)) == SEEDED.max_tokens
    assert core.has_work
    may_compile.set()
    assert re.fullmatch("[0-9]{2,5}-[ab]", said(spec, answer(drain(core)["a"])))


def test_a_request_can_be_aborted_before_its_grammar_is_compiled(
    model: Llava, spec: ModelSpec, may_compile: threading.Event
) -> None:
    core = build(model, spec)
    core.submit(submit(spec, "a", replace(HOT, grammar=DIGITS, num_choices=3)))
    core.abort("a")
    events = drain(core)["a"]
    may_compile.set()
    assert [event.reason for event in events if isinstance(event, Done)] == ["abort"] * 3


def test_a_choice_that_goes_on_can_be_aborted_before_its_grammar_is_compiled(
    model: Llava, spec: ModelSpec, may_compile: threading.Event
) -> None:
    core = build(model, spec)
    begun = [[texts(spec).index(b"1")]] * 2
    core.submit(replace(submit(spec, "a", replace(HOT, grammar=DIGITS, num_choices=2)), begun=begun))
    core.abort("a", choice=0)
    may_compile.set()
    ends = {event.choice: event.reason for event in drain(core)["a"] if isinstance(event, Done)}
    assert ends == {0: "abort", 1: "stop"}


@pytest.mark.parametrize("grammar", ["start: /(/", "start: nothing", "no grammar at all", 'start: "\\xff\\xfe" x'])
def test_a_bad_grammar_fails_alone(model: Llava, spec: ModelSpec, grammar: str) -> None:
    events = run(build(model, spec), submit(spec, "a", replace(HOT, grammar=grammar)), submit(spec, "b", SEEDED))
    assert failure(events["a"]) == "invalid_input"
    assert len(answer(events["b"])) == SEEDED.max_tokens


def test_what_no_token_says_fails_alone(model: Llava, spec: ModelSpec) -> None:
    """A vocabulary without letters can't say yes."""
    digits = [text if text.isdigit() else b"" for text in texts(spec)]
    core = EngineCore(model, spec, num_blocks=64, max_sequences=8, max_step_tokens=512, token_texts=digits)
    events = run(core, submit(spec, "a", replace(HOT, grammar=HEAD + '"yes"')))["a"]
    assert failure(events) == "invalid_input"


def test_without_texts_or_ends_there_are_no_grammars(model: Llava, spec: ModelSpec) -> None:
    core = EngineCore(model, spec, num_blocks=64, max_sequences=8, max_step_tokens=512)
    assert failure(run(core, submit(spec, "a", replace(HOT, grammar=DIGITS)))["a"]) == "invalid_input"
    with pytest.raises(InvalidInput, match=r"lavatube\[structured\]"):
        Grammars([b"a"], [], 1).matcher(DIGITS)


def test_compiled_grammars_are_remembered_within_bounds(spec: ModelSpec) -> None:
    grammars = Grammars(texts(spec), [2], spec.language.vocab_size)
    for number in range(MAX_COMPILED + 5):
        grammars.matcher(HEAD + f'"{number}"')
    grammars.matcher(HEAD + '"7"')
    assert len(grammars._compiled) == MAX_COMPILED
    assert next(reversed(grammars._compiled)) == HEAD + '"7"'


def test_one_step_has_a_limit(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP_FUEL", 10)
    matcher = Grammars(texts(spec), [2], spec.language.vocab_size).matcher(HEAD + r"/(\w+\s?){1,200}end/")
    mask = matcher.allowed()
    assert matcher.failure is not None
    assert "simpler" in matcher.failure.sentence
    assert len(mask) * 8 >= spec.language.vocab_size

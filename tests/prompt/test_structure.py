"""The form of an answer: a grammar that llguidance takes, or a sentence that says why not, within bounds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from llguidance import LLMatcher, LLTokenizer

from lavatube.errors import InvalidInput
from lavatube.prompt import structure
from lavatube.prompt.chat import Structure
from lavatube.prompt.sandbox import SandboxLimits
from lavatube.prompt.structure import LIMITS, MAX_REMEMBERED, MAX_TEXT_CHARS, GrammarBuilder
from lavatube.prompt.structure_child import _Bytes

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def builder() -> Iterator[GrammarBuilder]:
    builder = GrammarBuilder(may_begin_with_space=False)
    yield builder
    builder.close()


def schema(value: object) -> Structure:
    return Structure("json_schema", json.dumps(value), "response_format")


def takes(grammar: str, text: str) -> bool:
    """Whether a text, byte by byte, is a whole answer."""
    matcher = LLMatcher(LLTokenizer(_Bytes()), grammar, log_level=0)  # type: ignore[arg-type]
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        (schema(PERSON), '{"name": "Jo", "age": 3}', '{"name": "Jo"}'),
        (schema(PERSON), '{\n  "name":"né",\n  "age": 30\n}', '{"name": "Jo", "age": 3, "x": 1}'),
        (schema({"type": "object"}), '{"a": [1, {"b": null}]}', "[1]"),
        (Structure("regex", '[0-9]{3}/[a-z"]+|x y', "structured_outputs"), '123/ab"c', "12/abc"),
        (Structure("regex", "a\\nb", "structured_outputs"), "a\nb", "a b"),
        (Structure("choice", json.dumps(["yes", 'n\\o "é"\n']), "structured_outputs"), 'n\\o "é"\n', "ye"),
        (Structure("choice", json.dumps(["yes", "no"]), "structured_outputs"), "yes", " yes"),
    ],
)
def test_a_structure_takes_what_it_should_and_nothing_else(
    builder: GrammarBuilder, wanted: Structure, good: str, bad: str
) -> None:
    grammar = builder.build(wanted)
    assert takes(grammar, good)
    assert not takes(grammar, bad)


def test_blanks_between_values_have_an_end(builder: GrammarBuilder) -> None:
    grammar = builder.build(schema(PERSON))
    assert takes(grammar, '{"name":' + " " * 24 + '"Jo", "age": 3}')
    assert not takes(grammar, '{"name":' + " " * 25 + '"Jo", "age": 3}')


def test_a_first_space_is_allowed_where_the_text_will_lose_it() -> None:
    builder = GrammarBuilder(may_begin_with_space=True)
    try:
        grammar = builder.build(Structure("choice", '["yes", "no"]', "structured_outputs"))
        assert all(takes(grammar, text) for text in ("yes", " yes"))
        assert not takes(grammar, "  yes")
        grammar = builder.build(Structure("regex", " ?a", "structured_outputs"))
        assert all(takes(grammar, text) for text in (" a", "  a"))  # which will be "a" and " a"
        assert not takes(grammar, "a")
    finally:
        builder.close()


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (schema({"type": "objekt"}), "objekt"),
        (schema({"type": "string", "format": "weird"}), "weird"),
        (schema({"if": {}}), "if"),
        (schema({"$ref": "http://example.com/schema.json"}), "retriev"),
        (schema({"enum": []}), ""),
        (schema(["no", "object"]), "JSON"),
        (Structure("choice", "yes", "structured_outputs"), "JSON"),
        (Structure("choice", "[1]", "structured_outputs"), ""),
        (Structure("regex", "(a", "structured_outputs"), "regex"),
        (Structure("regex", "(?=a)b", "structured_outputs"), "regex"),
        (Structure("regex", "a" * (MAX_TEXT_CHARS + 1), "structured_outputs"), "65536"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(builder: GrammarBuilder, wanted: Structure, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        builder.build(wanted)
    assert refused.value.param == wanted.param
    assert reason in refused.value.message
    assert len(refused.value.sentence) < 500
    assert "llguidance" not in refused.value.sentence


def test_a_hostile_schema_costs_its_child_the_life_and_the_next_one_is_read() -> None:
    limits = SandboxLimits(LIMITS.memory_limit_bytes, cpu_limit_s=0.3, wall_limit_s=20)
    builder = GrammarBuilder(may_begin_with_space=False, limits=limits)
    try:
        begun_s = time.process_time()
        with pytest.raises(InvalidInput, match="too long"):
            builder.build(schema({"type": "integer", "multipleOf": 999983}))
        assert time.process_time() - begun_s < 2
        assert builder.build(schema({"type": "integer"}))
    finally:
        builder.close()


def test_what_was_built_is_remembered_within_bounds(builder: GrammarBuilder) -> None:
    first = builder.build(Structure("regex", "remember", "structured_outputs"))
    assert builder.build(Structure("regex", "remember", "structured_outputs")) is first
    for number in range(MAX_REMEMBERED):
        builder.build(Structure("regex", f"other{number}", "structured_outputs"))
    assert builder.build(Structure("regex", "remember", "structured_outputs")) is not first


def test_without_the_library_it_says_what_to_install(builder: GrammarBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"lavatube\[structured\]") as refused:
        builder.build(schema(PERSON))
    assert refused.value.param == "response_format"

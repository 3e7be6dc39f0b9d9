"""The body of a response: whatever comes is understood or refused by its field, and what is kept of it is small."""

from __future__ import annotations

import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from lavatube.prompt.chat import ImageInput, Role, Structure, Text
from lavatube.serve.fields import InvalidFields
from lavatube.serve.responses_input import turns_of_kept
from lavatube.serve.responses_request import NOT_SERVED, WITHOUT_EFFECT, ResponseRequest, parse_response_request

PICTURE = "data:image/png;base64," + "A" * 10_000
NAMES = sorted({*ResponseRequest.model_fields, *NOT_SERVED, *WITHOUT_EFFECT, "messages"})
WORDS = st.sampled_from(
    ["user", "assistant", "message", "input_text", "input_image", "output_text", "json_schema", "auto", PICTURE, ""]
)
KEYS = st.sampled_from(["type", "role", "content", "text", "image_url", "detail", "format", "schema", "name", "id"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_whatever_comes_is_understood_or_refused(change: dict[str, object]) -> None:
    with suppress(InvalidFields):
        parse_response_request({"model": "tiny", "input": "x"} | change)


def test_what_is_kept_of_a_conversation_is_the_conversation() -> None:
    content = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PICTURE, "detail": "low"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": content},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": "b"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}]},
    ]
    asked = parse_response_request({"model": "tiny", "input": messages})
    assert [turn.role for turn in asked.turns] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER]
    assert asked.turns[1].parts == (Text("a"), ImageInput(PICTURE, "input.1.content.1.image_url", "low"))
    assert len(json.dumps(asked.items)) < 1000
    again = turns_of_kept(json.loads(json.dumps(asked.items)), "previous_response_id", asked.pictures)
    assert [turn.role for turn in again] == [turn.role for turn in asked.turns]
    assert again[1].parts == (Text("a"), ImageInput(PICTURE, "previous_response_id", "low"))
    assert again[3].parts[0] == ImageInput("https://example.com/a.png", "previous_response_id", "high")


def test_nothing_is_kept_of_what_is_not_stored() -> None:
    picture = {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]}
    asked = parse_response_request({"model": "tiny", "input": [picture], "store": False})
    assert (asked.items, asked.pictures) == ([], {})


def test_generation_and_structure() -> None:
    schema = {"type": "object"}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    request = parse_response_request(
        {"model": "tiny", "input": "x", "text": {"format": form}, "max_output_tokens": 5, "temperature": 0, "seed": 3}
    ).request
    generation = request.generation(100)
    assert generation.structure == Structure("json_schema", json.dumps(schema), "text.format")
    assert (generation.max_tokens, generation.temperature, generation.seed) == (5, 0, 3)
    assert generation.top_logprobs is None
    assert request.echo["text"] == {"format": form}

"""Which parameters of a chat completion are taken, what becomes of them, and what is said of those that are not."""

from __future__ import annotations

import re
import tracemalloc

import openai
import pytest

from lavatube.prompt.chat import Generation, Structure
from lavatube.serve.fields import InvalidFields
from lavatube.serve.openai_request import parse_chat_request
from tests.predictions.fakes import PNG
from tests.serve.chat import ask, post


def test_parameters_without_effect_and_those_that_ask_for_nothing(stock: openai.OpenAI) -> None:
    response = post(
        stock,
        max_tokens=6,
        user="u",
        metadata={"a": "b"},
        store=False,
        n=1,
        seed=-5,
        top_p=1,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        frequency_penalty=0,
        presence_penalty=0.0,
        logprobs=False,
        logit_bias={},
        service_tier="auto",
        stop=None,
    )
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 3}, "min_tokens"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "structured_outputs.grammar"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": "1"}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 1.5}, "min_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"store": True}, "store"),
        ({"guided_regex": "(a+)+b"}, "guided_regex"),
        ({"mm_processor_kwargs": {"code_revision": "evil"}}, "mm_processor_kwargs"),
        ({"max_token": 3}, "max_token"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop.0"),
        ({"stop": "a" * 1_000_000}, "stop.0"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "file_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages.0.content.0.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1}}]}]},
            "messages.0.content.0.image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]},
            "messages.0.content.0.image_url",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}]},
            "messages.0.content.0.image_url",
        ),
    ],
)
def test_what_is_wrong_is_named(stock: openai.OpenAI, change: dict[str, object], param: str | None) -> None:
    response = post(stock, **change)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert re.fullmatch(r"(?s).+\. [A-Z].+[.?]", error["message"]), "what is wrong, and what to do"
    assert "validation" not in error["message"]
    assert len(error["message"]) < 500


UNKNOWN = {f"unknown{index}": 0 for index in range(40_000)}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (UNKNOWN, "unknown0"),
        ({"messages": [0] * 40_000}, "messages"),
        ({"messages": [{"role": "user", "content": [0] * 40_000}]}, "messages.0.content"),
        ({"messages": [UNKNOWN]}, "messages.0.unknown0"),
        ({"stream_options": UNKNOWN}, "stream_options.unknown0"),
        ({"logit_bias": UNKNOWN}, "logit_bias"),
        ({"stop": [0] * 40_000}, "stop"),
        ({"structured_outputs": {"choice": [0] * 40_000}}, "structured_outputs.choice"),
    ],
)
def test_forty_thousand_faults_are_one(change: dict[str, object], param: str) -> None:
    body = {"model": "echo", "messages": ask("x")} | change
    tracemalloc.start()
    with pytest.raises(InvalidFields) as refusal:
        parse_chat_request(body)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refusal.value.param == param
    assert refusal.value.remedy
    assert peak_bytes < 12 << 20


def test_how_to_sample_arrives_as_it_was_sent() -> None:
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": "Hi"}],
        "n": 2,
        "seed": 4,
        "frequency_penalty": 0.5,
        "presence_penalty": -1,
        "repetition_penalty": 1.2,
        "min_p": 0.05,
        "top_k": -1,
        "min_tokens": 3,
        "logit_bias": {"7": -100, "9": 2.5},
        "logprobs": True,
    }
    assert parse_chat_request(body).generation(16) == Generation(
        max_tokens=16,
        temperature=1.0,
        seed=4,
        num_choices=2,
        frequency_penalty=0.5,
        presence_penalty=-1,
        repetition_penalty=1.2,
        min_p=0.05,
        min_tokens=3,
        logit_bias=((7, -100), (9, 2.5)),
        top_logprobs=0,
    )


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"response_format": {"type": "text"}}, None),
        (
            {"response_format": {"type": "json_object"}},
            Structure("json_schema", '{"type": "object"}', "response_format"),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True}}},
            Structure("json_schema", "{}", "response_format"),
        ),
        ({"structured_outputs": {"json": {}}}, Structure("json_schema", "{}", "structured_outputs")),
        ({"structured_outputs": {"regex": "a|b"}}, Structure("regex", "a|b", "structured_outputs")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Structure("choice", '["a", "b"]', "structured_outputs")),
    ],
)
def test_the_form_of_an_answer(asked: dict[str, object], wanted: Structure | None) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]} | asked
    assert parse_chat_request(body).generation(16).structure == wanted

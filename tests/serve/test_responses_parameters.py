"""Which parameters of a response are taken, and what is said of those that are not."""

from __future__ import annotations

import httpx
import pytest

from tests.serve.responses import ask, post

LOGPROBS = "message.output_text.logprobs"


def test_parameters_without_effect_and_those_that_ask_for_nothing(shared_client: httpx.Client) -> None:
    response = post(
        shared_client,
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        service_tier="auto",
        parallel_tool_calls=True,
        tools=[],
        tool_choice="auto",
        truncation="disabled",
        reasoning={"effort": None, "summary": None},
        text={"format": {"type": "text"}, "verbosity": "medium"},
        include=["reasoning.encrypted_content"],
        conversation=None,
        stream=False,
    )
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"background": True, "store": False}, "background"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 5000}, "max_output_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"include": ["everything"]}, "include.0"),
        ({"previous_response_id": "../etc"}, "previous_response_id"),
        ({"previous_response_id": "resp_unknown"}, "previous_response_id"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": [7]}, "input.0"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input.0.role"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f", "image_url": "x"}]}]},
            "input.0.content.0.file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input.0.content.0.image_url",
        ),
        (
            {"input": [{"role": "system", "content": ask()[0]["content"]}, {"role": "user", "content": "x"}]},
            "input.0.content.1.image_url",
        ),
        ({"input": [{"type": "item_reference"}, {"role": "user", "content": "x"}]}, "input.0.id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.role"),
        ({"input": [{"id": "a b", "role": "user", "content": "x"}]}, "input.0.id"),
    ],
)
def test_what_is_wrong_is_named(shared_client: httpx.Client, change: dict[str, object], param: str) -> None:
    response = post(shared_client, **change)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["message"].rstrip()[-1] in ".?"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"starting_after": "3"}, "starting_after"),
        ({"stream": "true", "starting_after": "-1"}, "starting_after"),
        ({"stream": "true", "starting_after": "x"}, "starting_after"),
        ({"stream": "maybe"}, "stream"),
        ({"include_obfuscation": "true"}, "include_obfuscation"),
        ({"include[]": "everything"}, "include.0"),
        ({"wait": "3"}, "wait"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(shared_client: httpx.Client, query: dict[str, str], param: str) -> None:
    response_id = post(shared_client).json()["id"]
    response = shared_client.get(f"/v1/responses/{response_id}", params=query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_no_id_reaches_beyond_what_is_kept(shared_client: httpx.Client) -> None:
    for response_id in ("resp_unknown", "a" * 5000, "..%2F..%2Fetc", "resp_%00", "%F0%9F%8C%8B"):
        for path in (f"/v1/responses/{response_id}", f"/v1/responses/{response_id}/input_items"):
            assert shared_client.get(path).status_code == 404

"""Each parameter that the stock OpenAI client can send is looked at, refused by its name, or ignored as written."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase, CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsBase, ResponseCreateParamsStreaming

from tests.serve.test_api_doc import OPENAI, RESPONSES

CHAT = ("/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5})
RESPONSE = ("/v1/responses", {"model": "echo", "input": "hello", "max_output_tokens": 5})
NONSENSE = {"no such": ["thing"]}
"""What no parameter means: who looks at it refuses it."""


def parameters(*types: type) -> list[str]:
    return sorted({name for one in types for name in one.__annotations__})


CASES = [
    *((CHAT, OPENAI, name) for name in parameters(CompletionCreateParamsBase, CompletionCreateParamsStreaming)),
    *((RESPONSE, RESPONSES, name) for name in parameters(ResponseCreateParamsBase, ResponseCreateParamsStreaming)),
]


@pytest.mark.parametrize(("usual", "table", "name"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_treated_as_the_page_says(
    shared_client: httpx.Client, usual: tuple[str, dict[str, Any]], table: dict[str, str], name: str
) -> None:
    path, body = usual
    answer = shared_client.post(path, json={**body, name: NONSENSE})
    if table[name] == "ignored":
        assert answer.status_code == 200
        assert text_of(answer) == text_of(shared_client.post(path, json=body))
        return
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"].partition(".")[0] == name
    assert name in error["message"]
    if table[name] == "refused":
        assert f"{name} is not served: " in error["message"]
    assert shared_client.post(path, json={**body, name: None}).status_code in ((200, 400) if name in body else (200,))


def text_of(answer: httpx.Response) -> str:
    body = answer.json()
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    return str(body["output"][0]["content"][0]["text"])

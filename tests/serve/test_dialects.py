"""Every error of the tree in both dialects: a status, a code, and the promised shape."""

from __future__ import annotations

import json

import httpx
import pytest

from lavatube import errors
from lavatube.errors import InvalidInput, LavatubeError, OperatorError, Overloaded, RequestError
from lavatube.serve.dialects import dump, error_response


def leaves(kind: type[LavatubeError]) -> list[type[LavatubeError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]


KINDS = [
    kind for kind in leaves(LavatubeError) if not issubclass(kind, OperatorError) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_its_answer(kind: type[LavatubeError]) -> None:
    error = kind("It went wrong.", param="some.0.field", remedy="Do this.")
    cog = error_response(error, "/predictions", "req_1")
    body = json.loads(bytes(cog.body))
    assert cog.status_code == kind.status
    if issubclass(kind, RequestError):
        assert body["error"]["code"] == kind.code
        assert body["error"]["param"] == "some.0.field"
        assert body["error"]["remedy"] == "Do this."
        if kind.status == 422:
            assert body["detail"][0]["loc"] == ["body", "some", 0, "field"]
            assert body["detail"][0]["msg"] == "It went wrong. Do this."
    else:
        assert (body["error"], body["code"], body["status"]) == ("It went wrong. Do this.", kind.code, "failed")
    openai = error_response(error, "/v1/chat/completions", "req_1")
    body = json.loads(bytes(openai.body))
    assert openai.status_code == {422: 400}.get(kind.status, kind.status) or kind.code == "unsupported_image_format"
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == kind.code
    if openai.status_code in (429, 503):
        assert openai.headers["retry-after"] == cog.headers["retry-after"] == "1"
    if openai.status_code in (408, 409, 429) or openai.status_code >= 500:
        assert openai.headers["x-should-retry"] == str(kind.is_retryable).lower()


def test_retry_after_stays_where_clients_obey_it() -> None:
    assert error_response(Overloaded("x", retry_after_s=9000), "/v1/x", "r").headers["retry-after"] == "120"


def test_json_is_one_line_whatever_a_reader_takes_for_a_line() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x1cf\rg\nh \U0001f600"
    line = dump({"t": text})
    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line) == {"t": text}


def test_messages_keep_non_ascii_text() -> None:
    answer = error_response(InvalidInput("Größe"), "/predictions", "r")
    assert "Größe" in bytes(answer.body).decode()


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/prediction", "/predictions"),
        ("/something/else", "GET /v1/openapi.json"),
    ],
)
def test_a_path_that_is_not_there_is_told_what_may_be_meant(shared_client: httpx.Client, path: str, meant: str) -> None:
    answer = shared_client.get(path)
    assert answer.status_code == 404
    assert meant in answer.text

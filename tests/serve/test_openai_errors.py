"""Chat completions that have no answer, or not all of it: refused, crashed, left, too early."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openai
import pytest

from tests.predictions.fakes import CRASH, CRASH_LATER
from tests.serve.chat import ask, connect, post
from tests.serve.live import LiveServer
from tests.waiting import waiting_client


def test_errors_arrive_typed(stock: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        stock.chat.completions.create(model="gpt-4o", messages=ask())
    assert unknown.value.code == "model_not_found"
    assert "serves echo" in str(unknown.value)
    with pytest.raises(openai.BadRequestError) as bad_image:
        stock.chat.completions.create(model="echo", messages=ask(image="data:image/png;base64,%%"), stream=True)
    assert bad_image.value.code == "invalid_image"
    assert bad_image.value.param == "messages.1.content.1.image_url"
    with pytest.raises(openai.BadRequestError) as long:
        stock.chat.completions.create(model="echo", messages=ask("x" * 3000))
    assert (long.value.code, long.value.param) == ("prompt_too_long", "messages")


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_cause_of_two_crashes_is_a_status_that_clients_do_not_retry(shared: LiveServer, is_stream: bool) -> None:
    num_before = len(shared.engine.submitted)
    with connect(shared) as client, pytest.raises(openai.InternalServerError) as crash:
        client.with_options(max_retries=1).chat.completions.create(
            model="echo", messages=ask(CRASH), max_tokens=5, stream=is_stream
        )
    assert crash.value.code == "engine_crash_poison"
    assert crash.value.response.headers["x-should-retry"] == "false"
    assert len(shared.engine.submitted) == num_before + 2


def test_a_crash_in_mid_stream_is_an_error_event_and_no_done(stock: openai.OpenAI) -> None:
    got: list[openai.types.chat.ChatCompletionChunk] = []
    stream = stock.chat.completions.create(model="echo", messages=ask(CRASH_LATER), max_tokens=50, stream=True)
    with pytest.raises(openai.APIError) as crash:
        got.extend(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in got) == CRASH_LATER[:5]
    assert crash.value.code == "engine_crash_poison"
    assert "[DONE]" not in post(stock, messages=ask(CRASH_LATER), max_tokens=50, stream=True).text


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_leaves_stops_its_completion(server: LiveServer, is_stream: bool) -> None:
    server.engine.token_s = 0.01
    if is_stream:
        with connect(server) as client:
            stream = client.chat.completions.create(model="echo", messages=ask(), max_tokens=2000, stream=True)
            next(stream)
            stream.close()
    else:
        wanted = {"model": "echo", "messages": ask(), "max_tokens": 2000}
        with waiting_client(f"{server.url}/v1/chat/completions", wanted):
            server.until(lambda: server.engine.num_tokens > 0)
    server.until(lambda: len(server.engine.aborted) == 1)


def test_not_ready_is_retried_by_the_stock_client_until_it_is(tmp_path: Path) -> None:
    with LiveServer(tmp_path, is_ready=False) as server, connect(server) as client:
        with pytest.raises(openai.InternalServerError) as early:
            client.chat.completions.create(model="echo", messages=ask(), max_tokens=3)
        assert early.value.status_code == 503
        assert early.value.code == "not_ready"
        assert early.value.response.headers["retry-after"] == "2"
        server.make_ready()
        completion = client.chat.completions.create(model="echo", messages=ask(), max_tokens=3)
        assert completion.choices[0].message.content == "hel"


@pytest.mark.parametrize(
    "rest", [b"Host: a\r\nno header\r\n\r\n", b"\r\n", b"X: " + b"a" * 40_000, b"Host : a\r\n\r\n"]
)
def test_a_head_that_cannot_be_parsed_is_refused_in_the_words_of_the_api(server: LiveServer, rest: bytes) -> None:
    usual = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
    broken = b"POST /v1/chat/completions HTTP/1.1\r\n" + rest
    for data, num_answers in ((broken, 1), (usual + broken, 2)):
        answers = server.raw(data, num_answers=num_answers)
        assert re.findall(rb"HTTP/1.1 (\d+) ", answers)[-1] in (b"400", b"431")
        is_openai = b'"type":"invalid_request_error"' in answers
        assert is_openai is (num_answers == 1), "only a head that begins what came can be told"


def test_what_is_no_http_is_refused_in_the_words_of_the_api(server: LiveServer) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    answer = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    huge = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\nA")
    assert json.loads(huge.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"
    assert set(json.loads(huge.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}

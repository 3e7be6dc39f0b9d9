"""The OpenAI API through a real server, with the stock client."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from pathlib import Path

import httpx
import openai
import pytest

from lavatube.prompt.chat import Generation, Structure
from lavatube.serve.fields import InvalidFields
from lavatube.serve.openai_request import parse_chat_request
from tests.predictions.fakes import CRASH, CRASH_LATER, PNG
from tests.serve.live import LiveServer
from tests.waiting import waiting_client


def connect(server: LiveServer, **options: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20, **options)


def ask(text: str = "hello ", image: str = PNG) -> list[dict]:
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": image, "detail": "high"}},
    ]
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]


def post(client: openai.OpenAI, **body: object) -> httpx.Response:
    """Past the client's own checks."""
    whole = {"model": "echo", "messages": ask()} | body
    return client._client.post("chat/completions", json=whole)


def test_a_whole_completion_with_usage(stock: openai.OpenAI) -> None:
    completion = stock.chat.completions.create(model="echo", messages=ask(), max_tokens=12)
    choice = completion.choices[0]
    assert choice.message.content == "hello hello "
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert completion.id.startswith("chatcmpl-")
    assert (completion.object, completion.model) == ("chat.completion", "echo")
    assert abs(completion.created - time.time()) < 60
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 12, 22)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 1
    assert usage.prompt_tokens_details.model_dump()["image_tokens"] == 4
    assert completion._request_id


def test_a_stream_follows_the_chunk_protocol(stock: openai.OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(
        stock.chat.completions.create(
            model="org/echo", messages=ask(), max_completion_tokens=12, stream=True, stream_options=options
        )
    )
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.model_dump(exclude_none=True) == {"role": "assistant", "content": ""}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "hello hello "
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-2].choices[0].delta.model_dump(exclude_none=True) == {}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 22
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_bytes_of_a_stream(stock: openai.OpenAI) -> None:
    text = post(stock, max_tokens=2, stream=True).text
    assert text.startswith('data: {"id":"chatcmpl-')
    assert text.endswith("\n\ndata: [DONE]\n\n")
    assert '"usage"' not in text
    assert '"usage":null' in post(stock, max_tokens=2, stream=True, stream_options={"include_usage": True}).text


def test_the_helper_of_the_stock_client_accumulates_it(stock: openai.OpenAI) -> None:
    with stock.chat.completions.stream(model="echo", messages=ask("hello STOP"), stop="STOP") as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "hello "


async def test_the_async_client(shared: LiveServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{shared.url}/v1", api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(model="echo", messages=ask(), max_tokens=6, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "hello "


def test_stop_strings_never_show(stock: openai.OpenAI) -> None:
    for stop in ("STOP", ["nothing", "STOP"]):
        completion = stock.chat.completions.create(
            model="echo", messages=ask("one STOP two"), max_tokens=100, stop=stop, temperature=0
        )
        assert completion.choices[0].message.content == "one "
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 8


def test_follow_up_turns_with_the_assistants_own_message(stock: openai.OpenAI) -> None:
    first = stock.chat.completions.create(model="echo", messages=ask(), max_tokens=3)
    again = stock.chat.completions.create(
        model="echo",
        messages=[*ask(), first.choices[0].message, {"role": "user", "content": "more"}],
        max_tokens=4,
    )
    assert again.choices[0].message.content == "more"


def test_follow_up_turns_with_a_message_of_the_helpers(stock: openai.OpenAI) -> None:
    """It has more empty fields than the plain one."""
    with stock.chat.completions.stream(model="echo", messages=ask("one STOP"), stop="STOP") as stream:
        message = stream.get_final_completion().choices[0].message
    messages = [*ask(), message, {"role": "user", "content": "more"}]
    again = stock.chat.completions.create(model="echo", messages=messages, max_tokens=4)
    assert again.choices[0].message.content == "more"


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


def test_several_choices_share_one_request(shared: LiveServer, stock: openai.OpenAI) -> None:
    num_before = len(shared.engine.submitted)
    completion = stock.chat.completions.create(model="echo", messages=ask("abc"), max_tokens=4, n=3)
    assert len(shared.engine.submitted) == num_before + 1
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert [choice.message.content for choice in completion.choices] == ["abca", "bcab", "cabc"]
    assert [choice.finish_reason for choice in completion.choices] == ["length"] * 3
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 12)


def test_several_choices_are_streamed_side_by_side(stock: openai.OpenAI) -> None:
    chunks = list(
        stock.chat.completions.create(model="echo", messages=ask("abc"), max_tokens=4, n=2, stream=True, stop="ca")
    )
    for index, (text, reason) in enumerate([("ab", "stop"), ("b", "stop")]):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == text
        assert [choice.finish_reason for choice in own] == [None] * (len(own) - 1) + [reason]


def test_a_choice_that_met_its_stop_string_is_ended_in_the_engine(server: LiveServer) -> None:
    with connect(server) as client:
        client.chat.completions.create(model="echo", messages=ask("abcdefgh"), max_tokens=30, n=2, stop="ha")
    assert [choice for _, choice in server.engine.aborted_choices] == [1, 0]


@pytest.mark.parametrize("is_stream", [False, True])
def test_logprobs_of_each_token_with_its_alternatives(stock: openai.OpenAI, is_stream: bool) -> None:
    asked = {"model": "echo", "messages": ask("né"), "max_tokens": 4, "logprobs": True, "top_logprobs": 2}
    if is_stream:
        choices = [chunk.choices[0] for chunk in stock.chat.completions.create(**asked, stream=True)]
    else:
        choices = [stock.chat.completions.create(**asked).choices[0]]
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert [bytes(entry.bytes or []) for entry in entries] == [b"n", b"\xc3", b"\xa9", b"n"]
    assert [entry.token for entry in entries] == ["n", "\ufffd", "\ufffd", "n"]
    assert all(entry.logprob == -0.5 for entry in entries)
    assert [bytes(other.bytes or []) for other in entries[0].top_logprobs] == [b"n", b"\xc3"]
    if is_stream:
        for choice in choices:
            if choice.delta.content:  # tokens come with the characters that they end
                assert choice.logprobs is not None
                spelled = b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content or [])
                assert spelled.decode() == choice.delta.content


def test_logprobs_without_alternatives_and_none_unasked(stock: openai.OpenAI) -> None:
    asked = {"model": "echo", "messages": ask("abc"), "max_tokens": 2}
    with_own = stock.chat.completions.create(**asked, logprobs=True).choices[0].logprobs
    assert with_own is not None
    assert [entry.top_logprobs for entry in with_own.content or []] == [[], []]
    assert stock.chat.completions.create(**asked, logprobs=False).choices[0].logprobs is None


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


def test_models(stock: openai.OpenAI) -> None:
    assert [model.id for model in stock.models.list()] == ["echo"]
    assert stock.models.retrieve("echo").object == "model"
    assert stock.models.retrieve("org/echo").id == "echo"
    with pytest.raises(openai.NotFoundError) as unknown:
        stock.models.retrieve("acme/llava")
    assert unknown.value.code == "model_not_found"


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

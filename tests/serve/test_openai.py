"""Chat completions of the OpenAI API through a real server, with the stock client."""

from __future__ import annotations

import time

import openai
import pytest
from pydantic import BaseModel

from tests.serve.chat import ask, connect, post
from tests.serve.live import LiveServer


class Counted(BaseModel):
    number: int


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


def test_follow_up_turns_with_a_message_that_the_client_has_read(stock: openai.OpenAI) -> None:
    """What it read in the content comes along, as `parsed`."""
    asked = ask('{"number": 1} STOP')
    read = stock.chat.completions.parse(model="echo", messages=asked, response_format=Counted, stop="STOP")
    assert read.choices[0].message.parsed == Counted(number=1)
    message = read.choices[0].message.model_dump(warnings=False)
    messages = [*asked, message, {"role": "user", "content": "more"}]
    again = stock.chat.completions.create(model="echo", messages=messages, max_tokens=4)
    assert again.choices[0].message.content == "more"


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


def test_models(stock: openai.OpenAI) -> None:
    assert [model.id for model in stock.models.list()] == ["echo"]
    assert stock.models.retrieve("echo").object == "model"
    assert stock.models.retrieve("org/echo").id == "echo"
    with pytest.raises(openai.NotFoundError) as unknown:
        stock.models.retrieve("acme/llava")
    assert unknown.value.code == "model_not_found"

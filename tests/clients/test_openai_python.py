"""The official Python client of OpenAI, on its whole tour."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.conftest import KEY
from tests.clients.tour import FOLLOW_UP, LONG, OTHER_PICTURE, PICTURE, QUESTION, chat_content, response_input
from tests.flow.server import Server

STRICT = {"max_retries": 0, "timeout": 60, "_strict_response_validation": True}
"""It takes no answer that is not as its types say."""


class Counted(BaseModel):
    """A form for the answer; the client makes its schema and reads it."""

    number: Literal["one", "two", "three"]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, **STRICT) as client:
        yield client


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, **STRICT) as client:
        yield client


@pytest.fixture(scope="module")
def answer(client: OpenAI) -> str:
    """What all ways to ask agree upon."""
    messages = [{"role": "user", "content": chat_content()}]
    text = client.chat.completions.create(model="tiny", messages=messages, temperature=0).choices[0].message.content
    assert text
    return text


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("acme/llava")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_typed(server: Server) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_chat_with_two_pictures_and_all_of_usage(client: OpenAI) -> None:
    one, two = (
        client.chat.completions.create(
            model="tiny",
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": chat_content(*pictures)},
            ],
            max_completion_tokens=4,
            seed=7,
        )
        for pictures in ((PICTURE,), (PICTURE, OTHER_PICTURE))
    )
    assert one.usage is not None
    assert two.usage is not None
    image_tokens = [usage.prompt_tokens_details.model_dump()["image_tokens"] for usage in (one.usage, two.usage)]
    assert 0 < image_tokens[0] < image_tokens[1]
    assert two.usage.total_tokens == two.usage.prompt_tokens + two.usage.completion_tokens


def test_chat_choices_stop_and_log_probabilities(client: OpenAI) -> None:
    completion = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": chat_content()}],
        n=2,
        temperature=1,
        seed=3,
        stop=["."],
        logprobs=True,
        top_logprobs=2,
        max_tokens=6,
    )
    assert len(completion.choices) == 2
    for choice in completion.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content
        assert len(choice.logprobs.content[0].top_logprobs) == 2
        assert "." not in (choice.message.content or "")


def test_chat_stream_with_usage(client: OpenAI, answer: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": chat_content()}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
    assert chunks[-1].usage is not None


def test_chat_stream_helper_and_follow_up(client: OpenAI, answer: str) -> None:
    messages = [{"role": "user", "content": chat_content()}]
    with client.chat.completions.stream(model="tiny", messages=messages, temperature=0) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == answer
    again = client.chat.completions.create(
        model="tiny", messages=[*messages, message, {"role": "user", "content": FOLLOW_UP}], temperature=0
    )
    assert again.choices[0].message.content


def test_chat_parse(client: OpenAI) -> None:
    completion = client.chat.completions.parse(
        model="tiny", messages=[{"role": "user", "content": chat_content()}], response_format=Counted, temperature=0
    )
    assert completion.choices[0].message.parsed is not None


def test_responses(client: OpenAI, answer: str) -> None:
    response = client.responses.create(model="tiny", input=response_input(), temperature=0)
    assert (response.output_text, response.status) == (answer, "completed")
    assert response.usage is not None
    assert response.usage.output_tokens > 0
    assert client.responses.retrieve(response.id) == response


def test_responses_go_on_by_id_as_by_items(client: OpenAI) -> None:
    first = client.responses.create(model="tiny", input=response_input(), temperature=0)
    by_id = client.responses.create(model="tiny", input=FOLLOW_UP, temperature=0, previous_response_id=first.id)
    items = [*response_input(), *first.output, {"role": "user", "content": FOLLOW_UP}]
    by_items = client.responses.create(model="tiny", input=items, temperature=0)
    assert by_id.output_text == by_items.output_text
    assert by_id.usage is not None
    assert by_items.usage is not None
    assert by_id.usage.input_tokens == by_items.usage.input_tokens
    listed = client.responses.input_items.list(by_id.id, order="asc")
    assert [item.role for item in listed] == ["user", "assistant", "user"]
    client.responses.delete(by_id.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(by_id.id)


def test_responses_stream_and_helper(client: OpenAI, answer: str) -> None:
    events = list(client.responses.create(model="tiny", input=response_input(), temperature=0, stream=True))
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer
    with client.responses.stream(model="tiny", input=response_input(), temperature=0) as stream:
        assert stream.get_final_response().output_text == answer


def test_responses_parse(client: OpenAI) -> None:
    response = client.responses.parse(model="tiny", input=response_input(), text_format=Counted, temperature=0)
    assert response.output_parsed is not None
    with client.responses.stream(model="tiny", input=response_input(), text_format=Counted) as stream:
        assert stream.get_final_response().output_parsed is not None


def test_background_is_resumed_where_it_was_left(client: OpenAI) -> None:
    stream = client.responses.create(
        model="tiny", input=response_input(), text={"format": LONG}, background=True, stream=True
    )
    seen = []
    for event in stream:
        seen.append(event)
        if len(seen) == 8:
            break
    stream.close()
    response_id = seen[0].response.id
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number))
    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert numbers == sorted(set(numbers))
    text = "".join(event.delta for event in (*seen, *rest) if event.type == "response.output_text.delta")
    assert text == client.responses.retrieve(response_id).output_text
    with client.responses.stream(response_id=response_id, starting_after=5) as again:
        assert next(iter(again)).sequence_number >= 6


def test_background_is_polled_and_cancelled(client: OpenAI) -> None:
    response = client.responses.create(model="tiny", input=response_input(), text={"format": LONG}, background=True)
    assert response.status in ("queued", "in_progress")
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"
    polled = client.responses.create(model="tiny", input=QUESTION, background=True)
    while polled.status in ("queued", "in_progress"):
        polled = client.responses.retrieve(polled.id)
    assert polled.status == "completed"


def test_errors_are_typed(client: OpenAI) -> None:
    for call in (
        lambda: client.responses.create(model="tiny", input="x", tools=[{"type": "web_search"}]),
        lambda: client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x"}], tool_choice="required"
        ),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            call()
        assert caught.value.param in ("tools", "tool_choice")
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(model="tiny", input="long " * 5000)
    assert (long.value.code, long.value.param) == ("prompt_too_long", "input")


async def test_the_async_client(async_client: AsyncOpenAI, answer: str) -> None:
    assert [model.id async for model in async_client.models.list()] == ["tiny"]
    messages = [{"role": "user", "content": chat_content()}]
    completion = await async_client.chat.completions.create(model="tiny", messages=messages, temperature=0)
    assert completion.choices[0].message.content == answer
    async with async_client.chat.completions.stream(model="tiny", messages=messages, temperature=0) as chat:
        assert (await chat.get_final_completion()).choices[0].message.content == answer
    response = await async_client.responses.create(model="tiny", input=response_input(), temperature=0)
    assert response.output_text == answer
    async with async_client.responses.stream(model="tiny", input=response_input(), temperature=0) as events:
        assert (await events.get_final_response()).output_text == answer
    parsed = await async_client.responses.parse(model="tiny", input=response_input(), text_format=Counted)
    assert parsed.output_parsed is not None
    background = await async_client.responses.create(
        model="tiny", input=response_input(), text={"format": LONG}, background=True
    )
    resumed = await async_client.responses.retrieve(background.id, stream=True, starting_after=1)
    first = await anext(aiter(resumed))
    assert first.sequence_number == 2
    await resumed.close()
    assert (await async_client.responses.cancel(background.id)).status in ("cancelled", "completed")

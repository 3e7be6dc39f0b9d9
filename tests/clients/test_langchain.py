"""LangChain's ChatOpenAI, over both of OpenAI's ways to ask."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.clients.conftest import KEY
from tests.clients.tour import FOLLOW_UP, PICTURE, QUESTION, chat_content
from tests.flow.server import Server


class Colour(BaseModel):
    """A form for the answer."""

    colour: Literal["red", "green", "blue"]


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., ChatOpenAI]]:
    """Its own HTTP clients are never closed; those that it is given can be."""
    with ExitStack() as stack:

        def make(**options: Any) -> ChatOpenAI:
            http = stack.enter_context(httpx.Client(timeout=60))
            return ChatOpenAI(
                model="tiny",
                base_url=f"{server.url}/v1",
                api_key=KEY,
                max_retries=0,
                temperature=0,
                http_client=http,
                http_socket_options=(),
                **options,
            )

        yield make


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_invoke_stream_and_usage(connect: Callable[..., ChatOpenAI], use_responses_api: bool) -> None:
    model = connect(use_responses_api=use_responses_api, stream_usage=True)
    question = [SystemMessage("Be brief."), HumanMessage(chat_content())]
    whole = model.invoke(question)
    assert whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] > whole.usage_metadata["output_tokens"] > 0
    pieces = list(model.stream(question))
    assert "".join(piece.text for piece in pieces) == whole.text
    usages = [piece.usage_metadata for piece in pieces if piece.usage_metadata]
    assert usages[-1]["output_tokens"] == whole.usage_metadata["output_tokens"]
    assert model.invoke([*question, whole, HumanMessage(FOLLOW_UP)]).text


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_a_picture_in_langchains_own_form(connect: Callable[..., ChatOpenAI], use_responses_api: bool) -> None:
    model = connect(use_responses_api=use_responses_api)
    data = PICTURE.partition(",")[2]
    assert base64.b64decode(data)
    picture = {"type": "image", "base64": data, "mime_type": "image/png"}
    content = [picture, {"type": "text", "text": QUESTION}]
    assert model.invoke([HumanMessage(content)]).text == model.invoke([HumanMessage(chat_content())]).text


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_a_structured_answer(connect: Callable[..., ChatOpenAI], use_responses_api: bool) -> None:
    model = connect(use_responses_api=use_responses_api, max_tokens=64)
    structured = model.with_structured_output(Colour, method="json_schema")
    assert isinstance(structured.invoke([HumanMessage(chat_content(question="Which colour is it?"))]), Colour)


def test_goes_on_from_the_response_before(connect: Callable[..., ChatOpenAI]) -> None:
    model = connect(use_responses_api=True, use_previous_response_id=True)
    question = HumanMessage(chat_content())
    first = model.invoke([question])
    assert isinstance(first, AIMessage)
    second = model.invoke([question, first, HumanMessage(FOLLOW_UP)])
    assert second.text
    assert second.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]


def test_tools_are_refused_in_words(connect: Callable[..., ChatOpenAI]) -> None:
    with pytest.raises(openai.BadRequestError, match="tools is not served"):
        connect().bind_tools([Colour]).invoke("What is it?")

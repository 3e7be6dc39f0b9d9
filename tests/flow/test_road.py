"""The whole road, as its users walk it: a served model, a picture, an answer in pieces, in every API the same."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.flow.conftest import data_url
from tests.flow.server import Server
from tests.flow.sse import events

QUESTION = "How many circles are there?"


def ask_cog(server: Server, picture: str, prompt: str) -> str:
    body = {"input": {"image": picture, "prompt": prompt, "temperature": 0}}
    response = httpx.post(f"{server.url}/predictions", json=body)
    assert response.status_code == 200, response.text
    prediction = response.json()
    assert prediction["status"] == "succeeded", prediction
    return "".join(prediction["output"])


def ask_openai(server: Server, picture: str, *turns: str) -> str:
    """Greedy; `turns` are the user's and the assistant's in turn."""
    first = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": turns[0]}]
    messages = [{"role": "user", "content": first}]
    for index, text in enumerate(turns[1:]):
        messages.append({"role": "user" if index % 2 else "assistant", "content": text})
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.chat.completions.create(model="tiny", messages=messages, temperature=0, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_the_front_answers_before_there_is_a_model(cache: Path) -> None:
    with Server("tiny", cache) as server:
        assert httpx.get(f"{server.url}/livez").status_code == 200
        ready = httpx.get(f"{server.url}/readyz")
        assert (ready.status_code, ready.json()["phase"]) in {(503, "provisioning"), (503, "loading")}
        assert int(ready.headers["Retry-After"]) > 0
        refused = httpx.post(
            f"{server.url}/predictions", json={"input": {"image": data_url("shapes.png"), "prompt": "?"}}
        )
        assert refused.status_code == 503
        assert refused.json()["code"] == "not_ready"
        assert "Retry-After" in refused.headers
        server.wait_ready()
        startup = httpx.get(f"{server.url}/startupz").json()
        assert startup["phase"] == "ready"
        assert startup["done_bytes"] == startup["total_bytes"] > 1_000_000


def test_events_arrive_over_time(tiny: Server) -> None:
    body = {"input": {"image": data_url("shapes.png"), "prompt": "Describe the picture.", "temperature": 0}}
    with httpx.stream(
        "POST", f"{tiny.url}/predictions", json=body, headers={"Accept": "text/event-stream"}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        received = list(events(response))
    assert [event.name for event in received][:2] == ["start", "output"]
    outputs = [event for event in received if event.name == "output"]
    assert outputs[0].at < received[-1].at
    assert "".join(event.data["chunk"] for event in outputs) == "".join(received[-1].data["output"])
    ids = [int(event.id) for event in received]
    assert ids == sorted(set(ids)), "a reader that is late gets several pieces as one, with the id of the last"
    num_pieces = len(received[-1].data["output"])
    assert num_pieces > 5
    assert (ids[0], ids[-1]) == (1, num_pieces + 2)


def test_the_stock_openai_client_streams_the_same_answer(tiny: Server) -> None:
    picture = data_url("shapes.png")
    assert ask_openai(tiny, picture, QUESTION) == ask_cog(tiny, picture, QUESTION)


def test_the_answer_is_true(tiny: Server) -> None:
    assert "two" in ask_cog(tiny, data_url("shapes.png"), QUESTION).lower()


def test_a_follow_up_question_is_answered(tiny: Server) -> None:
    picture = data_url("shapes.png")
    answer = ask_openai(tiny, picture, QUESTION, ask_openai(tiny, picture, QUESTION), "And how many squares?")
    assert "square" in answer.lower()


def test_usage_counts_the_picture(tiny: Server) -> None:
    with OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as client:
        content = [
            {"type": "image_url", "image_url": {"url": data_url("shapes.png")}},
            {"type": "text", "text": QUESTION},
        ]
        completion = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=3
        )
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 3
    assert 0 < completion.usage.prompt_tokens_details.image_tokens < completion.usage.prompt_tokens
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 3


def test_a_text_only_turn_is_answered(tiny: Server) -> None:
    with OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as client:
        messages = [{"role": "user", "content": "Hello!"}]
        completion = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)
    assert completion.usage.prompt_tokens_details.image_tokens == 0
    assert completion.choices[0].message.content


@pytest.mark.parametrize(
    ("model", "content", "error", "code"),
    [
        ("gpt-9", "Hi", NotFoundError, "model_not_found"),
        ("tiny", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], BadRequestError, None),
        ("tiny", [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/cat.png"}}], BadRequestError, None),
        ("tiny", "long " * 3000, BadRequestError, "prompt_too_long"),
    ],
)
def test_the_stock_client_gets_typed_errors(
    tiny: Server, model: str, content: object, error: type[Exception], code: str | None
) -> None:
    with OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as client, pytest.raises(error) as caught:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    assert code is None or caught.value.code == code
    assert caught.value.body["message"]

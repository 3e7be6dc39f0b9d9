"""Responses that end otherwise than by their last token: in the background, cancelled, deleted, left, failed."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.predictions.fakes import CRASH_LATER, FAIL, SLOW_PREPARE
from tests.serve.live import LiveServer
from tests.serve.responses import ask, post

LOGPROBS = "message.output_text.logprobs"


def test_the_background_goes_on_without_a_reader(server: LiveServer) -> None:
    server.engine.token_s = 0.02
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20) as stock:
        stream = stock.responses.create(
            model="echo", input="hello ", max_output_tokens=20, background=True, stream=True
        )
        seen = []
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        stream.close()
        assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
        response_id = seen[0].response.id
        rest = list(stock.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number))
        numbers = [event.sequence_number for event in (*seen, *rest)]
        assert numbers == sorted(set(numbers))
        deltas = [event.delta for event in (*seen, *rest) if event.type == "response.output_text.delta"]
        assert "".join(deltas) == ("hello " * 4)[:20]
        assert rest[-1].type == "response.incomplete"
        with stock.responses.stream(response_id=response_id, starting_after=2) as again:
            assert next(event.sequence_number for event in again) == 3


def test_a_background_response_is_polled_and_cancelled(server: LiveServer) -> None:
    server.engine.token_s = 0.02
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20) as stock:
        response = stock.responses.create(model="echo", input="hello ", max_output_tokens=2000, background=True)
        assert (response.status, response.output, response.background) == ("queued", [], True)
        server.until(lambda: stock.responses.retrieve(response.id).output_text != "")
        assert stock.responses.retrieve(response.id).status == "in_progress"
        cancelled = stock.responses.cancel(response.id)
        assert cancelled.status == "cancelled"
        assert cancelled.output_text
        server.until(lambda: not server.engine.running)
        num_tokens = server.engine.num_tokens
        assert num_tokens < 2000
        assert stock.responses.cancel(response.id).model_dump() == cancelled.model_dump()
        events = list(stock.responses.retrieve(response.id, stream=True))
        assert events[-1].type == "error"
        assert events[-1].sequence_number == events[-2].sequence_number + 1


def test_only_the_background_is_cancelled(stock: openai.OpenAI) -> None:
    response = stock.responses.create(model="echo", input="x", max_output_tokens=1)
    with pytest.raises(openai.BadRequestError, match="background"):
        stock.responses.cancel(response.id)


def test_deleting_what_runs_ends_it(server: LiveServer) -> None:
    server.engine.token_s = 0.02
    with server.client() as http:
        response_id = post(http, background=True, max_output_tokens=2000).json()["id"]
        server.until(lambda: bool(server.engine.running))
        deleted = http.delete(f"/v1/responses/{response_id}")
        assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
        assert http.get(f"/v1/responses/{response_id}").status_code == 404
        server.until(lambda: not server.engine.running)


def test_a_reader_that_leaves_ends_its_response(server: LiveServer) -> None:
    server.engine.token_s = 0.02
    with server.client() as http:
        with http.stream(
            "POST",
            "/v1/responses",
            json={"model": "echo", "input": "hello ", "max_output_tokens": 2000, "stream": True},
        ) as response:
            next(response.iter_text())
        server.until(lambda: bool(server.engine.aborted))
        assert server.engine.num_tokens < 1000


def test_a_failure_is_a_status_until_the_first_token(stock: openai.OpenAI, shared_client: httpx.Client) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as crashed:
            stock.responses.create(model="echo", input=FAIL, stream=stream)
        assert crashed.value.code == "engine_numerical_error"
        bad = post(shared_client, input=ask(image="data:image/png;base64,???"), stream=stream)
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "input.0.content.1.image_url")
        long = post(shared_client, input="long " * 1000, stream=stream)
        assert (long.status_code, long.json()["error"]["param"]) == (400, "input")


def test_a_later_failure_is_an_event(stock: openai.OpenAI, shared_client: httpx.Client) -> None:
    events = list(stock.responses.create(model="echo", input=CRASH_LATER, stream=True))
    assert events[-1].type == "response.failed"
    failed = events[-1].response
    assert failed.status == "failed"
    assert failed.output_text.startswith(CRASH_LATER[:5])
    assert failed.error is not None
    assert failed.error.code == "server_error"
    assert stock.responses.retrieve(failed.id).status == "failed"
    with pytest.raises(openai.BadRequestError, match="no answer"):
        stock.responses.create(model="echo", input="x", previous_response_id=failed.id)


def test_a_failure_in_the_background_is_the_result(stock: openai.OpenAI, shared: LiveServer) -> None:
    response = stock.responses.create(model="echo", input=ask(image="data:image/png;base64,???"), background=True)
    shared.until(lambda: stock.responses.retrieve(response.id).status == "failed")
    error = stock.responses.retrieve(response.id).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_image", "input.0.content.1.image_url")
    kinds = [event.type for event in stock.responses.retrieve(response.id, stream=True)]
    assert kinds == ["response.created", "response.queued", "response.failed"]


def test_a_response_that_is_not_done_is_not_gone_on_from(server: LiveServer) -> None:
    with server.client() as http:
        running = post(http, input=SLOW_PREPARE, background=True).json()
        assert running["status"] == "queued"
        refused = post(http, previous_response_id=running["id"])
        assert refused.json()["error"]["param"] == "previous_response_id"

"""The responses of the OpenAI API through a real server, with the stock client."""

from __future__ import annotations

from hashlib import sha256

import httpx
import openai
import pytest
from openai.types.responses import Response

from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer
from tests.serve.responses import DELTA, ask, events_of, post, text_of

LOGPROBS = "message.output_text.logprobs"


def test_a_whole_response_with_usage(stock: openai.OpenAI) -> None:
    response = stock.responses.create(
        model="echo",
        instructions="Be brief.",
        input=ask(),
        max_output_tokens=12,
        temperature=0.5,
        metadata={"ticket": "7"},
    )
    assert response.output_text == "hello hello "
    assert response.id.startswith("resp_")
    assert (response.status, response.model, response.object) == ("incomplete", "echo", "response")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    usage = response.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 12, 22)
    assert usage.input_tokens_details.cached_tokens == 1
    assert usage.output_tokens_details.reasoning_tokens == 0
    assert (response.temperature, response.top_p, response.max_output_tokens) == (0.5, 1.0, 12)
    assert (response.instructions, response.metadata) == ("Be brief.", {"ticket": "7"})
    assert (response.tools, response.tool_choice, response.truncation) == ([], "none", "disabled")
    Response.model_validate(response.model_dump())


def test_a_stop_text_completes_it(stock: openai.OpenAI) -> None:
    response = stock.responses.create(model="echo", input="one STOP", extra_body={"stop": "STOP"})
    assert (response.output_text, response.status, response.error) == ("one ", "completed", None)
    assert response.completed_at is not None


def test_a_stream_tells_every_event_in_order(shared_client: httpx.Client) -> None:
    events = events_of(post(shared_client, stream=True, max_output_tokens=1).text)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event["sequence_number"] for event in events] == list(range(9))
    assert len({event["item_id"] for event in events[3:7]}) == 1
    assert events[2]["item"]["id"] == events[4]["item_id"] == events[-1]["response"]["output"][0]["id"]
    assert events[4]["logprobs"] == []
    assert events[5]["text"] == "h"
    assert events[0]["response"]["output"] == events[1]["response"]["output"] == []
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "h"


def test_the_helper_of_the_stock_client_accumulates_it(stock: openai.OpenAI) -> None:
    with stock.responses.stream(model="echo", input="one STOP", extra_body={"stop": "STOP"}) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "one "


def test_log_probabilities_come_with_text(stock: openai.OpenAI) -> None:
    response = stock.responses.create(
        model="echo", input="abc", max_output_tokens=2, include=[LOGPROBS], top_logprobs=2, stream=False
    )
    logprobs = response.output[0].content[0].logprobs
    assert [logprob.token for logprob in logprobs] == ["a", "b"]
    assert [top.logprob for top in logprobs[0].top_logprobs] == [-0.5, -1.5]


def test_a_conversation_goes_on_by_its_items(stock: openai.OpenAI) -> None:
    first = stock.responses.create(model="echo", input=ask(), max_output_tokens=3)
    again = stock.responses.create(
        model="echo",
        input=[*ask(), *first.output, {"role": "user", "content": "more"}],
        max_output_tokens=4,
    )
    assert again.output_text == "more"


def test_a_conversation_goes_on_by_an_id(stock: openai.OpenAI) -> None:
    """The picture is named by what is kept of the first, and counted again."""
    first = stock.responses.create(model="echo", input=ask(), max_output_tokens=3)
    second = stock.responses.create(
        model="echo", input="more", max_output_tokens=4, previous_response_id=first.id, instructions="Be brief."
    )
    third = stock.responses.create(
        model="echo", input=ask("third"), max_output_tokens=5, previous_response_id=second.id
    )
    assert second.previous_response_id == first.id
    assert third.output_text == "third"
    assert third.usage is not None
    assert third.usage.input_tokens == len("third") + 2 * 4
    listed = stock.responses.input_items.list(third.id, order="asc", include=["message.input_image.image_url"])
    items = list(listed)
    assert [item.role for item in items] == ["user", "assistant", "user", "assistant", "user"]
    assert [item.content[0].text for item in items] == ["hello ", "hel", "more", "more", "third"]
    assert items[0].content[1].image_url == PNG


def test_a_conversation_goes_on_by_references_to_answers(stock: openai.OpenAI, shared: LiveServer) -> None:
    """As the AI SDK's own provider sends it; what was referred to is kept as if it had been sent."""
    first = stock.responses.create(model="echo", input=ask(), max_output_tokens=3)
    reference = {"type": "item_reference", "id": first.output[0].id}
    last = {"role": "user", "content": "more"}
    second = stock.responses.create(model="echo", input=[*ask(), reference, last], max_output_tokens=4)
    by_items = stock.responses.create(model="echo", input=[*ask(), *first.output, last], max_output_tokens=4)
    assert second.output_text == by_items.output_text == "more"
    assert second.usage == by_items.usage
    stock.responses.delete(first.id)
    listed = stock.responses.input_items.list(second.id, order="asc")
    assert [item.content[0].text for item in listed] == ["hello ", "hel", "more"]
    with pytest.raises(openai.NotFoundError) as caught:
        stock.responses.create(model="echo", input=[*ask(), reference, last])
    assert caught.value.param == "input.1.id"


def test_input_items_come_in_pages_the_latest_first(stock: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": str(index)} for index in range(5)]
    response = stock.responses.create(model="echo", input=messages, max_output_tokens=1)
    page = stock.responses.input_items.list(response.id, limit=2)
    assert [item.content[0].text for item in page.data] == ["4", "3"]
    assert page.has_more
    assert [item.content[0].text for item in page] == ["4", "3", "2", "1", "0"]
    unseen = stock.responses.input_items.list(response.id, limit=1).data[0]
    assert unseen.model_dump(exclude_none=True).keys() >= {"id", "type", "role", "content"}


def test_a_stored_response_is_read_again_until_it_is_deleted(stock: openai.OpenAI) -> None:
    response = stock.responses.create(model="echo", input="hello ", max_output_tokens=4)
    assert stock.responses.retrieve(response.id).model_dump() == response.model_dump()
    stock.responses.delete(response.id)
    for call in (stock.responses.retrieve, stock.responses.delete, stock.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(response.id)
    with pytest.raises(openai.BadRequestError) as caught:
        stock.responses.create(model="echo", input="x", previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"


def test_what_is_not_to_be_stored_is_forgotten(stock: openai.OpenAI, shared: LiveServer) -> None:
    response = stock.responses.create(model="echo", input="hello ", max_output_tokens=4, store=False)
    assert response.output_text == "hell"
    with pytest.raises(openai.NotFoundError):
        stock.responses.retrieve(response.id)
    assert httpx.get(f"{shared.url}/predictions/{response.id.removeprefix('resp_')}").status_code == 404


def test_a_chat_completion_is_no_response(stock: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "x"}]
    completion = stock.chat.completions.create(model="echo", messages=messages, max_tokens=1)
    with pytest.raises(openai.NotFoundError):
        stock.responses.retrieve(completion.id.removeprefix("chatcmpl-"))


def test_a_picture_that_is_no_longer_kept_has_to_be_sent_again(server: LiveServer) -> None:
    with server.client() as http:
        first = post(http, input=ask()).json()["id"]
        second = post(http, previous_response_id=first)
        assert second.json()["usage"]["input_tokens_details"]["image_tokens"] == 4
        large = "data:image/png;base64," + "A" * (22 * 1024 * 1024)
        for letter in "BCD":
            assert post(http, input=ask(image=f"{large}{letter * 4}")).status_code == 200
        refused = post(http, previous_response_id=first).json()["error"]
        assert (refused["code"], refused["param"]) == ("previous_response_not_found", "previous_response_id")
        assert shown_url(http, first) is None


def test_a_picture_is_not_had_by_its_digest(server: LiveServer) -> None:
    """Whoever knows what a picture is kept by learns nothing from naming it."""
    name = sha256(PNG.encode()).hexdigest()
    with server.client() as http:
        post(http, input=ask())
        for url in (name, f"sha256:{name}"):
            guess = post(http, input=ask(image=url), background=True).json()["id"]
            assert shown_url(http, guess) == url


def test_a_page_of_pictures_is_bounded(server: LiveServer) -> None:
    large = "data:image/png;base64," + "A" * (22 * 1024 * 1024)
    with server.client() as http:
        first = post(http, input=ask(image=large)).json()["id"]
        second = post(http, input=ask(image=large), previous_response_id=first).json()["id"]
        assert shown_url(http, second) == large
        assert shown_url(http, second, place=2) is None


def shown_url(shared_client: httpx.Client, response_id: str, place: int = 0) -> str | None:
    """Of the picture in an item of the list, the latest first."""
    query = {"include[]": "message.input_image.image_url"}
    listed = shared_client.get(f"/v1/responses/{response_id}/input_items", params=query).json()
    url: str | None = listed["data"][place]["content"][1]["image_url"]
    return url


def test_resuming_a_stream_is_exact(shared_client: httpx.Client) -> None:
    """From wherever one goes on, the rest is what it was, but for larger pieces of text."""
    for body in ({"stream": True}, {"stream": True, "background": True}):
        whole = post(shared_client, **body, max_output_tokens=3).text
        response_id = events_of(whole)[0]["response"]["id"]
        told = events_of(whole)
        text_begins = next(one["sequence_number"] for one in told if one["type"] == "response.content_part.added")
        for seen in range(told[-1]["sequence_number"]):
            query = {"stream": "true", "starting_after": str(seen)}
            rest = events_of(shared_client.get(f"/v1/responses/{response_id}", params=query).text)
            ahead = [event for event in told if event["sequence_number"] > seen]
            assert [event for event in rest if event["type"] != DELTA] == [
                event for event in ahead if event["type"] != DELTA
            ]
            numbers = [event["sequence_number"] for event in rest]
            assert numbers == sorted(set(numbers))
            assert numbers[0] > seen
            assert text_of(rest) == "hel"[max(seen - text_begins, 0) :]
        again = events_of(shared_client.get(f"/v1/responses/{response_id}", params={"stream": "true"}).text)
        assert text_of(again) == text_of(told) == "hel"
        assert [event for event in again if event["type"] != DELTA] == [
            event for event in told if event["type"] != DELTA
        ]
        past = shared_client.get(f"/v1/responses/{response_id}", params={"stream": "true", "starting_after": "99"})
        assert (past.status_code, past.text) == (200, ": keep-alive\n\n")


def test_what_was_seen_is_not_told_again_in_a_larger_piece(shared_client: httpx.Client) -> None:
    """A reader that is far behind may get several pieces as one; from any number the rest of the text is exact."""
    whole = events_of(post(shared_client, stream=True, background=True, max_output_tokens=90).text)
    response_id = whole[0]["response"]["id"]
    for place, event in enumerate(whole):
        query = {"stream": "true", "starting_after": str(event["sequence_number"])}
        text = shared_client.get(f"/v1/responses/{response_id}", params=query).text
        rest = [] if text == ": keep-alive\n\n" else events_of(text)
        numbers = [event["sequence_number"], *(one["sequence_number"] for one in rest)]
        assert numbers == sorted(set(numbers))
        assert text_of(rest) == text_of(whole[place + 1 :])
        assert [one for one in rest if one["type"] != DELTA] == [
            one for one in whole[place + 1 :] if one["type"] != DELTA
        ]

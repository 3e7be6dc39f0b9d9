"""The fields of a create on the Cog routes: what is wrong with one is said, by its name."""

from __future__ import annotations

import httpx
import pytest

from tests.serve.cog import body


def test_a_prompt_that_is_too_long_names_the_prompt(shared_client: httpx.Client) -> None:
    response = shared_client.post("/predictions", json=body("x" * 3000))
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "prompt_too_long"
    assert response.json()["error"]["param"] == "input.prompt"


@pytest.mark.parametrize(
    ("change", "param", "in_message"),
    [
        ({"max_new_token": 5}, "input.max_new_token", "no field"),
        ({"max_token": 5}, "input.max_token", "no field"),
        ({"image": None}, "input.image", "string"),
        ({"prompt": 1}, "input.prompt", "string"),
        ({"prompt": {"a": 1}}, "input.prompt", "string"),
        ({"top_p": 1.01}, "input.top_p", "1"),
        ({"top_p": "1"}, "input.top_p", "number"),
        ({"temperature": -0.1}, "input.temperature", "0"),
        ({"max_tokens": -1}, "input.max_tokens", "0"),
        ({"max_tokens": 2**31}, "input.max_tokens", "4096"),
        ({"max_tokens": 2**63}, "input.max_tokens", ""),
        ({"max_tokens": True}, "input.max_tokens", "integer"),
        ({"max_tokens": 1.5}, "input.max_tokens", "integer"),
        ({"top_k": -2}, "input.top_k", "0"),
        ({"seed": -1}, "input.seed", "0"),
    ],
)
def test_wrong_inputs_are_named(
    shared_client: httpx.Client, change: dict[str, object], param: str, in_message: str
) -> None:
    response = shared_client.post("/predictions", json=body(**change))
    assert response.status_code == 422
    answer = response.json()
    assert answer["error"]["code"] == "invalid_input"
    assert answer["error"]["param"] == param
    assert in_message in answer["error"]["message"]
    assert answer["error"]["remedy"]
    assert answer["detail"][0]["loc"] == ["body", *param.split(".")]


def test_all_problems_are_listed_and_a_typo_is_recognised(shared_client: httpx.Client) -> None:
    answer = shared_client.post("/predictions", json={"input": {"prompt": "x", "max_token": 3, "top_p": 2}}).json()
    problems = {tuple(item["loc"]): item for item in answer["detail"]}
    assert problems[("body", "input", "image")]["msg"] == "Field required"
    assert problems[("body", "input", "image")]["type"] == "value_error.missing"
    assert "Did you mean max_tokens?" in problems[("body", "input", "max_token")]["msg"]
    assert ("body", "input", "top_p") in problems


def test_only_fields_that_are_served_are_offered(shared_client: httpx.Client) -> None:
    refused = shared_client.post("/predictions", json=body() | {"zzz": 1}).json()["error"]
    assert refused["remedy"] == "The fields are webhook, webhook_events_filter, id, input, context."


def test_a_filter_of_events_has_each_at_most_once(shared_client: httpx.Client) -> None:
    refused = shared_client.post("/predictions", json=body() | {"webhook_events_filter": ["start"] * 5})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "webhook_events_filter")


def test_webhooks_are_refused_where_none_are_sent(shared_client: httpx.Client) -> None:
    response = shared_client.post("/predictions", json=body() | {"webhook": "https://example.com/hook"})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "webhook"
    assert "sends no webhooks" in response.json()["error"]["message"]


@pytest.mark.parametrize("bad_id", ["../etc", "a/b", "", "a" * 65, "a\nb", "é", "a b", 7])
def test_ids_have_a_pattern(shared_client: httpx.Client, bad_id: object) -> None:
    response = shared_client.post("/predictions", json=body() | {"id": bad_id})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "id"
    assert response.json()["error"]["remedy"]

"""How to sample, from the stock client to the engine's process and back, on the model that is shipped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion

import lavatube
from lavatube.errors import InvalidInput
from lavatube.predictor import Predictor
from lavatube.prompt.chat import Generation, Structure, single_turn
from lavatube.prompt.tokenizer import Tokenizer
from tests.flow.conftest import data_url
from tests.flow.server import Server

TINY_FOLDER = Path(lavatube.__file__).parent / "tiny"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(tiny: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: OpenAI, **options: object) -> ChatCompletion:
    parts = [
        {"type": "image_url", "image_url": {"url": data_url("shapes.png")}},
        {"type": "text", "text": "How many circles are there?"},
    ]
    whole = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 40}
    return client.chat.completions.create(**(whole | options))


def text(completion: ChatCompletion) -> str:
    return completion.choices[0].message.content or ""


def test_choices_are_what_their_seeds_give_alone(client: OpenAI) -> None:
    options = {"temperature": 1.5, "max_tokens": 12}
    together = ask(client, n=3, seed=20, **options)
    alone = [text(ask(client, seed=seed, **options)) for seed in (20, 21, 22)]
    assert [choice.message.content for choice in together.choices] == alone


def test_logprobs_of_a_greedy_answer_are_those_of_the_likeliest(client: OpenAI) -> None:
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    said = b"".join(bytes(entry.bytes or []) for entry in entries).decode(errors="replace")
    assert said == f" {choice.message.content}"  # tokens as they are; the text begins without the blank
    for entry in entries:
        assert entry.top_logprobs[0].token == entry.token
        assert len(entry.top_logprobs) == 3
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1 + 1e-6


def test_a_banned_token_is_not_said_and_an_unknown_one_is_refused(client: OpenAI) -> None:
    def first(completion: ChatCompletion) -> bytes:
        assert completion.choices[0].logprobs is not None
        return bytes((completion.choices[0].logprobs.content or [])[0].bytes or [])

    likeliest = first(ask(client, logprobs=True))
    vocabulary = Tokenizer(TINY_FOLDER).vocabulary
    banned = {str(token_id): -100 for token_id in range(vocabulary.size) if vocabulary.decode(token_id) == likeliest}
    assert first(ask(client, logprobs=True, logit_bias=banned)) != likeliest
    with pytest.raises(BadRequestError) as refused:
        ask(client, logit_bias={"999999999": -100})
    assert refused.value.param == "logit_bias"


def test_an_answer_is_at_least_as_long_as_min_tokens_asks(client: OpenAI) -> None:
    free, longer = ask(client), ask(client, extra_body={"min_tokens": 35})
    assert longer.usage is not None
    assert longer.usage.completion_tokens >= 35
    assert text(longer).startswith(text(free))


@pytest.mark.parametrize("temperature", [0, 2])
def test_an_answer_in_a_json_schema(client: OpenAI, temperature: float) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "scene", "schema": SCHEMA, "strict": True}}
    completion = ask(client, response_format=schema, temperature=temperature, max_tokens=200, seed=1)
    assert completion.choices[0].finish_reason == "stop"
    value = json.loads(text(completion))
    assert value["colour"] in ("red", "blue")
    assert value["count"] in range(10)


def test_an_answer_that_is_one_of_a_choice(client: OpenAI) -> None:
    choices = ["a green horse", "two circles", "nothing"]
    completion = ask(client, n=4, temperature=2, extra_body={"structured_outputs": {"choice": choices}})
    assert all(choice.message.content in choices for choice in completion.choices)


def test_a_schema_that_cannot_be_kept_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}})
    assert refused.value.param == "response_format"
    assert "objekt" in str(refused.value)


def test_the_cog_routes_sample_alike(tiny: Server, client: OpenAI) -> None:
    fields = {"temperature": 1.2, "seed": 3, "min_p": 0.02, "repetition_penalty": 1.1, "frequency_penalty": 0.3}
    inputs = {"image": data_url("shapes.png"), "prompt": "How many circles are there?", "max_tokens": 20} | fields
    prediction = httpx.post(f"{tiny.url}/predictions", json={"input": inputs}, timeout=30).json()
    extra = {name: fields.pop(name) for name in ("min_p", "repetition_penalty")}
    assert "".join(prediction["output"]) == text(ask(client, max_tokens=20, extra_body=extra, **fields))


def test_a_predictor_has_the_same_sampling_and_gives_text_alone(tmp_path: Path) -> None:
    choice = Structure("choice", '["a green horse", "nothing"]', "structure")
    with Predictor(cache=tmp_path) as predictor:
        chat = single_turn("How many circles are there?", None)
        answer = "".join(predictor.chat(chat, Generation(temperature=2.0, structure=choice)))
        assert answer in ("a green horse", "nothing")
        for generation in (Generation(num_choices=2), Generation(top_logprobs=0)):
            with pytest.raises(InvalidInput):
                predictor.chat(chat, generation)
        with pytest.raises(InvalidInput) as refused:
            list(predictor.chat(chat, Generation(logit_bias=((10**9, 1.0),))))
        assert refused.value.param == "logit_bias"

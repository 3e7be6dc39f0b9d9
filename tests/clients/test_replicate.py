"""Replicate's official clients, Python 1.x and JavaScript, against a real server with `tiny`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import replicate
from replicate.webhook import Webhooks

from tests.clients.conftest import KEY
from tests.flow.conftest import EXAMPLES, data_url
from tests.flow.server import Server
from tests.hooks import Receiver

MODEL = "lavatube/tiny"
QUESTION = "What colour is the circle?"
INPUT = {"image": data_url("shapes.png"), "prompt": QUESTION, "temperature": 0}


@pytest.fixture
def stock(server: Server) -> Iterator[replicate.Client]:
    client = replicate.Client(api_token=KEY, base_url=server.url)
    yield client
    client._client.close()


@pytest.fixture(scope="module")
def answer(server: Server) -> str:
    """What Cog's route says to the same question."""
    headers = {"authorization": f"Bearer {KEY}"}
    return "".join(httpx.post(f"{server.url}/predictions", json={"input": INPUT}, headers=headers).json()["output"])


def test_python_runs_streams_and_uploads(stock: replicate.Client, answer: str) -> None:
    assert answer
    assert "".join(stock.run(MODEL, input=INPUT)) == answer
    assert "".join(map(str, stock.stream(MODEL, input=INPUT))) == answer
    with (EXAMPLES / "shapes.png").open("rb") as picture:
        assert "".join(stock.run(MODEL, input=INPUT | {"image": picture})) == answer


def test_python_makes_waits_reads_again_and_cancels(stock: replicate.Client, answer: str) -> None:
    version = stock.models.get(MODEL).latest_version
    assert version is not None
    made = stock.predictions.create(version=version, input=INPUT, stream=True)
    assert "".join(map(str, made.stream())) == answer
    made.reload()
    assert (made.status, "".join(made.output)) == ("succeeded", answer)
    waited = stock.predictions.create(version=version.id, input=INPUT)
    assert "".join(waited.output_iterator()) == answer
    waited.wait()
    assert waited.status == "succeeded"
    at_once = stock.deployments.predictions.create(MODEL, input=INPUT, wait=60)
    assert "".join(at_once.output) == answer
    long = stock.predictions.create(version=version, input=INPUT | {"max_tokens": 2000, "min_tokens": 2000})
    long.cancel()
    assert long.status == "canceled"
    assert {made.id, waited.id, at_once.id, long.id} <= {one.id for one in stock.predictions.list().results}


async def test_python_runs_and_streams_in_async_programs(stock: replicate.Client, answer: str) -> None:
    assert "".join(await stock.async_run(MODEL, input=INPUT)) == answer
    assert "".join([str(event) async for event in await stock.async_stream(MODEL, input=INPUT)]) == answer
    await stock._async_client.aclose()


def test_python_validates_webhooks(stock: replicate.Client, receiver: Receiver, answer: str) -> None:
    prediction = stock.models.predictions.create(MODEL, input=INPUT, webhook=receiver.url("/python"))
    posts = receiver.ended("/python")
    assert [post.body["status"] for post in posts][-1] == "succeeded"
    assert posts[-1].body["id"] == prediction.id
    assert "".join(posts[-1].body["output"]) == answer
    secret = stock.webhooks.default.secret()
    for post in posts:
        Webhooks.validate(headers=post.headers, body=post.raw.decode(), secret=secret, tolerance=60)


def test_cogs_webhooks_are_told_the_same(server: Server, receiver: Receiver, answer: str) -> None:
    body = {"input": INPUT, "webhook": receiver.url("/cog"), "webhook_events_filter": ["completed"]}
    headers = {"authorization": f"Bearer {KEY}", "prefer": "respond-async"}
    assert httpx.post(f"{server.url}/predictions", json=body, headers=headers).status_code == 202
    posts = receiver.ended("/cog")
    assert len(posts) == 1
    assert "".join(posts[0].body["output"]) == answer


def test_javascript_tour(server: Server, node: Callable[..., Any], receiver: Receiver, answer: str) -> None:
    script = """
        import Replicate, { validateWebhook } from "replicate";
        import { readFile } from "node:fs/promises";
        const [url, key, model, question, picture, hook] = argv;
        const replicate = new Replicate({ auth: key, baseUrl: `${url}/v1` });
        const image = await readFile(picture);
        const input = { image, prompt: question, temperature: 0 };
        const run = (await replicate.run(model, { input })).join("");
        let streamed = "";
        for await (const event of replicate.stream(model, { input })) streamed += String(event);
        const created = await replicate.predictions.create({ model, input, webhook: hook });
        const waited = await replicate.wait(created);
        const canceled = await replicate.predictions.cancel(created.id);
        const listed = (await replicate.predictions.list()).results.map((one) => one.id);
        const files = (await replicate.files.list()).results.length;
        const secret = (await replicate.webhooks.default.secret.get()).key;
        const version = (await replicate.models.get("lavatube", "tiny")).latest_version.id;
        const [first, id, again] = [listed[0], created.id, canceled.status];
        report({ run, streamed, waited: waited.output.join(""), again, first, id, files, secret, version });
    """
    picture = str(EXAMPLES / "shapes.png")
    told = node(script, server.url, KEY, MODEL, QUESTION, picture, receiver.url("/javascript"))
    assert (told["run"], told["streamed"], told["waited"]) == (answer, answer, answer)
    assert told["again"] == "succeeded"
    assert told["first"] == told["id"]
    assert told["files"] >= 1
    check = """
        import { validateWebhook } from "replicate";
        const [id, timestamp, signature, body, secret] = argv;
        report(await validateWebhook({ id, timestamp, signature, body, secret }));
    """
    post = receiver.ended("/javascript")[-1]
    signed = [post.headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature")]
    assert node(check, *signed, post.raw.decode(), told["secret"]) is True
    assert node(check, *signed, post.raw.decode() + " ", told["secret"]) is False

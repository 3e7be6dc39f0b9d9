"""Replicate's next Python client, 2.x, against a real server with `tiny`."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent
from typing import Any

import httpx
import pytest

from tests.clients import replicate_2
from tests.clients.conftest import KEY
from tests.flow.conftest import EXAMPLES, data_url
from tests.flow.server import Server
from tests.hooks import Receiver

MODEL = "lavatube/tiny"
INPUT = {"image": data_url("shapes.png"), "prompt": "What colour is the circle?", "temperature": 0}
CONNECT = """
from pathlib import Path
import replicate
from replicate import AsyncReplicate, NotFoundError, Replicate, UnprocessableEntityError
from replicate.exceptions import ModelError
picture, data, hook = sys.argv[1:]
model = "lavatube/tiny"
client = Replicate(max_retries=0, _strict_response_validation=True)
asking = {"image": Path(picture), "prompt": "What colour is the circle?", "temperature": 0}
asking_by_url = {**asking, "image": Path(data).read_text()}
"""


@pytest.fixture(scope="module")
def tour(server: Server, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Runs a script that has a client of this server, a picture, and where webhooks go."""
    replicate_2.install()
    data = tmp_path_factory.mktemp("data") / "shapes.txt"
    data.write_text(INPUT["image"])
    arguments = str(EXAMPLES / "shapes.png"), str(data), receiver.url("/replicate-2")
    environ = {"REPLICATE_API_TOKEN": KEY, "REPLICATE_BASE_URL": f"{server.url}/v1"}
    return lambda script: replicate_2.run(CONNECT + dedent(script), *arguments, **environ)


@pytest.fixture(scope="module")
def answer(server: Server) -> str:
    """What Cog's route says to the same question."""
    headers = {"authorization": f"Bearer {KEY}"}
    return "".join(httpx.post(f"{server.url}/predictions", json={"input": INPUT}, headers=headers).json()["output"])


def test_run_in_each_of_its_ways(tour: Callable[[str], Any], answer: str) -> None:
    told = tour("""
        version = client.models.get(model_owner="lavatube", model_name="tiny").latest_version.id
        report({
            "run": "".join(client.run(model, input=asking)),
            "version": "".join(client.run(f"{model}:{version}", input=asking)),
            "polled": "".join(client.run(model, input=asking, wait=False)),
            "waited": "".join(client.run(model, input=asking, wait=30)),
            "data": "".join(client.run(model, input=asking, file_encoding_strategy="base64")),
            "used": replicate.use(model)(**asking_by_url),
        })
    """)
    assert told == dict.fromkeys(told, answer)


def test_streams(tour: Callable[[str], Any], answer: str) -> None:
    """It polls, and says what is new."""
    told = tour("""
        import warnings
        pieces = list(replicate.use(model, streaming=True)(**asking_by_url))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            older = list(replicate.stream(model, input=asking_by_url))
        report(["".join(pieces), "".join(older)])
    """)
    assert told == [answer, answer]


def test_async(tour: Callable[[str], Any], answer: str) -> None:
    told = tour("""
        import asyncio
        async def main():
            streaming = replicate.use(model, use_async=True, streaming=True)
            async with AsyncReplicate(max_retries=0, _strict_response_validation=True) as client:
                runs = await asyncio.gather(*(client.run(model, input=asking) for _ in range(3)))
                streamed = [piece async for piece in await streaming(**asking_by_url)]
                created = await client.predictions.create(version=model, input=asking)
                waited = await client.predictions.wait(created.id)
                return [*map("".join, runs), "".join(streamed), "".join(waited.output)]
        report(asyncio.run(main()))
    """)
    assert told == [answer] * 5


def test_predictions_are_made_waited_for_listed_and_canceled(tour: Callable[[str], Any], answer: str) -> None:
    told = tour("""
        made = client.deployments.predictions.create(
            deployment_owner="lavatube", deployment_name="tiny", input=asking_by_url, cancel_after="90s"
        )
        waited = client.predictions.wait(made.id)
        canceled = client.predictions.cancel(prediction_id=made.id)
        listed = [one.id for one in client.predictions.list()]
        report(["".join(waited.output), made.deadline is not None, canceled.status, made.id in listed])
    """)
    assert told == [answer, True, "succeeded", True]


def test_lists_are_read_page_by_page(tour: Callable[[str], Any]) -> None:
    told = tour("""
        made = [client.predictions.create(version=model, input={**asking, "max_tokens": 0}).id for _ in range(101)]
        page = client.predictions.list()
        report([len(page.results), page.has_next_page(), set(made) <= {one.id for one in client.predictions.list()}])
    """)
    assert told == [100, True, True]


def test_files(tour: Callable[[str], Any], answer: str) -> None:
    told = tour("""
        content = Path(picture).read_bytes()
        made = client.files.create(content=content, filename="shapes.png", type="image/png", metadata={"a": "b"})
        got = client.files.get(file_id=made.id)
        report({
            "answer": "".join(client.run(model, input={**asking, "image": made.urls.get})),
            "is_same": (got.size, got.checksums.sha256) == (len(content), made.checksums.sha256),
            "is_listed": made.id in [one.id for one in client.files.list()],
            "is_removed": client.files.delete(file_id=made.id) is None,
            "is_left": made.id in [one.id for one in client.files.list()],
        })
    """)
    assert told == {"answer": answer, "is_same": True, "is_listed": True, "is_removed": True, "is_left": False}


def test_webhooks(tour: Callable[[str], Any], receiver: Receiver, answer: str) -> None:
    told = tour("""
        made = client.predictions.create(
            version=model, input=asking, webhook=hook, webhook_events_filter=["start", "completed"]
        )
        report([made.id, client.webhooks.default.secret.get().key])
    """)
    posts = receiver.ended("/replicate-2")
    assert [post.body["status"] for post in posts] == ["processing", "succeeded"]
    assert (posts[-1].body["id"], "".join(posts[-1].body["output"])) == (told[0], answer)
    assert told[1].startswith("whsec_")


def test_the_catalogue(tour: Callable[[str], Any]) -> None:
    told = tour("""
        found = client.models.get(model_owner="lavatube", model_name="tiny")
        version = found.latest_version.id
        versions = client.models.versions.list(model_owner="lavatube", model_name="tiny")
        got = client.models.versions.get(model_owner="lavatube", model_name="tiny", version_id=version)
        deployment = client.deployments.get(deployment_owner="lavatube", deployment_name="tiny")
        report({
            "models": [f"{one.owner}/{one.name}" for one in client.models.list(sort_by="model_created_at")],
            "versions": [one.id for one in versions] == [version],
            "inputs": sorted(got.openapi_schema["components"]["schemas"]["Input"]["required"]),
            "deployment": deployment.current_release.version == version,
            "deployments": len(list(client.deployments.list())),
            "account": client.account.get().username,
            "hardware": len(client.hardware.list()),
            "collections": list(client.collections.list()),
        })
    """)
    assert told == {
        "models": [MODEL], "versions": True, "inputs": ["image", "prompt"], "deployment": True, "deployments": 1,
        "account": "lavatube", "hardware": 1, "collections": [],
    }  # fmt: skip


def test_errors_are_its_own_types(tour: Callable[[str], Any]) -> None:
    told = tour("""
        def meet(kind, ask):
            try:
                ask()
            except kind as error:
                return error.body["code"] if kind is not ModelError else error.prediction.error
        report([
            meet(NotFoundError, lambda: client.run("acme/other", input=asking)),
            meet(NotFoundError, lambda: client.predictions.get(prediction_id="nothing")),
            meet(UnprocessableEntityError, lambda: client.run(model, input={**asking, "top_p": 2})),
            meet(UnprocessableEntityError, lambda: client.predictions.list(created_after="2026-01-01T00:00:00Z")),
            meet(ModelError, lambda: client.run(model, input={**asking, "image": "data:image/png;base64,AAAA"})),
        ])
    """)
    assert told[:4] == ["model_not_found", "not_found", "invalid_input", "invalid_input"]
    assert "not an image" in told[4]

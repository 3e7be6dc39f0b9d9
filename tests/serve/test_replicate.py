"""Replicate's API through a real server, with its official Python client and with raw requests."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import replicate
from replicate.exceptions import ModelError, ReplicateError

from lavatube.serve.auth import Keyring
from lavatube.serve.kept import Kept
from lavatube.serve.replicate_files import own_file
from lavatube.serve.replicate_request import parse_duration
from lavatube.serve.replicate_views import chunks
from tests.predictions.fakes import FAIL, PNG
from tests.serve.live import LiveServer

MODEL = "org/echo"


@pytest.fixture
def server(tmp_path: Path, kept: Kept) -> Iterator[LiveServer]:
    with LiveServer(tmp_path, kept=kept) as server:
        yield server


@pytest.fixture
def stock(server: LiveServer) -> Iterator[replicate.Client]:
    client = replicate.Client(api_token="x", base_url=server.url)
    yield client
    client._client.close()


def inputs(prompt: str = "hello ", **more: object) -> dict[str, object]:
    return {"image": PNG, "prompt": prompt, "max_tokens": 12} | more


def test_urls_are_those_that_the_operator_names(tmp_path: Path, kept: Kept) -> None:
    """Behind a proxy that speaks TLS, what a client says in Host is not enough."""
    with LiveServer(tmp_path, kept=kept, public_url="https://llava.example.com/") as server:
        created = httpx.post(f"{server.url}/v1/models/{MODEL}/predictions", json={"input": inputs()}).json()
    assert {url.partition("/v1/")[0] for url in created["urls"].values()} == {"https://llava.example.com"}


def test_run_gives_the_output(stock: replicate.Client) -> None:
    assert "".join(stock.run(MODEL, input=inputs())) == "hello hello "


def test_run_by_version_gives_it_piece_by_piece(stock: replicate.Client) -> None:
    version = stock.models.get(MODEL).latest_version
    assert version is not None
    assert "".join(stock.run(f"{MODEL}:{version.id}", input=inputs())) == "hello hello "


def test_a_wait_that_expires_says_starting_whatever_there_is(server: LiveServer, stock: replicate.Client) -> None:
    """That is what makes a client poll. The stock one is left out of the wait: it hangs up half a second after it."""
    server.engine.token_s = 0.15
    path, headers = f"{server.url}/v1/models/{MODEL}/predictions", {"prefer": "wait=1"}
    created = httpx.post(path, json={"input": inputs()}, headers=headers, timeout=60)
    assert (created.status_code, created.headers["preference-applied"]) == (201, "wait=1")
    assert (created.json()["status"], created.json()["output"]) == ("starting", None)
    prediction = stock.predictions.get(created.json()["id"])
    prediction.wait()
    assert "".join(prediction.output) == "hello hello "


def test_run_polls_where_it_does_not_wait(stock: replicate.Client) -> None:
    assert "".join(stock.run(MODEL, input=inputs(), wait=False)) == "hello hello "


def test_a_failed_prediction_is_a_model_error(stock: replicate.Client) -> None:
    with pytest.raises(ModelError, match="numbers"):
        stock.run(MODEL, input=inputs(FAIL))


def test_stream_gives_all_pieces_and_done(stock: replicate.Client) -> None:
    events = list(stock.stream(MODEL, input=inputs("a\u2028b\nc\r")))
    assert events[-1].event.value == "done"
    assert "".join(map(str, events)).startswith("a\nb\nc\na")


def test_create_poll_cancel_and_list(server: LiveServer, stock: replicate.Client) -> None:
    server.engine.token_s = 0.05
    first = stock.models.predictions.create(MODEL, input=inputs(max_tokens=1000))
    assert first.status == "starting"
    assert first.input["prompt"] == "hello "
    assert first.input["image"].startswith("data:image/png;sha256,")
    first.cancel()
    first.reload()
    assert first.status == "canceled"
    second = stock.models.predictions.create(MODEL, input=inputs())
    second.wait()
    assert "".join(second.output) == "hello hello "
    assert [one.id for one in stock.predictions.list()] == [second.id, first.id]


def test_deployments_account_and_catalogue(stock: replicate.Client) -> None:
    deployment = stock.deployments.get(MODEL)
    prediction = deployment.predictions.create(input=inputs())
    prediction.wait()
    assert prediction.status == "succeeded"
    assert stock.models.list()[0].name == "echo"
    assert stock.models.search("echo")[0].owner == "org"
    assert stock.accounts.current().username == "org"
    assert stock.hardware.list()[0].sku == "cpu"
    assert stock.webhooks.default.secret().key.startswith("whsec_")


def test_files_are_kept_listed_and_gone(stock: replicate.Client, server: LiveServer, http: httpx.Client) -> None:
    file = stock.files.create(io.BytesIO(b"some bytes"), filename="a.png", metadata={"a": 1})
    assert (file.name, file.size, file.metadata) == ("a.png", 10, {"a": 1})
    assert stock.files.get(file.id) == file
    assert file.id in [one.id for one in stock.files.list()]
    response = http.get(f"{file.urls['get']}/download")
    assert response.content == b"some bytes"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert stock.files.delete(file.id)
    with pytest.raises(ReplicateError) as caught:
        stock.files.get(file.id)
    assert caught.value.status == 404


def test_openai_uploads_are_refused_by_name(server: LiveServer, http: httpx.Client) -> None:
    response = http.post(f"{server.url}/v1/files", files={"file": ("a", b"x")}, data={"purpose": "vision"})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "file"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": {"image": PNG}}, "input.prompt"),
        ({"input": {"image": PNG, "prompt": "x", "cat": 1}}, "input.cat"),
        ({"input": inputs(), "webhook": "notaurl"}, "webhook"),
        ({"input": inputs(), "webhook": "https://127.0.0.1/"}, "webhook"),
        ({"input": inputs(), "webhook_events_filter": ["cat"]}, "webhook_events_filter.0"),
        ({"input": inputs(), "webhook_completed": "https://a.test/"}, "webhook_completed"),
    ],
)
def test_what_is_wrong_is_a_problem_that_names_the_field(
    server: LiveServer, http: httpx.Client, body: dict[str, object], field: str
) -> None:
    response = http.post(f"{server.url}/v1/models/{MODEL}/predictions", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    assert problem["invalid_fields"][0]["field"] == field


def test_another_model_version_or_id_is_not_found(server: LiveServer, http: httpx.Client) -> None:
    wrong = {"input": inputs(), "version": "0" * 64}
    assert http.post(f"{server.url}/v1/predictions", json=wrong).json()["title"] == "Not Found"
    for path in (
        "models/org/cat",
        "models/org/echo/versions/1",
        "deployments/a/b",
        "predictions/nothing",
        "files/../x",
    ):
        assert http.get(f"{server.url}/v1/{path}").status_code == 404


def test_a_stream_goes_on_where_it_was_left(server: LiveServer, http: httpx.Client) -> None:
    made = http.post(f"{server.url}/v1/models/{MODEL}/predictions", json={"input": inputs()}).json()
    whole = http.get(made["urls"]["stream"]).text
    seen = ""
    for block in whole.split("\n\n")[:-2]:
        last_id = block.split("id: ")[1].split("\n")[0]
        seen += _data(block)
        rest = http.get(made["urls"]["stream"], headers={"last-event-id": last_id}).text
        assert seen + "".join(map(_data, rest.split("\n\n"))) == _data(whole)


def _data(stream: str) -> str:
    return "".join(line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: "))


def test_what_looks_like_a_file_is_whole_from_wherever_one_goes_on(server: LiveServer, http: httpx.Client) -> None:
    """A piece that begins so is sent in two parts; no larger piece may begin so."""
    text = "see https://example.org or data:, twice. "
    asked = {"input": inputs(text, max_tokens=2 * len(text))}
    made = http.post(f"{server.url}/v1/models/{MODEL}/predictions", json=asked).json()
    server.until(lambda: http.get(made["urls"]["get"]).json()["status"] == "succeeded")
    prediction = server.predictions()[0]
    for after in range(2 * len(text)):
        rest = http.get(made["urls"]["stream"], headers={"last-event-id": f"{after + 1}-0"}).text
        assert _data(rest).removesuffix("{}") == prediction.text[after:], after
        assert not any(f"data: {start}" in rest for start in ("https:", "data:"))


def test_a_stream_needs_no_key_but_its_own(tmp_path: Path, kept: Kept, http: httpx.Client) -> None:
    with LiveServer(tmp_path, kept=kept, keyring=Keyring("the-key")) as server:
        headers = {"authorization": "Bearer the-key"}
        url = f"{server.url}/v1/models/{MODEL}/predictions"
        made = http.post(url, json={"input": inputs()}, headers=headers).json()
        assert http.get(made["urls"]["get"]).status_code == 401
        stream = made["urls"]["stream"]
        assert http.get(stream).text.endswith("data: {}\n\n")
        wrong = stream[:-1] + ("a" if stream[-1] != "a" else "b")
        for other in (wrong, stream[:-26], f"{server.url}/v1/streams/{made['id']}"):
            assert http.get(other).status_code == 404


def test_a_picture_that_was_uploaded_is_taken_from_the_store() -> None:

    base = "http://127.0.0.1:5000"
    file_id = "file-" + "a" * 26
    assert own_file(f"{base}/v1/files/{file_id}", base) == file_id
    assert own_file(f"{base}/v1/files/{file_id}/download", base) == file_id
    for other in (f"http://elsewhere/v1/files/{file_id}", f"{base}/v1/files/../x", f"{base}.evil/v1/files/{file_id}"):
        assert own_file(other, base) is None


def test_no_chunk_looks_like_a_file() -> None:
    assert chunks("https://a") == ["h", "ttps://a"]
    assert chunks("data:x") == ["d", "ata:x"]
    assert chunks("a https:") == ["a https:"]


@pytest.mark.parametrize(("text", "wanted_s"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("90", 90)])
def test_durations(text: str, wanted_s: int) -> None:
    assert parse_duration(text) == wanted_s


def test_cancel_after_cancels(server: LiveServer, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    server.engine.token_s = 0.05
    monkeypatch.setattr("lavatube.serve.replicate_request.LEAST_CANCEL_AFTER_S", 1)
    url = f"{server.url}/v1/models/{MODEL}/predictions"
    headers = {"prefer": "wait=10", "cancel-after": "1s"}
    made = http.post(url, json={"input": inputs(max_tokens=1000)}, headers=headers, timeout=15).json()
    assert made["status"] == "canceled"
    assert made["deadline"]
    refused = http.post(url, json={"input": inputs()}, headers={"cancel-after": "soon"})
    assert refused.status_code == 400


def test_each_client_finds_its_own_list_of_models(server: LiveServer, http: httpx.Client) -> None:
    page = http.get(f"{server.url}/v1/models").json()
    assert set(page["data"][0]) == {"id", "object", "created", "owned_by"}
    assert page["results"] == [http.get(f"{server.url}/v1/models/{MODEL}").json()]


def test_other_weights_are_another_version(server: LiveServer, http: httpx.Client) -> None:
    """Known by its digest once that is known; what was told before stays good."""
    url = f"{server.url}/v1/models/{MODEL}"
    seen = []
    for weights in ("", "a" * 64, "b" * 64):
        server.serving.weights = weights
        seen.append(http.get(url).json()["latest_version"]["id"])
        made = http.post(f"{server.url}/v1/predictions", json={"version": seen[-1], "input": inputs()}).json()
        assert made["version"] == seen[-1]
        for version, status in zip(seen, (200, 404, 200), strict=False):
            wanted = 200 if version == seen[-1] else status
            assert http.get(f"{url}/versions/{version}").status_code == wanted
    assert len(set(seen)) == 3

"""/metrics: as Prometheus' own parser reads it, bounded whatever clients send, and the operator's."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine

from lavatube.predictions.keys import KeyStore
from lavatube.predictions.owners import OwnerLimits
from lavatube.predictions.tables import metadata
from lavatube.serve.auth import Keyring
from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer
from tests.serve.test_auth import headers

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
GOOD = {"input": {"image": PNG, "prompt": "hello", "max_tokens": 5}}


def scraped(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_happens_is_counted(server: LiveServer, client: httpx.Client) -> None:
    for _ in range(2):
        assert client.post("/predictions", json=GOOD).status_code == 200
    assert client.post("/predictions", json={"input": {}}).status_code == 422
    assert client.get("/predictions/nothing").status_code == 404
    found = scraped(client.get("/metrics").text)
    post = [("method", "POST"), ("route", "/predictions")]
    assert found[f"lavatube_http_requests_total{[*post, ('status', '200')]}"] == 2
    assert found[f"lavatube_http_requests_total{[*post, ('status', '422')]}"] == 1
    assert found["lavatube_refusals_total[('code', 'not_found')]"] == 1
    assert found["lavatube_predictions_total[('code', ''), ('origin', 'cog'), ('status', 'succeeded')]"] == 2
    assert found["lavatube_tokens_total[('kind', 'completion')]"] == 10
    assert found["lavatube_tokens_total[('kind', 'prompt')]"] == 10
    assert found["lavatube_tokens_total[('kind', 'image')]"] == 8
    assert found["lavatube_time_to_first_token_seconds_count[]"] == 2
    assert found["lavatube_inter_token_seconds_count[]"] == 8
    assert found["lavatube_active_predictions[]"] == 0
    assert found["lavatube_ready[]"] == 1
    assert found["lavatube_phase[('phase', 'ready')]"] == 1


def test_no_client_can_make_series(server: LiveServer, client: httpx.Client) -> None:
    client.get("/nothing/0")
    client.post("/predictions", json=GOOD)
    client.get("/metrics")
    before = set(scraped(client.get("/metrics").text))
    for number in range(50):
        client.get(f"/nothing/{number}")
        client.get(f"/predictions/{number}")
        server.raw(f"M{number} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        client.put(f"/predictions/id-{number}", json=GOOD)
    new = set(scraped(client.get("/metrics").text)) - before
    assert len(new) <= 10, new
    assert not any("id-" in name or "nothing" in name or "M4" in name for name in new)


def test_where_there_are_keys_only_an_operator_sees_the_whole(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'keys.db'}")
    metadata.create_all(engine)
    store = KeyStore(engine)
    user, scraper = (store.add(name, OwnerLimits(), is_operator=name == "scraper")[1] for name in ("user", "scraper"))
    ring = Keyring("", store.all)
    ring.refresh()
    engine.dispose()
    with LiveServer(tmp_path / "server", keyring=ring) as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/metrics", headers=headers(user)).status_code == 403
        assert httpx.get(f"{server.url}/metrics", headers=headers(scraper)).status_code == 200


def test_each_is_described(server: LiveServer) -> None:
    """docs/metrics.md has a row for each family, and no other."""
    front = "lavatube_front_process_"
    names = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in server.metrics.registry.collect()
        if not family.name.startswith(front)
    }
    described = re.findall(r"^\| `(lavatube_\w+)", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(described) - {front} == names

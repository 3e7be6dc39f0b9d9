"""Keys that ask for more than the engine can do at once: who waits is let in by turns, and by priority."""

from __future__ import annotations

from pathlib import Path

import httpx
from sqlalchemy import create_engine

from lavatube.predictions.keys import KeyStore
from lavatube.predictions.limits import ServiceLimits
from lavatube.predictions.owners import OwnerLimits
from lavatube.predictions.tables import metadata
from lavatube.serve.auth import Keyring
from tests.predictions.fakes import PNG
from tests.serve.live import LiveServer

KEYS = {"crowd": OwnerLimits(), "guest": OwnerLimits(), "urgent": OwnerLimits(priority=1)}


def test_a_crowd_does_not_hold_up_who_comes_after_it(tmp_path: Path) -> None:
    database = create_engine(f"sqlite:///{tmp_path / 'keys.db'}")
    metadata.create_all(database)
    store = KeyStore(database)
    made = {name: store.add(name, limits) for name, limits in KEYS.items()}
    names = {key.id.encode(): name for name, (key, _) in made.items()}
    clients = {name: {"authorization": f"Bearer {secret}"} for name, (_, secret) in made.items()}
    ring = Keyring("", store.all)
    ring.refresh()
    with LiveServer(tmp_path / "server", keyring=ring, limits=ServiceLimits(max_running=1)) as server:
        server.engine.token_s = 0.05

        def ask(name: str, num_tokens: int = 1) -> str:
            body = {"input": {"image": PNG, "prompt": name, "max_tokens": num_tokens}}
            headers = {"prefer": "respond-async", **clients[name]}
            return str(httpx.post(f"{server.url}/predictions", json=body, headers=headers).json()["id"])

        ahead = [ask("crowd", num_tokens=4000) for _ in range(2)]  # one runs, and one is in the engine already
        server.until(lambda: len(server.engine.submitted) == 2)
        for name in [*["crowd"] * 8, *["guest"] * 2, *["urgent"] * 3]:
            ask(name)
        assert server.serving.service is not None
        gate = server.serving.service._workshop.gate
        server.until(lambda: gate.num_waiting == 13)
        for prediction_id in ahead:
            httpx.post(f"{server.url}/predictions/{prediction_id}/cancel", headers=clients["crowd"])
        server.until(lambda: len(server.engine.submitted) == 15)
    order = [names[request.salt] for request in server.engine.submitted[2:]]
    assert order[:3] == ["urgent"] * 3
    assert sorted(order[3:7]) == ["crowd", "crowd", "guest", "guest"]

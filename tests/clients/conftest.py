"""For the tours of the official clients: one real server with `tiny` for all, and node for those in JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients import node as javascript
from tests.flow.server import Server
from tests.hooks import Receiver

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Where the server may send webhooks."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Server]:
    """It asks for the key KEY, as clients always send one."""
    cache, environ = tmp_path_factory.mktemp("clients"), {"LAVATUBE_API_KEY": KEY}
    with Server("tiny", cache, "--webhook-urls", receiver.host, environ=environ) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def node() -> Callable[..., Any]:
    """`node(script, *arguments, NAME="variable")`: what the script gave to `report`."""
    javascript.install()
    return javascript.run

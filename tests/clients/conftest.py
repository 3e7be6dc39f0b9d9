"""For the tours of the official clients: one real server with `tiny` for all, and node for those in JavaScript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients import node as javascript
from tests.flow.server import Server

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It asks for the key KEY, as clients always send one."""
    with Server("tiny", tmp_path_factory.mktemp("clients"), environ={"LAVATUBE_API_KEY": KEY}) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def node() -> Callable[..., Any]:
    """`node(script, *arguments, NAME="variable")`: what the script gave to `report`."""
    javascript.install()
    return javascript.run

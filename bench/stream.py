"""One streamed answer of the embedded model over HTTP: time to the first token, and between tokens."""

from __future__ import annotations

import base64
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import httpx

from bench.table import show
from tests.flow.server import Server
from tests.flow.sse import events

RUNS = 20
PICTURE = Path(__file__).parent.parent / "examples" / "shapes.png"


def main() -> None:
    """Print the table."""
    picture = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    body = {"input": {"image": picture, "prompt": "Describe the picture.", "temperature": 0}}
    first: list[float] = []
    gaps: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Server("tiny", Path(folder)) as server:
        server.wait_ready()
        with httpx.Client(headers={"Accept": "text/event-stream"}) as client:
            for _ in range(RUNS + 1):
                begun = time.monotonic()
                with client.stream("POST", f"{server.url}/predictions", json=body) as response:
                    moments = [event.at for event in events(response) if event.name == "output"]
                first.append(moments[0] - begun)
                gaps += [after - before for before, after in pairwise(moments)]
    rows = {
        "request to first piece (the first request apart)": [1000 * value for value in first[1:]],
        "request to first piece, first request": [1000 * first[0]],
        "between pieces": [1000 * value for value in gaps],
    }
    show("tiny, one stream (repeat: make bench, or python -m bench stream)", rows, "ms")

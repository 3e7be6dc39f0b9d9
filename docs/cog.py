"""Writes docs/cog.md, how the Cog routes here differ from Cog's own server, from this list: `python -m docs.cog`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lavatube.serve.cog_views import COG_VERSION

DOCUMENT = Path(__file__).with_name("cog.md")
INTRODUCTION = f"""# Beside Cog's own server

Written by `python -m docs.cog` from [`cog.py`](cog.py); a test fails when it is out of date.

The Cog routes take the requests of Cog {COG_VERSION} and answer with its bodies and states, which may have more fields.
What differs on purpose is listed here. `tests/flow/test_cog_peer.py` sends one list of requests to the real Cog server,
running [our predictor](../src/lavatube/platforms/cog/predict.py), and to this one: each difference is shown there by
its name, and all else is the same. Of those that take more than a request to show, the last column names the test.
"""
WEBHOOKS = "tests/predictions/test_webhooks.py"


class Difference(NamedTuple):
    """`test` is where it is proven, if not in the differential test."""

    name: str
    cog: str
    here: str
    test: str = ""


DIFFERENCES = (
    Difference("reading", "405, 404", "`GET /predictions/{id}` and `/predictions/{id}/stream`"),
    Difference("queue", "409 when its slots are busy", "waits in a bounded queue; beyond it 429 with `Retry-After`"),
    Difference("busy", "`BUSY` from its one prediction on", "`BUSY` when another one would have to wait"),
    Difference("prefer", "`respond-async` alone, as an exact string", "a list of preferences; `wait=N` works"),
    Difference("finished ids", "are forgotten; a `PUT` runs again", "are remembered; a `PUT` is the same prediction"),
    Difference("other input", "a `PUT` of an id with another input is the first one's prediction", "409"),
    Difference("input", "comes back when a running one is put again", "is not kept"),
    Difference("event ids", "none", "`id:` on every event"),
    Difference("replay", "from the start, whatever `Last-Event-ID` says", "from the event after it"),
    Difference("partial output", "dropped from what failed or was cancelled", "kept"),
    Difference("error bodies", "some text, some empty", "JSON"),
    Difference("no body", "all defaults, so 422 for the inputs that are missing", "415: no content type"),
    Difference("unknown fields", "dropped without a word", "422, with the name that was probably meant"),
    Difference("bad picture", "200, `failed`", "422, before anything is computed"),
    Difference("local files", "a path as `image` is read", "422"),
    Difference("private addresses", "fetched", "422; public ones with limits on redirects, bytes, pixels and time"),
    Difference("ids", "any string", "up to 64 letters, digits, `_` and `-`; else 422"),
    Difference("bad webhook", "taken, and never called", "422"),
    Difference("webhook count", "one for each piece of the output", "at most one in 0.5 s, and the end"),
    Difference("webhook signature", "none", "Standard Webhooks"),
    Difference("webhook trace", "`traceparent` of the request is passed on", "is not"),
    Difference("trainings", "`/trainings` are predictions by another name", "404"),
    Difference("docs", "`docs_url` is told, and is 404", "is not told"),
    Difference("metrics", "404", "`/metrics`"),
    Difference(
        "browsers",
        "get `/` as JSON, too",
        "are led from `/` to `/playground`",
        "tests/serve/test_playground.py",
    ),
    Difference(
        "web pages of others",
        "may send forms, and read nothing",
        "neither, unless `allowed_origins` names them; then both",
        "tests/serve/test_origins.py",
    ),
    Difference(
        "webhook order",
        "a `processing` may come after the end",
        "the end is last",
        "tests/predictions/test_webhooks.py",
    ),
    Difference(
        "webhook retries",
        "the end only, 12 times within 7 minutes",
        "over three days",
        "tests/predictions/test_webhooks.py",
    ),
    Difference("slow readers", "lose events", "lose nothing", "tests/serve/test_cog_events.py"),
    Difference("openapi.json while loading", "503", "there", "tests/serve/test_health.py"),
    Difference("events while loading", "406", "503 with `Retry-After`", "tests/serve/test_health.py"),
    Difference("readiness", "200 in any state", "that, and `/readyz` by its status", "tests/serve/test_health.py"),
    Difference("dead worker", "409 for ever", "another one goes on with what ran", "tests/flow/test_faults.py"),
)


def document() -> str:
    """The whole text."""
    rows = [f"| {one.name} | {one.cog} | {one.here} | {one.test and f'`{one.test}`'} |" for one in DIFFERENCES]
    head = ["| | Cog | here | |", "| --- | --- | --- | --- |"]
    return "\n".join([INTRODUCTION, *head, *rows, ""])


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")

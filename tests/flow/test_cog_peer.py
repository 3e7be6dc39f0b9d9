"""One list of requests to the real Cog server and to ours: the same answers, but for the differences that have a name.

Ours may say more: an answer of Cog's is found again in ours, field by field. What no two runs have in common (ids,
times, words of an error) is compared by its type, and an output by its text, however it was cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from docs.cog import DIFFERENCES, DOCUMENT, document
from tests.flow.cog_peer import CogServer, cog_server
from tests.flow.cog_requests import DIFFERENT, SAME, Api, answer
from tests.flow.conftest import ENDLESS_TOKENS, endless_server
from tests.flow.server import Server
from tests.hooks import Receiver

OF_ONE_RUN = {"id", "msg", "predict_time", "started_at", "completed_at", "logs", "cog_version"}


def is_covered(theirs: Any, ours: Any, key: str = "") -> bool:
    """Whether all that their answer says is said by ours."""
    if key in OF_ONE_RUN:
        return type(theirs) is type(ours)
    if key == "output":
        return "".join(theirs) == "".join(ours)
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return all(name in ours and is_covered(value, ours[name], name) for name, value in theirs.items())
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(is_covered, theirs, ours))
    return bool(theirs == ours)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def cog(endless_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CogServer]:
    with cog_server(tmp_path_factory.mktemp("cog"), str(endless_folder), cache, ENDLESS_TOKENS) as server:
        yield server


@pytest.fixture(scope="module")
def lavatube(endless_folder: Path, cache: Path, receiver: Receiver) -> Iterator[Server]:
    with endless_server(endless_folder, cache, "--webhook-urls", receiver.host) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def theirs(cog: CogServer, receiver: Receiver) -> Iterator[Api]:
    with closing(Api(cog.url, receiver)) as api:
        yield api


@pytest.fixture(scope="module")
def ours(lavatube: Server, receiver: Receiver) -> Iterator[Api]:
    with closing(Api(lavatube.url, receiver)) as api:
        yield api


@pytest.fixture(autouse=True)
def _idle(theirs: Api) -> None:
    """It frees its slot some time after it has answered."""
    theirs.wait_idle()


@pytest.mark.parametrize("name", SAME)
def test_the_same_request_has_the_same_answer(theirs: Api, ours: Api, name: str) -> None:
    wanted, got = SAME[name](theirs), SAME[name](ours)
    assert is_covered(wanted, got), f"\nCog:  {str(wanted)[:2000]}\nhere: {str(got)[:2000]}"


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_as_it_is_written_down(theirs: Api, ours: Api, name: str) -> None:
    ask, at_cog, here = DIFFERENT[name]
    assert (ask(theirs), ask(ours)) == (at_cog, here)


def test_each_difference_is_shown_or_is_tested_elsewhere() -> None:
    assert set(DIFFERENT) == {one.name for one in DIFFERENCES if not one.test}
    assert all((DOCUMENT.parent.parent / one.test).is_file() for one in DIFFERENCES if one.test)


def test_the_page_is_that_of_the_list() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run python -m docs.cog"


def test_both_end_when_they_are_told_to(theirs: Api, ours: Api, cog: CogServer, lavatube: Server) -> None:
    """The last test here: afterwards there is no server."""
    assert answer(theirs.http.post("/shutdown")) == answer(ours.http.post("/shutdown")) == {"status": 200, "body": {}}
    assert (cog.process.wait(60), lavatube.process.wait(60)) == (0, 0)

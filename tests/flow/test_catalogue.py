"""The catalogue of hostile inputs against a real server: each answered as listed, and the server as it was before."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.flow.conftest import data_url
from tests.flow.server import Server
from tests.kit import Case, catalogue, context, is_as_listed, make_images, module, needs_kit, status_of
from tests.serve.test_limits import KEY, LEAKS

CATALOGUE = catalogue()
# Need code: tests/serve has them, but for the first, and tests/predictions has those of webhooks.
SCENARIOS = {"abuse-05", "abuse-06", "abuse-07", "abuse-10", "auth-23", "hook-17", "hook-20", "hook-24"}
NEEDS_A_NETWORK = {"fetch-05", "fetch-13", "fetch-14"}  # TLS and dropped packets: tests/prompt/test_fetch.py
SLOW = {"http-20"} | {case["id"] for case in CATALOGUE["cases"] if "--big" in case.get("needs", ())}
GROUPS = ("image_files", "data_urls", "unicode_prompt", "url_ssrf", "webhooks")
CONTROL = {"input": {"image": data_url("shapes.png"), "prompt": "still there?", "max_tokens": 1}}

pytestmark = needs_kit


class Canary:
    """Listens where a server that can be fooled would connect to."""

    def __init__(self) -> None:
        self.num_hits = 0
        self._sockets = []
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with suppress(OSError):  # a machine without IPv6, or with something at port 80 already
                self._sockets.append(socket.create_server((address, 80), family=family))
        for one in self._sockets:
            threading.Thread(target=self._listen, args=(one,), daemon=True).start()

    def _listen(self, one: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = one.accept()
                self.num_hits += 1
                connection.close()

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    return module("bad_inputs_render")


@pytest.fixture(scope="module")
def evil(images: Path) -> Iterator[Any]:
    evil = module("evil_http").EvilHTTP(images=str(images)).start()
    yield evil
    evil.stop()


@pytest.fixture
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[Server]:
    with Server("tiny", cache, environ={"LAVATUBE_API_KEY": KEY}) as server:
        server.wait_ready()
        yield server


def send(server: Server, rendered: dict[str, Any]) -> bytes:
    """The whole answer; nothing where the server hung up."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=40) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(rendered["raw"])
        if rendered.get("half_close"):
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
                head, separator, body = answer.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                if separator and length and len(body) >= int(length[1]):
                    break
        return answer


def problems(server: Server, renderer: ModuleType, values: Any, cases: list[Case]) -> list[str]:
    """What is not as listed, case by case."""
    found = []
    for case in cases:
        answer = send(server, renderer.render(CATALOGUE, case, values))
        body = answer.partition(b"\r\n\r\n")[2]
        status = status_of(answer)
        said = answer.decode("utf-8", "replace")
        if not is_as_listed(case, status, body) or LEAKS.search(said) or KEY in said or len(answer) > 24 * 1024:
            found.append(f"{case['id']} ({case['title']}): {status} {body[:200]!r}, wanted {case['expect']}")
        if isinstance(status, int) and status >= 500:
            found.append(f"{case['id']}: {status}")
    return found


def is_well(server: Server) -> bool:
    answer = httpx.post(f"{server.url}/predictions", json=CONTROL, headers={"authorization": f"Bearer {KEY}"})
    return answer.status_code == 200 and answer.json()["status"] == "succeeded"


@pytest.mark.parametrize("group", GROUPS)
def test_each_is_answered_as_listed(
    server: Server, renderer: ModuleType, images: Path, canary: Canary, group: str
) -> None:
    """The groups that need a model, a decoder, a resolver or a database; tests/serve has the others."""
    worker = server.worker_pid()
    cases = [case for case in CATALOGUE["cases"] if case["group"] == group and case["id"] not in SLOW | SCENARIOS]
    values = context(renderer, images, int(server.url.rpartition(":")[2]), KEY, model="tiny")
    assert problems(server, renderer, values, cases) == []
    assert is_well(server)
    assert server.worker_pid() == worker
    assert canary.num_hits == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_catalogue_leaves_no_trace(
    cache: Path, renderer: ModuleType, tmp_path: Path, evil: Any, canary: Canary
) -> None:
    """All cases and all pictures of the kit, again and again: no more memory or descriptors, the same processes.

    The cache of keys and values takes its memory at its first use; a small one has been used before it is measured.
    """
    flags = ("--image-urls", f"127.0.0.1:{evil.port}", "--image-fetch-timeout-s", "2", "--kv-cache-mib", "8")
    with Server("tiny", cache, *flags, environ={"LAVATUBE_API_KEY": KEY}) as server:
        server.wait_ready()
        images = make_images(tmp_path, "--big")
        values = context(renderer, images, int(server.url.rpartition(":")[2]), KEY, model="tiny")
        values["fixture_base"] = f"http://127.0.0.1:{evil.port}"
        cases = [c for c in CATALOGUE["cases"] if c["id"] not in SCENARIOS | NEEDS_A_NETWORK]
        once = [case for case in cases if case["id"] in SLOW]
        usual = [case for case in cases if case["id"] not in SLOW] + _pictures(values)
        assert problems(server, renderer, values, once) == []
        for _ in range(3):
            assert problems(server, renderer, values, usual) == []
        before = _weight(server)
        for _ in range(3):
            assert problems(server, renderer, values, usual) == []
        assert is_well(server)
        after = _weight(server)
        assert after[0] == before[0], "a process was replaced"
        assert after[1] < before[1] + 20 * 1024, f"KiB resident: {before[1]:,} before, {after[1]:,} after"
        assert after[2] <= before[2] + 2, "descriptors"
        assert canary.num_hits == 0
        assert "Traceback" not in server.text
        assert KEY not in server.text
        assert LEAKS.search("".join(line for line in server.log if " 422 " in line)) is None


def _pictures(values: Any) -> list[Case]:
    """Each file of the kit as one case, by its manifest; one with a note may also be answered otherwise."""
    cases = []
    for name, one in values.manifest.items():
        expect = {"status": one["expect"]["status"], "code": one["expect"]["code"], "v1_status": 400}
        others = [[200, None], [422, "invalid_image"], [415, "unsupported_image_format"], [413, "image_too_large"]]
        expect["also_ok"] = [*others, [422, "image_bad_dimensions"]] if one["expect"].get("note") else []
        # What has no byte is no picture but an empty URL; what is larger than a body is not looked at.
        expect["also_ok"] += [[422, "invalid_image_url"]] if name == "empty.png" else []
        expect["also_ok"] += [[413, "body_too_large"]] if expect["status"] == 413 else []
        request = {"set": {"input.image": {"$image": name}}}
        cases.append({"id": name, "title": "a picture", "target": "predict", "request": request, "expect": expect})
    return cases


def _weight(server: Server) -> tuple[set[int], int, int]:
    """The front and its engine, their resident KiB (decoders come and go), descriptors of the front."""
    pids = {server.process.pid, server.worker_pid()}
    resident = sum(int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) for pid in pids)
    descriptors = list(Path(f"/proc/{server.process.pid}/fd").iterdir())
    return pids, resident, len(descriptors)

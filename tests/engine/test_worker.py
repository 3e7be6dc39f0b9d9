"""The real worker, with a real if tiny model: it loads, answers, dies by force, comes back, and never stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from lavatube.engine.client import EngineClient
from lavatube.engine.frames import frame
from lavatube.engine.supervisor import EngineState, RestartPolicy
from lavatube.engine.wire import Abort, Command, Done, Heartbeat, Load, RequestEvent, Submit
from lavatube.engine.worker import Connection
from lavatube.errors import EngineCrashed, OperatorError
from lavatube.spec import ModelSpec
from tests.checkpoints import write_checkpoint
from tests.engine.conftest import NewCore
from tests.engine.requests import GREEDY, SEEDED, answer, failure, run, submit

MAX_POSITIONS = 8192
ENDLESS = replace(GREEDY, max_tokens=8000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's weights, for longer answers."""
    return write_checkpoint(tmp_path_factory.mktemp("long"), max_positions=MAX_POSITIONS)


def order(folder: Path) -> Load:
    return Load(
        folder=str(folder), device="cpu", dtype="float32", max_sequences=4, max_step_tokens=64, kv_cache_bytes=0
    )


@asynccontextmanager
async def engine(folder: Path) -> AsyncIterator[EngineClient]:
    """One that is told to load; after the block no process may be left of it."""
    client = EngineClient(threads=1, restarts=RestartPolicy(first_delay_s=0.1))
    await client.start(order(folder))
    try:
        yield client
    finally:
        pid = client.worker_pid
        await client.stop()
        assert pid is None or not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def eventually(is_so: Callable[[], bool], within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"not within {within_s} s"
        time.sleep(0.01)


async def collect(client: EngineClient, request: Submit) -> list[RequestEvent]:
    return [event async for event in client.submit(request)]


async def next_heartbeat(client: EngineClient) -> Heartbeat:
    """One that was measured after now."""
    async with asyncio.timeout(30):
        for _ in range(2):
            last = client.heartbeat
            while client.heartbeat is last or client.heartbeat is None:
                await asyncio.sleep(0.01)
    return client.heartbeat


async def test_one_worker_from_load_to_crash_and_back(folder: Path, spec: ModelSpec, new_core: NewCore) -> None:
    """Answers as in this process, refuses bad data, frees what is aborted; killed in mid-stream, it tells all who
    wait, is replaced, leaves nobody behind, and the next one answers the same."""
    picture = submit(spec, "picture", SEEDED, num_images=2)
    wanted = answer(run(new_core(), picture)["picture"])
    async with engine(folder) as client:
        ready = await client.wait_ready()
        assert (ready.device, ready.dtype, ready.max_context_tokens) == ("cpu", "float32", MAX_POSITIONS)
        assert client.loading is not None
        assert client.loading.done_bytes == client.loading.total_bytes > 0
        assert answer(await collect(client, picture)) == wanted
        assert failure(await collect(client, replace(submit(spec, "bad"), token_ids=[-5]))) == "invalid_input"

        async with aclosing(client.submit(submit(spec, "pair", replace(ENDLESS, num_choices=2)))) as stream:
            assert {(await anext(stream)).choice, (await anext(stream)).choice} == {0, 1}
            client.abort_choice("pair", 1)
            while not isinstance(ended := await anext(stream), Done):
                pass
            assert (ended.choice, ended.reason, ended.num_left) == (1, "abort", 1)
            assert (await anext(stream)).choice == 0

        async with aclosing(client.submit(submit(spec, "aborted", ENDLESS))) as stream:
            await anext(stream)
        heartbeat = await next_heartbeat(client)
        assert heartbeat.free_cache_tokens == ready.kv_cache_tokens
        assert (heartbeat.running, heartbeat.waiting) == (0, 0)

        pid = client.worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)  # is for the front
        streams = [asyncio.create_task(collect(client, submit(spec, name, ENDLESS))) for name in "abcdef"]
        heartbeat = await next_heartbeat(client)
        assert (heartbeat.running, heartbeat.waiting) == (4, 2)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            results = await asyncio.gather(*streams, return_exceptions=True)
        assert all(isinstance(result, EngineCrashed) for result in results)
        assert client.state is EngineState.RESTARTING
        await client.wait_ready()
        assert client.worker_pid != pid
        assert not is_alive(pid)
        assert answer(await collect(client, picture)) == wanted


async def test_a_broken_checkpoint_is_told_and_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    async with engine(tmp_path) as client:
        with pytest.raises(OperatorError, match="model of type None"):
            await client.wait_ready()
        assert client.state is EngineState.FAILED


def test_an_abort_counts_from_when_it_can_have_come() -> None:
    """However long its front took to send it; and not from the last look at the socket, if it was sent after that."""
    ours, theirs = socket.socketpair()
    connection = Connection(theirs.detach())
    with ours, connection._socket:

        def received(sent_s: float) -> Command:
            ours.sendall(frame(Abort("a", sent_s=sent_s)))
            connection.read()
            return connection.commands.get_nowait()

        begun_s = time.monotonic()
        connection.read()
        found_empty_s = time.monotonic()
        held_up = received(begun_s - 60)
        assert isinstance(held_up, Abort)
        assert begun_s <= held_up.sent_s <= found_empty_s
        prompt_s = time.monotonic()
        assert received(prompt_s) == Abort("a", sent_s=prompt_s)


FRONT = """
import asyncio, sys
from lavatube.engine.client import EngineClient
from lavatube.engine.wire import Load

async def main():
    client = EngineClient(threads=1)
    client.launch()
    while client.worker_pid is None:
        await asyncio.sleep(0.01)
    print(client.worker_pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_a_worker_never_outlives_its_front() -> None:
    """Not even while it imports, which holds the interpreter lock."""
    with subprocess.Popen([sys.executable, "-c", FRONT], stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        pid = int(front.stdout.readline())
        assert is_alive(pid)
        front.kill()
    eventually(lambda: not is_alive(pid), within_s=2.0)


def test_the_front_imports_no_torch() -> None:
    code = "import sys, lavatube.engine.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

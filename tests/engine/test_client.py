"""The front's end, against a worker without a model that really dies, hangs, lies and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lavatube.engine import process
from lavatube.engine.client import EngineClient
from lavatube.engine.supervisor import EngineState, Patience, RestartPolicy
from lavatube.engine.wire import Done, Load, Pixels, RequestEvent, Sampling, Submit, Tokens
from lavatube.errors import Conflict, Draining, EngineCrashed, NotReady, UnsupportedCheckpoint

LOAD = Load(folder="", device="cpu", dtype="auto", max_sequences=1, max_step_tokens=1, kv_cache_bytes=0)
PATIENCE = Patience(hang_s=2.0, start_s=20.0, check_every_s=0.1)


def request(name: str = "a", max_tokens: int = 5) -> Submit:
    return Submit(name, [1], [], Sampling(max_tokens))


@pytest.fixture
def lives(tmp_path: Path) -> Path:
    return tmp_path / "lives"


@pytest.fixture
async def new_client(lives: Path) -> AsyncIterator[Callable[..., EngineClient]]:
    """Builds clients of stub workers, and stops them in the end."""
    clients: list[EngineClient] = []

    def build(habit: str, max_failures: int = 5) -> EngineClient:
        command = [sys.executable, str(Path(__file__).with_name("stub_worker.py")), habit, "--lives", str(lives)]
        restarts = RestartPolicy(first_delay_s=0.05, max_delay_s=0.1, max_failures=max_failures)
        clients.append(EngineClient(command, restarts=restarts, patience=PATIENCE))
        return clients[-1]

    yield build
    for client in clients:
        await client.stop()
    for pid in pids(lives):
        assert not Path(f"/proc/{pid}").exists(), "a worker outlived its client"


def pids(lives: Path) -> list[int]:
    return [int(line) for line in lives.read_text().splitlines()] if lives.exists() else []


async def ready(client: EngineClient) -> EngineClient:
    await client.start(LOAD)
    async with asyncio.timeout(30):
        await client.wait_ready()
    return client


async def collect(client: EngineClient, submit: Submit) -> list[RequestEvent]:
    return [event async for event in client.submit(submit)]


def token_ids(events: list[RequestEvent]) -> list[int]:
    """However many of them came in one event."""
    return [token_id for event in events if isinstance(event, Tokens) for token_id in event.token_ids]


async def reaches(client: EngineClient, state: EngineState) -> None:
    async with asyncio.timeout(30):
        while client.state is not state:
            await asyncio.sleep(0.005)


async def test_from_start_to_answer(new_client: Callable[[str], EngineClient]) -> None:
    client = new_client("good")
    assert client.state is EngineState.STARTING
    await ready(client)
    assert client.state is EngineState.READY
    assert client.loading is not None
    events = await collect(client, request())
    assert token_ids(events) == [*range(5)]
    assert isinstance(events[-1], Done)
    assert client.heartbeat is not None


async def test_a_worker_may_start_before_the_order_to_load(
    new_client: Callable[[str], EngineClient], lives: Path
) -> None:
    client = new_client("good")
    client.launch()
    while client.worker_pid is None:
        await asyncio.sleep(0.005)
    assert client.state is EngineState.STARTING
    await ready(client)
    assert len(pids(lives)) == 1


async def test_many_streams_at_once(new_client: Callable[[str], EngineClient]) -> None:
    client = await ready(new_client("good"))
    answers = await asyncio.gather(*(collect(client, request(str(count), count)) for count in range(1, 30)))
    assert [token_ids(events) for events in answers] == [[*range(count)] for count in range(1, 30)]


async def test_closing_a_stream_aborts_it(new_client: Callable[[str], EngineClient]) -> None:
    client = await ready(new_client("good"))
    async with aclosing(client.submit(request(max_tokens=10**6))) as stream:
        async for event in stream:
            if isinstance(event, Tokens) and event.position >= 3:
                break
    with pytest.raises(Conflict):
        await collect(client, request())
    async with asyncio.timeout(30):
        while True:
            try:
                events = await collect(client, request())
            except Conflict:
                await asyncio.sleep(0.005)
            else:
                break
    assert isinstance(events[0], Tokens)
    assert events[0].position == 0


async def test_a_request_that_cannot_be_told_fails_alone(new_client: Callable[[str], EngineClient]) -> None:
    client = await ready(new_client("good"))
    beyond_64_bits = Submit("a", [1], [], Sampling(5, seed=2**70))
    with pytest.raises(OverflowError):
        await collect(client, beyond_64_bits)
    assert token_ids(await collect(client, request())) == [*range(5)], "its id is free"


async def test_an_id_in_use_is_refused(new_client: Callable[[str], EngineClient]) -> None:
    client = await ready(new_client("good"))
    async with aclosing(client.submit(request(max_tokens=10**6))) as stream:
        await anext(stream)
        with pytest.raises(Conflict):
            await collect(client, request())


async def test_no_engine_no_request(new_client: Callable[[str], EngineClient]) -> None:
    client = new_client("good")
    with pytest.raises(NotReady):
        await collect(client, request())
    await client.start(LOAD)
    with pytest.raises(NotReady):
        await collect(client, request())


@dataclass
class Reader:
    """Reads one stream and remembers what came."""

    token_ids: list[int] = field(default_factory=list)

    async def read(self, client: EngineClient, submit: Submit) -> None:
        async for event in client.submit(submit):
            assert isinstance(event, Tokens)
            self.token_ids += event.token_ids


@pytest.mark.parametrize(
    ("habit", "reason"),
    [
        ("die", "signal 9"),
        ("exit0", "status 0"),
        ("hang_up", "closed its connection"),
        ("babble", "no event"),
        ("hang", "no progress"),
        ("stop", "silent"),
    ],
)
async def test_every_way_to_die(
    new_client: Callable[[str], EngineClient],
    lives: Path,
    monkeypatch: pytest.MonkeyPatch,
    habit: str,
    reason: str,
) -> None:
    """All streams are told, with the reason; the worker comes back; the next request is answered."""
    monkeypatch.setattr(process, "EXIT_GRACE_S", 60.0)  # it is made to end, not asked to
    client = await ready(new_client(f"{habit}:1"))
    readers = {name: Reader() for name in "abc"}
    async with asyncio.timeout(30):
        ends = await asyncio.gather(
            *(reader.read(client, request(name, 10**6)) for name, reader in readers.items()), return_exceptions=True
        )
    for end in ends:
        assert isinstance(end, EngineCrashed)
        assert reason in end.message
    assert client.state is EngineState.RESTARTING
    assert isinstance(client.failure, EngineCrashed)
    assert max(reader.token_ids for reader in readers.values()) == [0, 1, 2]
    async with asyncio.timeout(30):
        await client.wait_ready()
    assert client.failure is None
    assert token_ids(await collect(client, request())) == [*range(5)]
    assert len(pids(lives)) == 2


async def test_what_a_hung_worker_did_not_read_is_forgotten(new_client: Callable[[str], EngineClient]) -> None:
    """The next worker's socket has the number that the last one's had: nobody may wait any more to send to that."""
    client = await ready(new_client("stop:1"))
    large = Submit("large", [1], [Pixels(b"", bytes(8 << 20), 1, 1, 1, 1, 1)], Sampling(5))
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*(collect(client, each) for each in (request("a"), large)), return_exceptions=True)
        assert all(isinstance(end, EngineCrashed) for end in ends)
        await client.wait_ready()
        assert token_ids(await collect(client, request("b"))) == [0, 1, 2, 3, 4]


async def test_an_idle_worker_that_falls_silent_is_replaced(
    new_client: Callable[[str], EngineClient], lives: Path
) -> None:
    client = await ready(new_client("good"))
    assert client.worker_pid is not None
    os.kill(client.worker_pid, signal.SIGSTOP)
    await reaches(client, EngineState.RESTARTING)
    async with asyncio.timeout(30):
        await client.wait_ready()
    assert len(pids(lives)) == 2


async def test_death_is_noticed_when_idle(new_client: Callable[[str], EngineClient]) -> None:
    client = await ready(new_client("good"))
    assert client.worker_pid is not None
    os.kill(client.worker_pid, signal.SIGKILL)
    await reaches(client, EngineState.RESTARTING)
    async with asyncio.timeout(30):
        await client.wait_ready()


@pytest.mark.parametrize("habit", ["die_loading", "die_starting"])
async def test_a_crash_loop_ends(new_client: Callable[..., EngineClient], lives: Path, habit: str) -> None:
    client = new_client(habit, max_failures=3)
    await client.start(LOAD)
    async with asyncio.timeout(20):
        with pytest.raises(EngineCrashed):
            await client.wait_ready()
    assert client.state is EngineState.FAILED
    assert len(pids(lives)) == 3
    with pytest.raises(NotReady):
        await collect(client, request())


async def test_a_crash_while_loading_is_survived(new_client: Callable[[str], EngineClient], lives: Path) -> None:
    await ready(new_client("die_loading:2"))
    assert len(pids(lives)) == 3


async def test_a_checkpoint_that_cannot_be_loaded_is_not_tried_again(
    new_client: Callable[[str], EngineClient], lives: Path
) -> None:
    client = new_client("fail_loading")
    await client.start(LOAD)
    with pytest.raises(UnsupportedCheckpoint, match=r"^No such tower\. Use another\.$") as refusal:
        await client.wait_ready()
    assert refusal.value.remedy == "Use another."
    assert client.state is EngineState.FAILED
    assert len(pids(lives)) == 1


async def test_stop_answers_everyone(
    new_client: Callable[[str], EngineClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "EXIT_GRACE_S", 60.0)
    client = await ready(new_client("good"))
    stream = client.submit(request(max_tokens=10**6))
    await anext(stream)
    async with asyncio.timeout(20):
        await client.stop()
    with pytest.raises(Draining):
        async for _ in stream:
            pass
    with pytest.raises(Draining):
        await collect(client, request())
    with pytest.raises(Draining):
        await client.wait_ready()
    await client.stop()


async def test_stop_before_start(new_client: Callable[[str], EngineClient]) -> None:
    await new_client("good").stop()


async def test_stop_during_start(new_client: Callable[[str], EngineClient]) -> None:
    client = new_client("good")
    await client.start(LOAD)
    await asyncio.sleep(0.01)
    await client.stop()
    assert client.state is EngineState.STOPPED


async def test_a_program_that_is_not_there(lives: Path) -> None:
    client = EngineClient(["/nowhere/python"], restarts=RestartPolicy(first_delay_s=0.01, max_failures=2))
    await client.start(LOAD)
    with pytest.raises(EngineCrashed, match="can't be started"):
        await client.wait_ready()
    await client.stop()

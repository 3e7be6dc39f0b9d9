"""The engine's life: take commands, step, hand events on. The same in a worker process and on a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Final

from lavatube.engine.core import EngineCore
from lavatube.engine.wire import Abort, Command, RequestEvent, Shutdown, Submit
from lavatube.heap import give_back_free_memory

REST_S: Final = 2.0
"""Idle for so long, the engine gives back the memory that large prompts took for their steps."""


def run(
    core: EngineCore,
    commands: SimpleQueue[Command],
    emit: Callable[[list[RequestEvent]], None],
    read: Callable[[], None] = lambda: None,
) -> None:
    """Until Shutdown. `emit` gets all events of one step at once; `read` puts what has come into `commands`, so that an
    abort that was sent during a step is known before the next. Raises what a step raises.
    """
    core.bind()
    while True:
        read()
        for command in _drain(commands, is_patient=not core.has_work):
            match command:
                case Submit():
                    core.submit(command)
                case Abort():
                    core.abort(command.request_id, command.choice, command.sent_s)
                case Shutdown():
                    return
                case _:
                    raise AssertionError(f"a running engine was told {command!r:.100}")
        if events := core.step():
            emit(events)
        core.tend()
        if not core.has_work:
            core.check_integrity()


def _drain(commands: SimpleQueue[Command], *, is_patient: bool) -> Iterator[Command]:
    """What waits in the queue; a patient one waits for the first."""
    if is_patient:
        yield _wait(commands)
    while True:
        try:
            yield commands.get_nowait()
        except Empty:
            return


def _wait(commands: SimpleQueue[Command]) -> Command:
    try:
        return commands.get(timeout=REST_S)
    except Empty:
        give_back_free_memory()
        return commands.get()

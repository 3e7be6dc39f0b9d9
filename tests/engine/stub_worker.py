"""A worker without a model, for every way in which one can behave: `stub_worker.py HABIT --socket FD`.

It answers each request with the ids 0, 1, 2 … and lives or dies by its habit. A number after the habit's colon is how
often it does that: the lives are counted in the file named by --lives.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue

from lavatube.engine.frames import Frames, decode_command, frame_events
from lavatube.engine.wire import (
    Abort,
    Command,
    Done,
    Event,
    Heartbeat,
    Load,
    LoadFailed,
    Loading,
    Ready,
    Submit,
    Tokens,
)

BEAT_S = 0.05


class Stub:
    """One life."""

    def __init__(self, habit: str, descriptor: int) -> None:
        self.habit = habit
        self.socket = socket.socket(fileno=descriptor)
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self.steps = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.read, daemon=True).start()
        threading.Thread(target=self.beat, daemon=True).start()

    def send(self, event: Event) -> None:
        with self.lock:
            self.socket.sendall(frame_events(event))

    def read(self) -> None:
        frames = Frames()
        while data := self.socket.recv(65536):
            for body in frames.feed(data):
                self.commands.put(decode_command(body))
        if self.habit != "hang_up":
            os._exit(0)

    def beat(self) -> None:
        while True:
            self.send(Heartbeat(self.steps, 0, 0, 0))
            time.sleep(BEAT_S)

    def live(self) -> None:
        assert isinstance(self.commands.get(), Load)
        self.send(Loading(1, 2))
        if self.habit == "die_loading":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.habit == "fail_loading":
            self.send(LoadFailed("unsupported_checkpoint", "No such tower.", "Use another."))
            sys.exit(1)
        self.send(Ready("stub", "float32", 0.0, 1000, 1000))
        running: dict[str, tuple[int, int]] = {}
        while True:
            self.obey(running)
            for request_id, (position, max_tokens) in list(running.items()):
                if position == max_tokens:
                    del running[request_id]
                    self.send(Done(request_id, "length", 1, 0, position, 0.0, 0.0, 0.0))
                else:
                    self.misbehave(position)
                    self.send(Tokens(request_id, position, [position]))
                    running[request_id] = (position + 1, max_tokens)
            self.steps += 1
            time.sleep(0.001)

    def obey(self, running: dict[str, tuple[int, int]]) -> None:
        while True:
            try:
                command = self.commands.get(block=not running)
            except Empty:
                return
            if isinstance(command, Submit):
                running[command.request_id] = (0, command.sampling.max_tokens)
                return
            if isinstance(command, Abort) and running.pop(command.request_id, None):
                self.send(Done(command.request_id, "abort", 1, 0, 0, 0.0, 0.0, 0.0))
            if running:
                return

    def misbehave(self, position: int) -> None:
        if position != 3:
            return
        match self.habit:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit0":
                os._exit(0)
            case "hang":
                time.sleep(3600)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "babble":
                self.socket.sendall(b"\0\0\0\1\xff")
            case "hang_up":
                self.socket.shutdown(socket.SHUT_RDWR)
                time.sleep(3600)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("habit")
    parser.add_argument("--lives", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    arguments = parser.parse_args()
    with arguments.lives.open("a") as file:
        file.write(f"{os.getpid()}\n")
    habit, _, times = arguments.habit.partition(":")
    if times and len(arguments.lives.read_text().splitlines()) > int(times):
        habit = "good"
    if habit == "die_starting":
        sys.exit(3)
    Stub(habit, arguments.socket).live()


if __name__ == "__main__":
    main()

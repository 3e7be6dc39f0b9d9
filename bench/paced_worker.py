"""An engine without a model that writes each answer at a steady pace, and knows when it wrote what.

Started by `engine/client.py` in place of the real worker: `paced_worker.py --period-s S --times FILE --socket FD`. At
its end it writes the moments of all tokens into FILE, as JSON: request id → seconds of the monotonic clock.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import select
import socket
import time
from pathlib import Path

from lavatube.engine.frames import Frames, decode_command, frame_events
from lavatube.engine.wire import Abort, Done, Event, Heartbeat, Load, Ready, Submit, Tokens

LETTERS = range(68, 94)  # ids of the tests' byte-level tokenizer: small letters, which JSON leaves as they are
BEAT_S = 0.5
STEP_S = 0.005  # what is due is written in steps, all of a step at once, as an engine does


class PacedWorker:
    """Every request has its own phase, so that the tokens of all come evenly."""

    def __init__(self, descriptor: int, period_s: float, times: Path) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._period_s = period_s
        self._path = times
        self._frames = Frames()
        self._times: dict[str, list[float]] = {}
        self._wanted: dict[str, int] = {}
        self._due: list[tuple[float, str]] = []

    def run(self) -> None:
        """Until the front hangs up."""
        next_beat_s = 0.0
        while True:
            now_s = time.monotonic()
            events = self._write_due(now_s)
            if now_s >= next_beat_s:
                next_beat_s = now_s + BEAT_S
                events.append(Heartbeat(len(self._times) + int(now_s * 10), len(self._wanted), 0, 1000))
            if events:
                self._socket.sendall(frame_events(*events))
            if select.select([self._socket], [], [], 0 if self._due else BEAT_S)[0] and not self._listen():
                return
            time.sleep(max(now_s + STEP_S - time.monotonic(), 0))

    def _listen(self) -> bool:
        data = self._socket.recv(1 << 20)
        if not data:
            self._path.write_text(json.dumps(self._times))
            return False
        for command in map(decode_command, self._frames.feed(data)):
            match command:
                case Load():
                    self._socket.sendall(frame_events(Ready("paced", "none", 0.0, 10**6, 10**6)))
                case Submit():
                    self._times[command.request_id] = []
                    self._wanted[command.request_id] = command.sampling.max_tokens
                    first_s = time.monotonic() + random.random() * self._period_s
                    heapq.heappush(self._due, (first_s, command.request_id))
                case Abort():
                    self._wanted.pop(command.request_id, None)
        return True

    def _write_due(self, now_s: float) -> list[Event]:
        events: list[Event] = []
        while self._due and self._due[0][0] <= now_s:
            due_s, name = heapq.heappop(self._due)
            if name not in self._wanted:
                continue
            times = self._times[name]
            events.append(Tokens(name, len(times), [LETTERS[len(times) % len(LETTERS)]]))
            times.append(now_s)
            if len(times) == self._wanted[name]:
                del self._wanted[name]
                events.append(Done(name, "length", 1, 0, len(times), 0.0, 0.0, 0.0))
            else:
                heapq.heappush(self._due, (due_s + self._period_s, name))
        return events


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--period-s", type=float, required=True)
    parser.add_argument("--times", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    arguments = parser.parse_args()
    PacedWorker(arguments.socket, arguments.period_s, arguments.times).run()
    os._exit(0)


if __name__ == "__main__":
    main()

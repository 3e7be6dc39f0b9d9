"""An engine without a model whose answers are a pure function of seed, prompt and position, as those of the real one.

`pure_worker.py --period-s S --socket FD`: every answer gets a token each S seconds, and begins where it is told to.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import select
import socket
import time
from dataclasses import dataclass

from lavatube.engine.frames import Frames, decode_command, frame_events
from lavatube.engine.wire import Abort, Done, Event, Heartbeat, Load, Ready, Submit, Tokens

BEAT_S = 0.5


@dataclass(slots=True)
class Answer:
    seed: bytes
    max_tokens: int
    position: int


class PureWorker:
    def __init__(self, descriptor: int, period_s: float) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._period_s = period_s
        self._frames = Frames()
        self._answers: dict[str, Answer] = {}
        self._num_token_ids = 1
        self._steps = 0

    def run(self) -> None:
        """Until the front hangs up."""
        next_beat_s = 0.0
        while True:
            events: list[Event] = [event for name in list(self._answers) for event in self._step(name)]
            self._steps += 1
            if time.monotonic() >= next_beat_s:
                next_beat_s = time.monotonic() + BEAT_S
                events.append(Heartbeat(self._steps, len(self._answers), 0, 1000))
            if events:
                self._socket.sendall(frame_events(*events))
            wait_s = self._period_s if self._answers else BEAT_S
            if select.select([self._socket], [], [], wait_s)[0] and not self._listen():
                return

    def _step(self, name: str) -> list[Event]:
        answer = self._answers[name]
        if answer.position == answer.max_tokens:
            del self._answers[name]
            return [Done(name, "length", 1, 0, answer.position, 0.0, 0.0, 0.0)]
        digest = hashlib.sha256(answer.seed + answer.position.to_bytes(4, "big")).digest()
        answer.position += 1
        token_id = int.from_bytes(digest[:4], "big") % self._num_token_ids
        return [Tokens(name, answer.position - 1, [token_id])]

    def _listen(self) -> bool:
        data = self._socket.recv(1 << 20)
        for command in map(decode_command, self._frames.feed(data)):
            match command:
                case Load():
                    self._num_token_ids = command.num_token_ids
                    self._socket.sendall(frame_events(Ready("none", "none", 0.0, 10**6, 10**6)))
                case Submit():
                    seed = repr((command.sampling.seed, command.token_ids)).encode()
                    begun = len(command.begun[0] or []) if command.begun else 0
                    self._answers[command.request_id] = Answer(seed, command.sampling.max_tokens, begun)
                case Abort():
                    if self._answers.pop(command.request_id, None):
                        self._socket.sendall(frame_events(Done(command.request_id, "abort", 1, 0, 0, 0.0, 0.0, 0.0)))
        return bool(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--period-s", type=float, required=True)
    parser.add_argument("--socket", type=int, required=True)
    arguments = parser.parse_args()
    PureWorker(arguments.socket, arguments.period_s).run()
    os._exit(0)


if __name__ == "__main__":
    main()

"""The log of a prediction → the events of a response's stream, each with its number. Pure: no clock.

An event's number follows from the id of the log's event that it comes from. So whoever reads the same log from
anywhere, now or after a restart, sees the same events with the same numbers, and `starting_after` is exact.

Source: openai-python 3.57, types/responses/response_stream_event.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lavatube.predictions.events import Completed, Event, Output, Started, Status
from lavatube.serve.dialects import dump_text, param_of
from lavatube.serve.responses_views import ResponseView
from lavatube.serve.sse import NUMBER, TEXT, frame, template

# The first piece of text opens the item and its part: two events more than the log has.
OPENINGS: Final = 2
# The id of the start, of which one event tells.
STARTED: Final = 1
DELTA: Final = "response.output_text.delta"

Fields = dict[str, object]


class ResponseEvents:
    """The events of one response, but for those that a client has seen.

    The log is to be read from `read_after`: what comes before it was seen. It may give consecutive pieces as one, with
    the id of the last; then there is one delta with the number of that.
    """

    def __init__(self, view: ResponseView, starting_after: int = -1) -> None:
        self._view = view
        self._starting_after = starting_after
        # The log's ids begin at 1, before which there is `created`, and in the background `queued`.
        self._offset = 1 if view.is_background else 0
        self.read_after = self._last_seen()
        delta = {"type": DELTA, "sequence_number": NUMBER, **self._place, "delta": TEXT, "logprobs": []}
        self._delta = template(delta, event=DELTA)
        self._pieces = [piece for piece in view.prediction.log.pieces(0) if piece.id <= self.read_after]

    def _last_seen(self) -> int:
        """The last event of the log of which the client has seen all."""
        position = self._starting_after - self._offset
        return position - OPENINGS if position - OPENINGS > STARTED else STARTED if position >= STARTED else 0

    def beginning(self) -> list[bytes]:
        """What can be said of a response before anything has happened to it."""
        if not self._view.is_background:
            return self._frames([("response.created", 0, {"response": self._view.at("in_progress")})])
        queued = self._view.at("queued")
        return self._frames(
            [("response.created", 0, {"response": queued}), ("response.queued", 1, {"response": queued})]
        )

    def tell(self, event: Event) -> list[bytes]:
        """What one event of the log says; nothing, if it was seen."""
        if isinstance(event, Output) and event.choice == 0 and self._pieces and not event.logprobs:
            self._pieces.append(event)
            number = event.id + self._offset + OPENINGS
            return [self._delta % (number, dump_text(event.text))] if number > self._starting_after else []
        return self._frames(self._told(event))

    def _frames(self, events: list[tuple[str, int, Fields]]) -> list[bytes]:
        return [
            frame({"type": name, "sequence_number": number, **fields}, event=name)
            for name, number, fields in events
            if number > self._starting_after
        ]

    def _told(self, event: Event) -> list[tuple[str, int, Fields]]:
        number = event.id + self._offset
        match event:
            case Started():
                return [("response.in_progress", number, {"response": self._view.at("in_progress")})]
            case Output(choice=0):
                opening = [] if self._pieces else list(self._opening())
                self._pieces.append(event)
                delta = self._place | {"delta": event.text, "logprobs": self._view.logprobs(event.logprobs)}
                return [*opening, (DELTA, number + OPENINGS, delta)]
            case Completed(status=Status.SUCCEEDED):
                return list(self._ending(number))
            case Completed(status=Status.FAILED):
                return [("response.failed", number + OPENINGS, {"response": self._view.failed(self._pieces)})]
            case Completed():
                return [("error", number + OPENINGS, self._cancelled())]
            case _:
                return []

    def _opening(self) -> Iterator[tuple[str, int, Fields]]:
        """Numbered as if the first piece came alone, whatever it comes with."""
        number = STARTED + 1 + self._offset
        item = {"output_index": 0, "item": self._view.open_item()}
        yield "response.output_item.added", number, item
        yield "response.content_part.added", number + 1, self._place | {"part": self._view.part([])}

    def _ending(self, number: int) -> Iterator[tuple[str, int, Fields]]:
        """Of an answer without a word, too, the item is told."""
        if not self._pieces:
            yield from self._opening()
        part = self._view.part(self._pieces)
        number += OPENINGS
        done = self._place | {"text": part["text"], "logprobs": part["logprobs"]}
        yield "response.output_text.done", number, done
        yield "response.content_part.done", number + 1, self._place | {"part": part}
        item = self._view.item(self._pieces, self._view.end_status)
        yield "response.output_item.done", number + 2, {"output_index": 0, "item": item}
        yield f"response.{self._view.end_status}", number + 3, {"response": self._view.ended(self._pieces)}

    def _cancelled(self) -> Fields:
        error = self._view.error
        assert error is not None
        return {"code": error.code, "message": error.sentence, "param": param_of(error, "input")}

    @property
    def _place(self) -> Fields:
        return {"item_id": self._view.item_id, "output_index": 0, "content_index": 0}

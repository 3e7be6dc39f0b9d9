"""The laws of a response's events: whoever reads the log however, from wherever, is told the same."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lavatube.errors import EngineCrashed
from lavatube.predictions.events import Event, Output, Usage
from lavatube.predictions.prediction import Prediction
from lavatube.serve.responses_events import ResponseEvents
from lavatube.serve.responses_views import ResponseView

DELTA = "response.output_text.delta"


@st.composite
def views(draw: st.DrawFn) -> ResponseView:
    """Of a prediction that has ended, in any way, after any number of pieces."""
    details = {"response": {"background": draw(st.booleans())}, "items": []}
    prediction = Prediction("p", details=details)
    end = draw(st.sampled_from(["stop", "length", "failed", "cancelled", "refused"]))
    if end != "refused":
        prediction.start(3, 0)
        for text in draw(st.lists(st.text(min_size=1, max_size=3), max_size=12)):
            prediction.write(text)
    if end in ("stop", "length"):
        prediction.end_choice(0, end)
        prediction.succeed(Usage(3, 0, 0, 5))
    elif end == "cancelled":
        prediction.cancel()
    else:
        prediction.fail(EngineCrashed("The engine ended."))
    return ResponseView(prediction, "tiny")


def log_of(view: ResponseView) -> list[Event]:
    return list(view.prediction.log._events)


def merged(events: list[Event], together: list[bool]) -> list[Event]:
    """Pieces that follow each other as one, where `together` says so, as for a reader that is far behind."""
    result: list[Event] = []
    for event, joins in zip(events, together, strict=True):
        last = result[-1] if result else None
        if joins and isinstance(last, Output) and isinstance(event, Output):
            result[-1] = replace(last, id=event.id, text=last.text + event.text)
        else:
            result.append(event)
    return result


def told(view: ResponseView, starting_after: int, together: list[bool] | None = None) -> list[dict[str, Any]]:
    """Everything that a reader is told."""
    events = ResponseEvents(view, starting_after)
    unread = [event for event in log_of(view) if event.id > events.read_after] or log_of(view)[-1:]
    if together is not None:
        unread = merged(unread, together[: len(unread)])
    frames = events.beginning() + [frame for event in unread for frame in events.tell(event)]
    return [json.loads(frame.decode().partition("\ndata: ")[2]) for frame in frames]


@given(views())
def test_numbers_have_no_gaps_but_where_nothing_was_said(view: ResponseView) -> None:
    numbers = [event["sequence_number"] for event in told(view, -1)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    if view.prediction.finish_reason is not None:
        assert numbers == list(range(len(numbers)))


@given(views(), st.data())
def test_the_rest_is_the_same_from_every_number(view: ResponseView, data: st.DataObject) -> None:
    whole = told(view, -1)
    for place, event in enumerate(whole):
        assert told(view, event["sequence_number"]) == whole[place + 1 :]
    together = data.draw(st.lists(st.booleans(), min_size=20, max_size=20))
    number = data.draw(st.integers(-1, 40))
    rest = told(view, number, together)
    expected = [event for event in whole if event["sequence_number"] > number]
    assert "".join(event["delta"] for event in rest if event["type"] == DELTA) == "".join(
        event["delta"] for event in expected if event["type"] == DELTA
    )
    assert [event for event in rest if event["type"] != DELTA] == [
        event for event in expected if event["type"] != DELTA
    ]
    numbers = [event["sequence_number"] for event in rest]
    assert numbers == sorted(set(numbers))
    assert all(later > number for later in numbers)

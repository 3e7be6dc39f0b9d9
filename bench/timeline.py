"""`python -m bench.timeline TRACE SVG`: draws what `lavatube serve --trace` wrote, from start to first token."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WIDTH: Final = 900
LEFT: Final = 110
LANE: Final = 5
GAP: Final = 14
COLORS: Final = {
    "download": "#4c78a8",
    "verify": "#59a14f",
    "wait": "#dddddd",
    "encode": "#b07aa1",
    "prefill": "#e15759",
}
LABELS: Final = {"wait": "wait for layers"}


@dataclass(frozen=True)
class Event:
    kind: str
    name: str
    begun_s: float
    ended_s: float
    lane: tuple[int, int]


def main(trace: Path, picture: Path) -> None:
    picture.write_text(draw(read(trace)), encoding="utf-8")


def read(path: Path) -> list[Event]:
    """Events by their time since the start."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    values = [json.loads(line.rstrip(",")) for line in lines]
    start = next(value["ts"] for value in values if value["cat"] == "start")
    return [
        Event(
            value["cat"],
            value["name"],
            (value["ts"] - start) / 1e6,
            (value["ts"] + value.get("dur", 0) - start) / 1e6,
            (value["pid"], value["tid"]),
        )
        for value in values
    ]


def draw(events: list[Event]) -> str:
    """One band a kind, in it one lane a thread; the weights in place as a curve; the first token as a line."""
    end_s = max(event.ended_s for event in events)
    shapes: list[str] = []
    top = 24.0

    def x(at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * at_s / end_s

    for kind, color in COLORS.items():
        band = [event for event in events if event.kind == kind]
        lanes = {lane: index for index, lane in enumerate(dict.fromkeys(event.lane for event in band))}
        height = max(LANE * len(lanes), 12)
        shapes.append(_text(4, top + height / 2 + 4, LABELS.get(kind, kind)))
        lane_height = height / max(len(lanes), 1)
        for event in band:
            width = max(x(event.ended_s) - x(event.begun_s), 0.4)
            y = top + lane_height * lanes[event.lane]
            shapes.append(
                f'<rect x="{x(event.begun_s):.1f}" y="{y:.1f}" width="{width:.1f}" height="{lane_height - 0.6:.1f}" '
                f'fill="{color}"/>'
            )
        top += height + GAP
        if kind == "verify":
            top = _draw_load(shapes, [event for event in events if event.kind == "load"], x, top)
    for event in events:
        if event.kind == "token":
            at = x(event.begun_s)
            shapes.append(
                f'<line x1="{at:.1f}" y1="14" x2="{at:.1f}" y2="{top:.1f}" stroke="#000" stroke-dasharray="3"/>'
            )
            shapes.append(_text(at - 4, 11, f"first token {event.begun_s:.1f} s", anchor="end"))
    step_s = max(1, round(end_s / 10))
    seconds = range(0, int(end_s) + 1, step_s)
    shapes += [_text(x(second), top + 10, f"{second} s", anchor="middle") for second in seconds]
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 18:.0f}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _draw_load(shapes: list[str], events: Iterable[Event], x: Callable[[float], float], top: float) -> float:
    height = 40.0
    points = [(event.begun_s, int(event.name)) for event in events]
    shapes.append(_text(4, top + height / 2 + 4, "weights in place"))
    if points:
        most = max(size for _, size in points)
        line = " ".join(f"{x(at_s):.1f},{top + height * (1 - size / most):.1f}" for at_s, size in points)
        shapes.append(f'<polyline points="{line}" fill="none" stroke="#f28e2b" stroke-width="1.5"/>')
    return top + height + GAP


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

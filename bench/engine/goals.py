"""What the comparison is for: each goal, what was seen of it, and whether that reaches it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from bench.engine.rows import BEYOND, DECODE, DECODE_SHARE, FIRST, FIRST_SHARE, FOLLOW_UP, STALL, TOTAL

Measured = dict[str, dict[str, dict[str, list[float]]]]
"""Row, figure, engine → one value a round."""

Medians = Mapping[str, float]
"""By engine."""

OURS: Final = "lavatube"
ORIGINAL: Final = "transformers bf16"
BFLOAT16: Final = (ORIGINAL, "llama.cpp bf16", "openvino fp16")
RIVALS: Final = {"bf16": "llama.cpp bf16", "int8": "llama.cpp Q8_0", "int4": "llama.cpp Q4_K_M"}


@dataclass(frozen=True, slots=True)
class Goal:
    """`is_most`: at most so much, else at least."""

    name: str
    seen: float
    wanted: float
    is_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.seen <= self.wanted if self.is_most else self.seen >= self.wanted


def goals(measured: Measured) -> Iterator[Goal]:
    """Those of which enough was measured. Ratios are of medians, and the greater the better for us."""
    return chain(_first_token(measured), _decode(measured), _at_once(measured), _bounds(measured))


def _first_token(measured: Measured) -> Iterator[Goal]:
    times = _medians(measured, "one", FIRST)
    peers = _of_peers(times)
    if (bf16 := times.get(f"{OURS} bf16")) is not None:
        if ORIGINAL in times:
            yield Goal(f"first token, bf16, × {ORIGINAL}", times[ORIGINAL] / bf16, 1.35)
        yield from _over_best("first token, bf16", {name: peers[name] / bf16 for name in BFLOAT16 if name in peers}, 1)
    if (int8 := times.get(f"{OURS} int8")) is not None:
        yield from _over_best("first token, int8", {name: time / int8 for name, time in peers.items()}, 1.5)


def _decode(measured: Measured) -> Iterator[Goal]:
    rates = _medians(measured, "one", DECODE)
    for precision, wanted in (("bf16", 3.0), ("int8", 4.5), ("int4", 7.0)):
        for peer, least in ((ORIGINAL, wanted), (RIVALS[precision], 1.0)):
            if f"{OURS} {precision}" in rates and peer in rates:
                yield Goal(f"decode, {precision}, × {peer}", rates[f"{OURS} {precision}"] / rates[peer], least)


def _at_once(measured: Measured) -> Iterator[Goal]:
    eight, shared = _medians(measured, "eight", TOTAL), _medians(measured, "shared", TOTAL)
    best, best_shared = (max(_of_ours(rates).values(), default=0.0) for rates in (eight, shared))
    if not best:
        return
    yield from _over_best("8 pictures", {name: best / rate for name, rate in _of_peers(eight).items()}, 1.5)
    if (one_by_one := _medians(measured, "one", TOTAL).get(ORIGINAL)) is not None:
        yield Goal(f"8 pictures, × {ORIGINAL}, one after the other", best / one_by_one, 6.0)
    if best_shared:
        yield Goal("8 questions about one picture, × 8 pictures", best_shared / best, 2.0)


def _bounds(measured: Measured) -> Iterator[Goal]:
    for row, figure, most in (("one", FOLLOW_UP, 0.1), ("stall", STALL, 3.0), ("memory", BEYOND, 0.15)):
        for engine, seen in _of_ours(_medians(measured, row, figure)).items():
            yield Goal(f"{figure.rpartition(',')[0]}, {engine}", seen, most, is_most=True)
    for figure, wanted in (
        (DECODE_SHARE, {"bf16": 0.85, "int4": 0.65}),
        (FIRST_SHARE, {"bf16": 0.8, "int8": 0.8, "int4": 0.8}),
    ):
        shares = _medians(measured, "one", figure)
        for precision, least in wanted.items():
            if f"{OURS} {precision}" in shares:
                yield Goal(f"{figure.rpartition(',')[0]}, {precision}", shares[f"{OURS} {precision}"], least)


def _over_best(name: str, gains: Mapping[str, float], wanted: float) -> Iterator[Goal]:
    """The least of our gains is the one over the best peer."""
    if gains:
        peer = min(gains, key=gains.__getitem__)
        yield Goal(f"{name}, × the best peer ({peer})", gains[peer], wanted)


def _medians(measured: Measured, row: str, figure: str) -> Medians:
    values = measured.get(row, {}).get(figure, {})
    return {engine: statistics.median(runs) for engine, runs in values.items()}


def _of_ours(values: Medians) -> Medians:
    return {name: value for name, value in values.items() if name.startswith(OURS)}


def _of_peers(values: Medians) -> Medians:
    return {name: value for name, value in values.items() if not name.startswith(OURS)}

"""The rows of the comparison: each puts one kind of work on a server that is up, and says what was seen."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from bench.engine.client import Answer, Question, ask, ask_all
from bench.engine.engines import Server
from bench.engine.floors import Floors, decode_bytes, first_token_ops, layer_weights
from bench.engine.shapes import Shape

TEXT = "what can be seen in this picture, and where"
TEXT_TOKENS = 18
NUM_AT_ONCE = 8
NUM_ARRIVALS = 12
NUM_ALONE = 10
REST_S = 4.0

# Figures that goals are about.
FIRST = "time to first token, s"
DECODE = "decode, tokens/s"
FOLLOW_UP = "follow-up: of the first, ratio"
FIRST_SHARE = "first token: share of the floor, share"
DECODE_SHARE = "decode: share of the floor, share"
TOTAL = "all answers, tokens/s"
STALL = "meanwhile: p99 of the median, ratio"
BEYOND = "beyond weights and cache, share"


@dataclass(frozen=True, slots=True)
class Run:
    """One engine's turn in one round. Every picture is new to it."""

    server: Server
    shape: Shape
    floors: Floors
    round: int
    num_tokens: int

    def question(self, number: int, text: str = TEXT, num_tokens: int = 0) -> Question:
        picture = 1000 * self.round + number
        return Question(picture, text, num_tokens or self.num_tokens, self.shape.picture_size)


@dataclass(frozen=True, slots=True)
class Row:
    """`shape` is the model's name. What `measure` returns are figures by their names, which end in their unit."""

    name: str
    shape: str
    measure: Callable[[Run], Mapping[str, float]]
    is_crowd: bool = False  # many questions at once


def one(run: Run) -> Mapping[str, float]:
    """A request alone, and then another question about the same picture."""
    first = ask(run.server.url, run.question(1))
    second = ask(run.server.url, run.question(1, "how many of them are there, and of which kind", 8))
    rate = run.floors.bf16_ops if run.server.engine.bits == 16 else run.floors.int8_ops
    floor_first_s = first_token_ops(run.shape, TEXT_TOKENS) / rate
    engine = run.server.engine
    floor_token_s = decode_bytes(run.shape, engine.bits, engine.other_bits) / run.floors.bytes_per_s
    return {
        FIRST: first.first_s,
        DECODE: first.tokens_per_s,
        TOTAL: first.num_tokens / (first.pieces_s[-1] - first.asked_s),
        "follow-up: time to first token, s": second.first_s,
        FOLLOW_UP: second.first_s / first.first_s,
        FIRST_SHARE: floor_first_s / first.first_s,
        DECODE_SHARE: floor_token_s * first.tokens_per_s,
    }


def eight(run: Run) -> Mapping[str, float]:
    """So many requests at once, each with its own picture."""
    return _together(run, [run.question(100 + index, f"{TEXT} {index}") for index in range(NUM_AT_ONCE)])


def shared(run: Run) -> Mapping[str, float]:
    """So many questions at once about one picture."""
    return _together(run, [run.question(200, f"number {index}: {TEXT}") for index in range(NUM_AT_ONCE)])


def arrivals(run: Run) -> Mapping[str, float]:
    """A Poisson stream at half, once and twice what the server did with all at once."""
    found: dict[str, float] = {}
    begun = time.monotonic()
    ask_all(run.server.url, [run.question(300 + index) for index in range(NUM_AT_ONCE)])
    capacity = NUM_AT_ONCE / (time.monotonic() - begun)
    for load in (0.5, 1.0, 2.0):
        rng = random.Random(f"{run.round} {load}")
        delays_s = [0.0]
        for _ in range(NUM_ARRIVALS - 1):
            delays_s.append(delays_s[-1] + rng.expovariate(load * capacity))
        questions = [run.question(int(1000 * load) + 400 + index) for index in range(NUM_ARRIVALS)]
        answers = ask_all(run.server.url, questions, delays_s)
        ranked = sorted(answer.first_s for answer in answers)
        found[f"{load:g} × capacity: time to first token, median s"] = statistics.median(ranked)
        found[f"{load:g} × capacity: time to first token, longest s"] = ranked[-1]
        found[f"{load:g} × capacity: between tokens, p99 s"] = _p99([gap for one in answers for gap in one.gaps_s])
    return found


def stall(run: Run) -> Mapping[str, float]:
    """The gaps of a running stream while a picture of five tiles is taken in; its median is that of the same gaps."""
    stream = Answer(0.0)
    question = run.question(500, num_tokens=1000)
    running = threading.Thread(target=ask, args=(run.server.url, question, stream))
    running.start()
    while len(stream.pieces_s) < NUM_ALONE:
        assert running.is_alive(), "the stream has ended"
        time.sleep(0.05)
    arrival = ask(run.server.url, run.question(501, num_tokens=2))
    moments = [moment for moment in stream.pieces_s if arrival.asked_s <= moment <= arrival.pieces_s[0]]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    stream.is_wanted = False
    running.join()
    return {
        "the stream alone: between tokens, median s": statistics.median(stream.gaps_s[: NUM_ALONE - 1]),
        "meanwhile: between tokens, median s": statistics.median(gaps),
        "meanwhile: between tokens, p99 s": _p99(gaps),
        STALL: _p99(gaps) / statistics.median(gaps),
        "the picture's time to first token, s": arrival.first_s,
    }


def memory(run: Run) -> Mapping[str, float]:
    """What is resident once all the others are through and it rests, and how much is neither weights nor cache."""
    time.sleep(REST_S)
    engine, embeddings = run.server.engine, 2 * run.shape.recipe.vocab_size * run.shape.recipe.hidden_size
    layers = 2 * layer_weights(run.shape)
    others = run.shape.weights_bytes - embeddings - layers
    weights = layers * engine.bits / 16 + others * engine.other_bits / 16 + embeddings
    needed = weights + engine.cache_mib * 2**20
    resident = run.server.resident_bytes
    return {"resident, GB": resident / 1e9, BEYOND: resident / needed - 1}


ROWS = (
    Row("one", "llava-1.1b", one),
    Row("eight", "llava-1.1b", eight, is_crowd=True),
    Row("shared", "llava-1.1b", shared, is_crowd=True),
    Row("arrivals", "llava-1.1b", arrivals, is_crowd=True),
    Row("memory", "llava-1.1b", memory),
    Row("stall", "next-1.1b", stall),
    Row("onevision", "onevision-0.5b", one),
)


def _together(run: Run, questions: list[Question]) -> Mapping[str, float]:
    begun = time.monotonic()
    answers = ask_all(run.server.url, questions)
    wall_s = time.monotonic() - begun
    firsts = [answer.first_s for answer in answers]
    return {
        "all answers, s": wall_s,
        TOTAL: sum(answer.num_tokens for answer in answers) / wall_s,
        "time to first token, median s": statistics.median(firsts),
        "time to first token, longest s": max(firsts),
    }


def _p99(values: list[float]) -> float:
    return sorted(values)[min(int(len(values) * 0.99), len(values) - 1)]

"""`python -m bench.engine`: rows of work, on ours and on every peer that is installed, in turn, round by round.

Each engine is started for its turn and is alone on the machine in it. Peers come from `make bench-peers`; one that is
not there is named and left out. Times are those of a client that reads the streamed answer.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path
from subprocess import CalledProcessError

import httpx
from rich.console import Console
from rich.markdown import Markdown

from bench.engine import report
from bench.engine.client import Question, ask
from bench.engine.engines import Engine, engines, started
from bench.engine.floors import measure_floors
from bench.engine.record import Record
from bench.engine.rows import ROWS, Row, Run
from bench.engine.shapes import Shape, shapes

WARM_UP = 999_999


def main() -> None:
    arguments = _parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives the bench
    kept = report.RESULTS / f"{arguments.save}.json"
    record = Record.read(kept) if arguments.save else Record()
    record.commands.append(shlex.join(["python", "-m", "bench.engine", *sys.argv[1:]]))
    try:
        _take_turns(arguments, record, kept)
    finally:  # also of a run that is cut off
        told = report.text(record, arguments.baseline)
        Console().print(Markdown(told))
        if arguments.save:
            kept.with_suffix(".md").write_text(told)
            report.plot(record.measured, kept.with_suffix(".svg"))


def _take_turns(arguments: argparse.Namespace, record: Record, kept: Path) -> None:
    engines = _present(arguments.engines)
    for shape in shapes():
        rows = [row for row in ROWS if row.shape == shape.name and row.name in arguments.rows]
        for number in range(arguments.rounds if rows else 0):
            record.floors |= measure_floors()
            for engine in engines:
                own = [row for row in rows if engine.takes(is_crowd=row.is_crowd)]
                _take_turn(engine, own, shape, number, arguments.tokens, record)
                if arguments.save:
                    record.write(kept)


def _take_turn(engine: Engine, rows: list[Row], shape: Shape, number: int, num_tokens: int, record: Record) -> None:
    """What fails of a peer is told, and is not the end of the others."""
    if not rows:
        return
    turn = f"{engine.name}, round {number + 1}"
    try:
        with started(engine, shape) as server:
            ask(server.url, Question(WARM_UP, "warm up", 4, shape.picture_size))
            for row in rows:
                for figure, value in row.measure(Run(server, shape, record.floors, number, num_tokens)).items():
                    record.add(row.name, figure, engine.name, value)
                    print(f"{turn}, {row.name}: {figure} {value:.4g}", file=sys.stderr)
        record.succeed(f"{turn}, {shape.name}")
    except (AssertionError, httpx.HTTPError, CalledProcessError) as error:
        record.fail(f"{turn}, {shape.name}", error)


def _present(names: list[str]) -> list[Engine]:
    """Those whose names begin with one of the given."""
    wanted = [engine for engine in engines() if any(engine.name.startswith(name) for name in names)]
    for engine in wanted:
        if not engine.is_here:
            print(f"{engine.name} is left out: there is no {engine.needs} (make bench-peers)", file=sys.stderr)
    return [engine for engine in wanted if engine.is_here]


def _parse_arguments() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("rows", nargs="*", default=names, metavar="ROW", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--engines", nargs="+", default=[""], help="only those whose names begin so")
    parser.add_argument("--baseline", default="transformers bf16", help="the engine that ratios are to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument(
        "--save", metavar="NAME", help="write NAME.json, .md and .svg into bench/results; one that is there goes on"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(names):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    main()

"""`python -m bench.engine`: rows of work, on ours and on every peer that is installed, in turn, round by round.

Each engine is started for its turn and is alone on the machine in it. Peers come from `make bench-peers`; one that is
not there is named and left out. Times are those of a client that reads the streamed answer.
"""

from __future__ import annotations

import argparse
import signal
import sys

from rich.console import Console
from rich.markdown import Markdown

from bench.engine import report
from bench.engine.client import Question, ask
from bench.engine.engines import Engine, engines, started
from bench.engine.floors import Floors, measure_floors
from bench.engine.report import Measured
from bench.engine.rows import ROWS, Row, Run
from bench.engine.shapes import Shape, shapes

WARM_UP = 999_999


def main() -> None:
    arguments = _parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives the bench
    floors = Floors()
    measured: Measured = {}
    for shape in shapes():
        rows = [row for row in ROWS if row.shape == shape.name and row.name in arguments.rows]
        for number in range(arguments.rounds if rows else 0):
            floors |= measure_floors()
            for engine in _present(arguments.engines):
                _take_turn(engine, rows, shape, floors, number, arguments.tokens, measured)
    told = report.text(measured, arguments.baseline, floors, f"python -m bench.engine {' '.join(sys.argv[1:])}")
    Console().print(Markdown(told))
    if arguments.save:
        (report.RESULTS / f"{arguments.save}.md").write_text(told)
        report.plot(measured, report.RESULTS / f"{arguments.save}.svg")


def _take_turn(
    engine: Engine, rows: list[Row], shape: Shape, floors: Floors, number: int, num_tokens: int, measured: Measured
) -> None:
    with started(engine, shape) as server:
        ask(server.url, Question(WARM_UP, "warm up", 4, shape.picture_size))
        for row in rows:
            for figure, value in row.measure(Run(server, shape, floors, number, num_tokens)).items():
                measured.setdefault(row.name, {}).setdefault(figure, {}).setdefault(engine.name, []).append(value)
                print(f"{engine.name}, {row.name}, round {number + 1}: {figure} {value:.4g}", file=sys.stderr)


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
    parser.add_argument("--save", metavar="NAME", help="write NAME.md and NAME.svg into bench/results")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(names):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    main()

"""`python -m bench.engine.duel PEER`: first tokens of ours and of a peer, in turn, for machines that change their pace.

Both servers are up. The peer is stopped while it is not its turn: threads of some wait by turning round. Each question
has a picture that its server has not seen, and a ratio is of two neighbours in time.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics

from bench.engine.client import Question, ask
from bench.engine.engines import Server, engines, started
from bench.engine.shapes import shapes
from bench.table import show

NUM_TOKENS = 2


def main() -> None:
    """Print both, and their ratios."""
    arguments = _parse_arguments()
    by_name = {engine.name: engine for engine in engines()}
    shape = shapes()[0]
    times: dict[str, list[float]] = {arguments.ours: [], arguments.peer: []}
    with started(by_name[arguments.peer], shape) as peer:
        os.killpg(peer.process.pid, signal.SIGSTOP)
        with started(by_name[arguments.ours], shape) as ours:
            for number in range(arguments.pairs + 1):
                question = Question(
                    number, "what can be seen in this picture, and where", NUM_TOKENS, shape.picture_size
                )
                for server in (ours, peer) if number % 2 else (peer, ours):
                    seconds = _ask(server, question, is_stopped=server is peer)
                    if number:  # the first pair warms up
                        times[server.engine.name].append(seconds)
    ratios = sorted(theirs / own for own, theirs in zip(*times.values(), strict=True))
    show(f"time to first token, {shape.name}", times, "s")
    print(
        f"{arguments.peer} over {arguments.ours}: {statistics.median(ratios):.2f} in the median of",
        ", ".join(f"{ratio:.2f}" for ratio in ratios),
    )


def _ask(server: Server, question: Question, *, is_stopped: bool) -> float:
    """Time to first token, s, of a server that is stopped before and after."""
    if is_stopped:
        os.killpg(server.process.pid, signal.SIGCONT)
    seconds = ask(server.url, question).first_s
    if is_stopped:
        os.killpg(server.process.pid, signal.SIGSTOP)
    return seconds


def _parse_arguments() -> argparse.Namespace:
    names = [engine.name for engine in engines() if engine.is_here]
    parser = argparse.ArgumentParser(prog="python -m bench.engine.duel", description=__doc__)
    parser.add_argument("peer", choices=names)
    parser.add_argument("--ours", choices=names, default="lavatube int8")
    parser.add_argument("--pairs", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()

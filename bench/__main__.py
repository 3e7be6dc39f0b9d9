"""`python -m bench [NAME …]`: run the measurements named, or all; each prints a table and how to repeat it."""

from __future__ import annotations

import argparse

from bench import (
    cold_start,
    first_token,
    journal,
    kernels,
    model,
    overhead,
    reuse,
    startup,
    stream,
    streams,
    warm_start,
)

BENCHMARKS = {
    "cold_start": cold_start.main,
    "first_token": first_token.main,
    "warm_start": warm_start.main,
    "startup": startup.main,
    "stream": stream.main,
    "streams": streams.main,
    "journal": journal.main,
    "kernels": kernels.main,
    "model": model.main,
    "overhead": overhead.main,
    "reuse": reuse.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help="which to run (default: all)")
    names = parser.parse_args().names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no {name}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()

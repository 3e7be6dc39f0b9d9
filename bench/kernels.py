"""The kernels alone, with the shapes of a decoder of 1 B, beside torch's own products.

Few rows are measured by what they read of weights that no cache holds, on all cores. Many rows by what one thread does
in its own CPU time, which a busy machine changes little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bench.engine.floors import measure_floors
from bench.table import show
from lavatube.model.native import LEVELS, native
from lavatube.model.panels import Kind, Panels

SHAPES = ((11264, 2048), (2048, 5632))  # gate and up, down: nine tenths of a layer
KINDS: tuple[Kind, ...] = ("bfloat16", "int8", "int4")
FEW_ROWS = (1, 4, 8, 16)
MANY_ROWS = 594
COPIES = 6  # of each matrix, so that none is in a cache when its turn comes
RUNS = 9

Work = Callable[[Tensor], object]


def main() -> None:
    """Print the tables."""
    kernels, floors = native(), measure_floors()
    print("torch alone" if kernels is None else LEVELS[kernels.level], f"on {torch.get_num_threads()} threads")
    print(f"torch reads {floors.bytes_per_s / 1e9:.1f} GB/s of memory; its products in bfloat16 make", end=" ")
    print(f"{floors.bf16_ops / 1e9:.0f} GFLOP/s")
    for outputs, inputs in SHAPES:
        matrix = torch.randn(outputs, inputs).bfloat16()
        read: dict[str, list[float]] = {}
        made: dict[str, list[float]] = {}
        for name, size_bytes, works in _all_works(matrix):
            for count in FEW_ROWS:
                seconds = _seconds(works, torch.randn(count, inputs).bfloat16())
                read[f"{name}, rows: {count}"] = [size_bytes / each / 1e9 for each in seconds]
            cpu_seconds = _cpu_seconds(works[0], torch.randn(MANY_ROWS, inputs).bfloat16())
            made[name] = [2 * MANY_ROWS * matrix.numel() / each / 1e9 for each in cpu_seconds]
        title = f"{outputs} × {inputs} (repeat: python -m bench kernels)"
        show(f"weights read, {title}", read, "GB/s")
        show(f"{MANY_ROWS} rows, one thread, CPU time, {title}", made, "GFLOP/s")


def _all_works(matrix: Tensor) -> list[tuple[str, int, list[Work]]]:
    """Name, bytes of the weights, and the product with each copy of them."""
    found: list[tuple[str, int, list[Work]]] = []
    for kind in KINDS:
        copies = [Panels(*matrix.shape, kind) for _ in range(COPIES)]
        for panels in copies:
            panels.put(0, matrix)
        works: list[Work] = [lambda rows, panels=panels: panels(rows, None, torch.bfloat16) for panels in copies]
        found.append((kind, copies[0].size_bytes, works))
    plain = [matrix.clone() for _ in range(COPIES)]
    products: list[Work] = [lambda rows, weight=weight: functional.linear(rows, weight) for weight in plain]
    return [*found, ("torch, bfloat16", matrix.nbytes, products)]


def _seconds(works: Sequence[Work], rows: Tensor) -> list[float]:
    """Of one of them, by runs of all; the first run does not count."""
    times = []
    for _ in range(RUNS + 1):
        begun = time.perf_counter()
        for work in works:
            work(rows)
        times.append((time.perf_counter() - begun) / len(works))
    return times[1:]


def _cpu_seconds(work: Work, rows: Tensor) -> list[float]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(RUNS + 1):
        begun = time.thread_time()
        work(rows)
        times.append(time.thread_time() - begun)
    torch.set_num_threads(threads)
    return times[1:]


if __name__ == "__main__":
    main()

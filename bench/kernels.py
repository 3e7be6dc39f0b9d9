"""The kernels alone: products of few and of many rows with the shapes of a decoder of 1 B, beside torch's own."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn import functional

from bench.engine.floors import measure_floors
from bench.table import show
from lavatube.model.native import LEVELS, native
from lavatube.model.panels import Kind, Panels

SHAPES = ((11264, 2048), (2048, 5632))  # gate and up, down: nine tenths of a layer
KINDS: tuple[Kind, ...] = ("bfloat16", "int8", "int4")
ROW_COUNTS = (1, 4, 8, 16, 594)
COPIES = 6  # of each matrix, so that none is in a cache when its turn comes
RUNS = 9


def main() -> None:
    """Print the tables."""
    kernels, floors = native(), measure_floors()
    level = "torch alone" if kernels is None else LEVELS[kernels.level]
    print(
        f"{level}, {torch.get_num_threads()} threads; a sum over memory reads {floors.bytes_per_s / 1e9:.1f} GB/s, "
        f"torch's products in bfloat16 make {floors.flops / 1e9:.0f} GFLOP/s"
    )
    for outputs, inputs in SHAPES:
        matrix = torch.randn(outputs, inputs).bfloat16()
        few: dict[str, list[float]] = {}
        many: dict[str, list[float]] = {}
        for kind in KINDS:
            copies = [Panels(outputs, inputs, kind) for _ in range(COPIES)]
            for panels in copies:
                panels.put(0, matrix)
            _measure(kind, [_product(panels) for panels in copies], copies[0].size_bytes, matrix, few, many)
        plain = [matrix.clone() for _ in range(COPIES)]
        works = [lambda rows, weight=weight: functional.linear(rows, weight) for weight in plain]
        _measure("torch's own bfloat16", works, matrix.nbytes, matrix, few, many)
        title = f"{outputs} × {inputs} (repeat: python -m bench kernels)"
        show(f"weights read, {title}", few, "GB/s")
        show(f"products, {title}", many, "GFLOP/s")


Work = Callable[[torch.Tensor], object]


def _product(panels: Panels) -> Work:
    return lambda rows: panels(rows, None, torch.bfloat16)


def _measure(
    name: str,
    works: list[Work],
    size_bytes: int,
    matrix: torch.Tensor,
    few: dict[str, list[float]],
    many: dict[str, list[float]],
) -> None:
    for count in ROW_COUNTS:
        rows = torch.randn(count, matrix.shape[1]).bfloat16()
        times = []
        for run in range(RUNS):
            begun = time.perf_counter()
            for work in works if count < 64 else works[:1]:
                work(rows)
            taken = time.perf_counter() - begun
            times += [taken / (len(works) if count < 64 else 1)] if run else []
        if count < 64:
            few[f"{name}, rows: {count}"] = [size_bytes / seconds / 1e9 for seconds in times]
        else:
            many[f"{name}, rows: {count}"] = [2 * count * matrix.numel() / seconds / 1e9 for seconds in times]


if __name__ == "__main__":
    main()

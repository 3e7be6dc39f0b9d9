"""Medians with their spread, as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def show(title: str, rows: Mapping[str, Sequence[float]], unit: str) -> None:
    """One row a figure: its median, least and greatest."""
    table = Table(title=title, title_justify="left")
    for column in ("figure", f"median {unit}", "min", "max", "runs"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, values in rows.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{value:.3f}" for value in figures), str(len(values)))
    Console().print(table)

"""What was measured, as a table for the terminal, a file for `bench/results`, and a picture."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench.engine.goals import OURS, Goal, Measured, goals
from bench.engine.record import Record

RESULTS = Path(__file__).parent.parent / "results"


def text(record: Record, baseline: str) -> str:
    """Medians with their extremes, and how many times as good as the baseline's; in Markdown."""
    floors = [f"{rate / 1e9:.0f}" for rate in astuple(record.floors)]
    lines = [
        f"# {datetime.now(UTC):%d %B %Y}: python -m bench.engine",
        "",
        *(f"    {command}" for command in dict.fromkeys(record.commands)),
        "",
        f"{machine()}.",
        f"It reads {floors[0]} GB/s, and multiplies at {floors[1]} (bf16) and {floors[2]} Gop/s (int8).",
        "Random weights; medians (least–greatest), engines in turn in each round.",
    ]
    for row, figures in record.measured.items():
        lines += ["", f"## {row}", ""]
        engines = list(dict.fromkeys(engine for values in figures.values() for engine in values))
        lines += ["| figure | " + " | ".join(engines) + " |", "|---" * (1 + len(engines)) + "|"]
        for figure, values in figures.items():
            cells = [_cell(figure, values, engine, baseline) for engine in engines]
            lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    lines += ["", "## Goals", "", "| what | seen | goal | |", "|---|---|---|---|", *map(_line, goals(record.measured))]
    if record.failures:
        lines += ["", "## Failed", "", *(f"- {failure}" for failure in record.failures)]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Its kind, and how busy it is."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].partition(":")[2].strip() if names else platform.processor()
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {cpu}, torch {torch.__version__}, load {load:.1f} at the end"


def plot(measured: Measured, path: Path) -> None:
    """Bars by engine, ours in colour, for each figure that was measured in seconds or tokens a second."""
    from matplotlib.figure import Figure

    wanted = [
        (f"{row}: {figure}", values)
        for row, figures in measured.items()
        for figure, values in figures.items()
        if figure.endswith((", s", "tokens/s"))
    ]
    if not wanted:
        return
    heights = [0.7 + 0.2 * len(values) for _, values in wanted]  # inches
    picture = Figure(figsize=(7, sum(heights)), layout="tight")
    axes = picture.subplots(len(wanted), 1, squeeze=False, height_ratios=heights)
    for axis, (title, values) in zip(axes[:, 0], wanted, strict=True):
        colours = ["#c2552d" if engine.startswith(OURS) else "#8a8a8a" for engine in values]
        axis.barh(list(values), [statistics.median(runs) for runs in values.values()], color=colours, height=0.6)
        axis.set_title(title, loc="left", fontsize=9)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
    picture.savefig(path)


def _line(goal: Goal) -> str:
    bound = "at most" if goal.is_most else "at least"
    return f"| {goal.name} | {goal.seen:.2f} | {bound} {goal.wanted:.2f} | {'met' if goal.is_met else '**not met**'} |"


def _cell(figure: str, values: Mapping[str, Sequence[float]], engine: str, baseline: str) -> str:
    runs = values.get(engine)
    if not runs:
        return "–"
    median = statistics.median(runs)
    cell = f"{median:.3g} ({min(runs):.3g}–{max(runs):.3g})"
    if engine == baseline or baseline not in values or figure.endswith(("share", "ratio")):
        return cell
    gain = median / statistics.median(values[baseline])
    return f"{cell}, {gain if figure.endswith('tokens/s') else 1 / gain:.2f} ×"

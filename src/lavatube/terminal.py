"""What a person sees on a terminal: a progress bar, and tables of what was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from lavatube.predictions.owners import NO_LIMITS, OwnerLimits

if TYPE_CHECKING:  # a pull draws its bar before it fetches: what it shows nothing of, as a database, is not imported
    from lavatube.geometry import ImageCount
    from lavatube.memory import MemoryPlan
    from lavatube.predictions.keys import ApiKey
    from lavatube.spec import ModelSpec
    from lavatube.weights import provision
    from lavatube.weights.upkeep import CachedSet


@contextmanager
def progress_bar() -> Iterator[Callable[[provision.Progress], None]]:
    """A bar on stderr that follows provisioning and loading, and leaves nothing behind; none without a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[extent]}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("resolving", total=None, extent="")

        def on_progress(progress: provision.Progress) -> None:
            total = progress.total_bytes or None
            bar.update(
                task, description=progress.phase, completed=progress.done_bytes, total=total, extent=progress.extent
            )

        yield on_progress


def show_provisioned(provisioned: provision.Provisioned) -> None:
    """Where the weights are and who vouches for them."""
    table = _pairs()
    table.add_row("folder", str(provisioned.folder))
    table.add_row("size", _size(provisioned.total_bytes))
    table.add_row("digest", provisioned.set_digest)
    table.add_row("trust", provisioned.trust)
    table.add_row("from cache", "yes" if provisioned.from_cache else "no")
    Console().print(table)


def show_cache(root: Path, sets: Sequence[CachedSet]) -> None:
    """The sets of weights that are ready, or that there are none."""
    table = Table(title=str(root), title_justify="left")
    for column in ("name", "size", "files", "digest", "source"):
        table.add_column(column, overflow="fold")
    for cached in sets:
        size, files = _size(cached.total_bytes), str(cached.num_files)
        table.add_row(cached.name, size, files, cached.set_digest[:12], cached.source)
    Console(soft_wrap=not sets).print(table if sets else f"{root} holds no weights.")


def show_spec(model: str, device: str, provisioned: provision.Provisioned, spec: ModelSpec, plan: MemoryPlan) -> None:
    """Every decision with its reason, and what the model needs of this machine."""
    console = Console()
    decisions = Table(title=f"{model}  ({provisioned.trust}, {_size(provisioned.total_bytes)})", title_justify="left")
    decisions.add_column("what")
    decisions.add_column("decision", style="bold", overflow="fold")
    decisions.add_column("because", style="dim", overflow="fold")
    for decision in spec.decisions:
        decisions.add_row(decision.subject, decision.choice, decision.reason)
    console.print(decisions)

    memory = _pairs()
    memory.add_row("parameters", f"{spec.num_parameters / 1e6:,.1f} M")
    memory.add_row("weights", f"{_size(plan.weights_bytes)} as {plan.stored_as}")
    memory.add_row(
        "keys and values",
        f"{_size(plan.kv_bytes_per_token)} a token, {_size(plan.kv_bytes_per_context)} a full context",
    )
    memory.add_row(f"free memory of {device}", _size(plan.free_bytes))
    if plan.has_room_for_weights:
        memory.add_row("cache", f"{_size(plan.cache_bytes)}, {plan.cache_tokens:,} tokens")
        memory.add_row("requests at once", _requests(plan))
    else:
        memory.add_row("requests at once", "[red]none: the weights do not fit[/red]")
    console.print(memory)


def _requests(plan: MemoryPlan) -> str:
    if not plan.num_contexts:
        return f"[red]{plan.max_sequences}, and none of full length: all together have the cache's tokens[/red]"
    return f"{plan.max_sequences}, of full length {plan.num_contexts}"


def show_images(images: Sequence[ImageCount]) -> None:
    """What pictures of these sizes cost."""
    if not images:
        return
    table = Table(title="pictures of one prompt", title_justify="left")
    for column in ("size", "tiles", "grid", "tokens", "with detail low"):
        table.add_column(column, justify="right")
    for image in images:
        grid = f"{image.grid_cols} x {image.grid_rows}"
        tokens, low = str(image.tokens), str(image.tokens_low_detail)
        table.add_row(f"{image.width}x{image.height}", str(image.tiles), grid, tokens, low)
    Console().print(table)


def _pairs() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    return table


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def show_keys(keys: Sequence[ApiKey]) -> None:
    """The keys and their limits, or that there are none."""
    table = Table()
    for column in ("name", "id", "made", "state", "limits"):
        table.add_column(column, overflow="fold")
    for key in keys:
        made = datetime.fromtimestamp(key.created_s, UTC).strftime("%Y-%m-%d")
        state = ("operator" if key.is_operator else "valid") if key.is_valid else "revoked"
        table.add_row(key.name, key.id, made, state, _limits(key.limits))
    Console().print(table if keys else "There are no API keys.")


def _limits(limits: OwnerLimits) -> str:
    """Those that differ from what a key has by itself."""
    named = {field.name: getattr(limits, field.name) for field in fields(limits)}
    own = [f"{name.replace('_', ' ')} {value}" for name, value in named.items() if value != getattr(NO_LIMITS, name)]
    return ", ".join(own) or "the server's"

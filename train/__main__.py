"""`python -m train` draws, trains and exports `tiny` from one seed, and goes on where it was interrupted."""

import argparse
import os
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from train.export import export
from train.learner import Learner, Stage
from train.pool import Pool
from train.tokenizer import train_tokenizer

STAGES = (
    Stage("tower", 2200, 32, tower_rate=2e-3, decoder_rate=0.0, dense_weight=1.0, is_bfloat16=True),
    Stage(
        "language",
        4000,
        8,
        tower_rate=0.0,
        decoder_rate=2e-3,
        dense_weight=0.0,
        is_bfloat16=True,
        starts_projector=True,
        picture_share=0.75,
    ),
    Stage(
        "joint",
        5000,
        12,
        tower_rate=1e-4,
        decoder_rate=1e-3,
        dense_weight=0.5,
        is_bfloat16=True,
        tower_every=3,
        picture_share=0.7,
    ),
)
NUM_SHARDS = 60
HELD_OUT_SHARD_SEED = 900_001
SAVE_EVERY_S = 120.0
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=HERE / "runs", help="where pictures and checkpoints are kept")
    parser.add_argument("--output", type=Path, default=HERE.parent / "src" / "lavatube" / "tiny")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    pool = Pool(options.runs / "pool", options.seed, NUM_SHARDS)
    pool.start_drawing()
    held_out = Pool(options.runs / "pool", HELD_OUT_SHARD_SEED, 1)
    held_out.start_drawing()
    tokenizer = _tokenizer(options.runs, options.seed)
    checkpoint = options.runs / "checkpoint.pt"
    for stage in STAGES:
        learner = train_stage(stage, options.seed, tokenizer, pool, checkpoint, console)
        if learner is None:
            continue
        scores = learner.measure(held_out.get(0))
        console.print(f"{stage.name}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        if stage.decoder_rate:
            export(learner.model.state_dict(), tokenizer, options.output)
            console.print(f"Exported {options.output}")


def train_stage(
    stage: Stage, seed: int, tokenizer: Tokenizer, pool: Pool, checkpoint: Path, console: Console
) -> Learner | None:
    """Run one stage to its end; None if the checkpoint is already past it."""
    saved = torch.load(checkpoint) if checkpoint.exists() else None
    names = [known.name for known in STAGES]
    place = names.index(stage.name)
    if saved and (names.index(saved["stage"]), saved["step"]) >= (place, stage.num_steps):
        return None
    learner = Learner(seed, tokenizer, stage, pool.get(0))
    first = 0
    if saved:
        is_same_stage = saved["stage"] == stage.name
        learner.load(saved, is_same_stage=is_same_stage)
        first = saved["step"] if is_same_stage else 0
    if stage.starts_projector and first == 0:
        learner.start_projector(pool.get(0))
    saved_at = time.monotonic()
    with _progress(console) as progress:
        task = progress.add_task(stage.name, total=stage.num_steps, completed=first, dense=0.0, language=0.0)
        for step, batch in pool.batches(stage.batch_size, first, stage.picture_share):
            if step >= stage.num_steps:
                break
            dense, language = learner.step(step, batch)
            progress.update(task, advance=1, dense=dense, language=language)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                saved_at = time.monotonic()
                _save(learner, stage, step + 1, checkpoint)
    _save(learner, stage, stage.num_steps, checkpoint)
    return learner


def _save(learner: Learner, stage: Stage, step: int, checkpoint: Path) -> None:
    partial = checkpoint.with_suffix(".partial")
    torch.save({"stage": stage.name, "step": step, **learner.state()}, partial)
    partial.rename(checkpoint)


def _tokenizer(runs: Path, seed: int) -> Tokenizer:
    path = runs / "tokenizer.json"
    if not path.exists():
        train_tokenizer(seed).save(str(path))
    return Tokenizer.from_file(str(path))


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} dense {task.fields[dense]:.3f} language {task.fields[language]:.3f}"),
        TimeRemainingColumn(),
        console=console,
    )


if __name__ == "__main__":
    main()

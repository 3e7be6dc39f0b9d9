"""The one command, with stages of a few steps: it exports a folder, and goes on where it stopped."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

import train.__main__ as command
import train.pack
import train.pool
from train.learner import Stage
from train.tokenizer import train_tokenizer

STAGES = (
    Stage("tower", 2, 2, tower_rate=1e-3, decoder_rate=0.0, dense_weight=1.0, is_bfloat16=False),
    Stage(
        "language", 1, 1, tower_rate=0.0, decoder_rate=1e-3, dense_weight=0.0, is_bfloat16=True, starts_projector=True
    ),
    Stage("joint", 1, 1, tower_rate=1e-3, decoder_rate=1e-3, dense_weight=0.3, is_bfloat16=True),
)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> train.pool.Pool:
    monkeypatch.setattr(train.pool, "SHARD_PICTURES", 8)
    monkeypatch.setattr(train.pack, "TEXT_TOKENS", 64)
    monkeypatch.setattr(command, "STAGES", STAGES)
    pool = train.pool.Pool(tmp_path / "pool", 1, num_shards=1)
    pool.draw_missing()
    return pool


def test_stages_follow_each_other_and_are_not_repeated(pool: train.pool.Pool, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(1, num_scenes=60)
    checkpoint = tmp_path / "checkpoint.pt"
    towers = []
    for stage in STAGES:
        learner = command.train_stage(stage, 1, tokenizer, pool, checkpoint, Console(quiet=True))
        assert learner is not None
        assert torch.load(checkpoint)["stage"] == stage.name
        towers.append(learner.model.model.vision_tower.embeddings.class_embedding.detach().clone())
    assert torch.equal(towers[0], towers[1])
    assert not torch.equal(towers[1], towers[2])
    for stage in STAGES:
        assert command.train_stage(stage, 1, tokenizer, pool, checkpoint, Console(quiet=True)) is None

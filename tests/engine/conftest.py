"""One tiny random model for all tests of the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lavatube.checkpoint.read import read_spec
from lavatube.engine.core import EngineCore
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.spec import ModelSpec
from tests.checkpoints import write_checkpoint
from tests.model.replaying import take_twins

NewCore = Callable[..., EngineCore]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), max_positions=256)


@pytest.fixture(scope="session")
def spec(checkpoint: Path) -> ModelSpec:
    return read_spec(checkpoint)


@pytest.fixture(scope="session")
def model(checkpoint: Path, spec: ModelSpec) -> Llava:
    torch.set_num_threads(1)  # more only wait for each other in a model this small
    return load_model(spec, checkpoint, torch.device("cpu"), torch.float32, lambda done, total: None)


@pytest.fixture(scope="session")
def twins(checkpoint: Path, spec: ModelSpec) -> Llava:
    """The same, with the definitions of the kernels for GPUs, so that its steps can be recorded."""
    return take_twins(load_model(spec, checkpoint, torch.device("cpu"), torch.float32, lambda done, total: None))


@pytest.fixture
def new_core(model: Llava, spec: ModelSpec) -> NewCore:
    """An engine around the session's model."""

    def build(
        *,
        num_blocks: int = 64,
        max_sequences: int = 8,
        max_step_tokens: int = 512,
        num_token_ids: int = 0,
        image_cache_bytes: int = 0,
        is_reusing: bool = True,
    ) -> EngineCore:
        return EngineCore(
            model,
            spec,
            num_blocks=num_blocks,
            max_sequences=max_sequences,
            max_step_tokens=max_step_tokens,
            num_token_ids=num_token_ids,
            image_cache_bytes=image_cache_bytes,
            is_reusing=is_reusing,
        )

    return build

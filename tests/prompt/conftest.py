"""The tokenizer of each kind that tokenizer.json files have, built once a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavatube.prompt.tokenizer import Tokenizer

from .builders import EOS, IMAGE, byte_level_tokenizer, sentencepiece_tokenizer, write_tokenizer

KINDS = {"byte-level": byte_level_tokenizer, "sentencepiece": sentencepiece_tokenizer}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp(request.param), KINDS[request.param]())


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer(tokenizer_folder, {IMAGE, EOS})

"""The models that are measured: real shapes, random weights, written once into a cache folder, in llava-hf's layout."""

from __future__ import annotations

import os
import random
import shutil
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.checkpoints import write_checkpoint
from tests.recipe import Recipe

CACHE: Final = Path(os.environ.get("BENCH_CACHE", "~/.cache/lavatube-bench")).expanduser()


@dataclass(frozen=True, slots=True)
class Shape:
    """One model, and the pictures that are shown to it: squares of `picture_size` pixels."""

    name: str
    recipe: Recipe
    picture_size: int

    def folder(self) -> Path:
        """Where its checkpoint lies; written now if it is not there yet."""
        folder = CACHE / self.name
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            with Console(stderr=True).status(f"writing random weights of {self.name} into {folder}, once"):
                write_checkpoint(part, **asdict(self.recipe))
            part.rename(folder)
        return folder

    @property
    def weights_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder().glob("*.safetensors"))


def _words(count: int) -> tuple[str, ...]:
    """Made-up words, for a tokenizer whose every id is about a word: pieces of text then come as tokens do."""
    rng = random.Random(0)
    return tuple(" " + "".join(rng.choices(string.ascii_lowercase, k=4)) for _ in range(count))


def _llava() -> Recipe:
    """CLIP ViT-L/14-336, and a Llama of 22 layers, 2048 wide."""
    return Recipe(
        dtype="bfloat16",
        image_size=336,
        patch_size=14,
        vision_hidden_size=1024,
        vision_intermediate_size=4096,
        vision_layers=24,
        vision_heads=16,
        hidden_size=2048,
        intermediate_size=5632,
        layers=22,
        heads=32,
        kv_heads=4,
        vocab_size=32064,
        max_positions=4096,
        sentences=_words(60_000),
    )


def _onevision() -> Recipe:
    """SigLIP so400m/14-384, and a Qwen2 of 24 layers, 896 wide; a square picture is two tiles."""
    return Recipe(
        family="llava_onevision",
        dtype="bfloat16",
        tower="siglip",
        image_size=384,
        patch_size=14,
        vision_hidden_size=1152,
        vision_intermediate_size=4304,
        vision_layers=26,
        vision_heads=16,
        select_layer=-1,
        select_strategy="full",
        max_tiles=9,
        language="qwen2",
        hidden_size=896,
        intermediate_size=4864,
        layers=24,
        heads=14,
        kv_heads=2,
        vocab_size=152000,
        rope_theta=1e6,
        max_positions=32768,
        tied=True,
        sentences=_words(200_000),
    )


def shapes() -> Sequence[Shape]:
    """`next-1.1b` cuts a picture of 672 pixels into five tiles, 2,928 tokens."""
    llava = _llava()
    return (
        Shape("llava-1.1b", llava, 336),
        Shape("next-1.1b", replace(llava, family="llava_next"), 672),
        Shape("onevision-0.5b", _onevision(), 384),
    )

"""A checkpoint that is damaged, or was never written by a friend, met as a person meets it: by starting with it.

Each is refused with one sentence that names the file, the key or tensor, and what to do, in bounded time and memory.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lavatube.errors import OperatorError
from lavatube.predictor import Predictor
from tests.checkpoints import CHAT_TEMPLATE, write_checkpoint

Damage = Callable[[Path], object]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
KEY = "model.language_model.layers.1.self_attn.k_proj.weight"
SHARD = "model-00002-of-00003.safetensors"


def drop_shard(folder: Path) -> None:
    (folder / SHARD).unlink()


def cut_shard(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-100])


def put(tensor: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def change(folder: Path) -> None:
        for path in folder.glob("model-*.safetensors"):
            tensors = load_file(path)
            if KEY in tensors:
                save_file(tensors | {KEY: tensor(tensors[KEY])}, path)

    return change


def configure(section: str, **values: object) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        (config[section] if section else config).update(values)
        path.write_text(json.dumps(config))

    return change


def take_config_of(family: str) -> Damage:
    def change(folder: Path) -> None:
        other = write_checkpoint(folder.parent / "other", family=family)
        for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
            (other / name).replace(folder / name)

    return change


def template(text: str) -> Damage:
    return lambda folder: (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + text)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_shard, ("model.safetensors.index.json", SHARD, "Fetch it again")),
        (cut_shard, (SHARD, "is cut", "Fetch it again")),
        (put(lambda old: torch.ones(64, 64)), (KEY, ".safetensors", "[64, 64], not [32, 64]", "config.json", "Fetch")),
        (put(lambda old: old * torch.nan), (KEY, ".safetensors", "NaN", "Fetch it again")),
        (take_config_of("vipllava"), ("config.json", "projector.norm.weight", ".safetensors", "Fetch")),
        (take_config_of("llava_next"), ("config.json", "newline", ".safetensors", "Fetch")),
        (configure("text_config", max_position_embeddings=10**9), ("config.json", "max_position_embeddings", "Put in")),
        (configure("text_config", vocab_size=10**7), ("config.json", "embed_tokens", "Fetch")),
        (configure("text_config", num_hidden_layers=1024), ("config.json", "layers.2", "Fetch")),
        (configure("", model_type="gpt2"), ("config.json", "gpt2", "docs/models.md")),
        (template(LOOP), ("chat_template.jinja", "too long", "Use the one")),
        (template("{{ 'a' * 10 ** 10 }}"), ("chat_template.jinja", "Use the one")),
    ],
    ids=[
        "missing shard", "cut shard", "shape", "NaN", "config of ViP-LLaVA", "config of NeXT", "position table",
        "vocabulary", "depth", "no LLaVA", "endless template", "huge template",
    ],
)  # fmt: skip
def test_it_is_refused_with_file_key_and_remedy(tmp_path: Path, damage: Damage, said: tuple[str, ...]) -> None:
    folder = write_checkpoint(tmp_path / "anything", num_shards=3)
    damage(folder)
    predictor = Predictor(str(folder), cache=tmp_path / "cache", device="cpu")
    begun, before_kib = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OperatorError) as refusal:
        predictor.setup()
    predictor.close()
    assert time.process_time() - begun < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 500 << 10
    sentence = str(refusal.value)
    for part in said:
        assert part in sentence
    assert len(sentence) < 1500
    assert "Traceback" not in sentence

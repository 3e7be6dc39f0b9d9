"""From a folder to a model: every spelling of names, every refusal, and the order of arrival."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lavatube.checkpoint.read import read_spec
from lavatube.errors import UnsupportedCheckpoint
from lavatube.memory import count_weights
from lavatube.model.linear import Linear
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.model.panels import Panels
from lavatube.spec import Quantize
from tests.checkpoints import write_checkpoint
from tests.random_weights import write_tensors

CPU = torch.device("cpu")
SIGLIP: dict[str, object] = {"tower": "siglip", "select_layer": -1, "select_strategy": "full"}
Change = Callable[[dict[str, Tensor]], object]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Llava:
    return load_model(read_spec(folder), folder, CPU, dtype, lambda done, total: None)


def changed(folder: Path, change: Change, **overrides: object) -> Path:
    """A checkpoint whose tensors `change` has been at."""
    write_checkpoint(folder, **overrides)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    write_tensors(folder, tensors)
    return folder


def weights(model: Llava) -> dict[str, Tensor]:
    """All of them, whether or not they are in panels."""
    plain = {name: weight for name, weight in model.state_dict().items() if ".panels." not in name}
    maps = {f"{path}.weight": module for path, module in model.named_modules() if isinstance(module, Linear)}
    return plain | {name: unpack(module.panels) for name, module in maps.items() if module.panels is not None}


def unpack(panels: Panels) -> Tensor:
    return panels.rows(torch.arange(panels.outputs))


def assert_same(one: Llava, other: Llava) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "overrides",
    [{"key_style": "old"}, {"key_style": "middle"}, {"num_shards": 5}, {"key_style": "old", "num_shards": 2}],
)
def test_names_and_shards_make_no_difference(tmp_path: Path, overrides: dict[str, object]) -> None:
    assert_same(load(write_checkpoint(tmp_path / "a")), load(write_checkpoint(tmp_path / "b", **overrides)))


def test_what_is_not_computed_is_left_out(tmp_path: Path) -> None:
    def clutter(tensors: dict[str, Tensor]) -> None:
        tower, decoder = "vision_tower.vision_model.", "language_model.model."
        tensors[f"{tower}embeddings.position_ids"] = torch.arange(17)
        tensors[f"{decoder}layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        tensors["vision_tower.text_model.final_layer_norm.weight"] = torch.ones(8)
        tensors["vision_tower.visual_projection.weight"] = torch.ones(8, 8)
        tensors["vision_tower.logit_scale"] = torch.ones(())
        del tensors[f"{tower}post_layernorm.weight"]
        del tensors[f"{tower}encoder.layers.2.mlp.fc1.weight"]  # after the selected state

    assert_same(
        load(write_checkpoint(tmp_path / "a")),
        load(changed(tmp_path / "b", clutter, key_style="old")),
    )


def test_tied_embeddings_are_one_tensor_whether_or_not_the_file_has_two(tmp_path: Path) -> None:
    one = load(write_checkpoint(tmp_path / "a", tied=True))
    assert_same(one, load(write_checkpoint(tmp_path / "b", tied=True, with_head=True)))
    assert one.head is None


def test_stored_and_computed_precision_are_independent(tmp_path: Path) -> None:
    wide = write_checkpoint(tmp_path / "wide")
    narrow = load(wide, torch.bfloat16)
    assert {weight.dtype for weight in narrow.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(
        weights(narrow), {name: weight.bfloat16() for name, weight in weights(load(wide)).items()}
    )
    assert narrow.vision.levels.dtype == torch.float32, "constants stay exact"
    assert narrow.language.inverse_frequencies.dtype == torch.float32
    assert_same(load(write_checkpoint(tmp_path / "narrow", dtype="bfloat16"), torch.bfloat16), narrow)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("quantize", ["none", "int8", "int4", "fp8"])
def test_tensors_may_be_stored_wider_or_narrower_than_config_says(
    tmp_path: Path, dtype: torch.dtype, quantize: Quantize
) -> None:
    def change(tensors: dict[str, Tensor], to: torch.dtype) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(dtype).to(to)

    def load_changed(name: str, to: torch.dtype) -> Llava:
        folder = changed(tmp_path / name, lambda tensors: change(tensors, to))
        return load_model(read_spec(folder), folder, CPU, torch.bfloat16, lambda done, total: None, quantize)

    assert_same(load_changed("a", dtype), load_changed("b", torch.float32))


def test_progress_ends_at_the_bytes_of_the_model_and_never_falls_back(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    calls: list[tuple[int, int]] = []
    model = load_model(read_spec(folder), folder, CPU, torch.bfloat16, lambda *call: calls.append(call))
    total = sum(weight.nbytes for weight in model.parameters())
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)
    assert {expected for _, expected in calls} == {total}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"tied": True, "select_layer": -1, "projector_bias": False, "kv_heads": 4},
        {"family": "llava_next", "language": "mistral"},
        {"family": "llava_onevision", "language": "qwen2", **SIGLIP},
        {"family": "vipllava", "select_layer": (-2, -3, 1)},
    ],
    ids=str,
)
def test_the_spec_counts_the_parameters_that_are_loaded(tmp_path: Path, overrides: dict[str, object]) -> None:
    folder = write_checkpoint(tmp_path, **overrides)
    assert read_spec(folder).num_parameters == sum(weight.numel() for weight in load(folder).parameters())


def _drop(name: str) -> Change:
    return lambda tensors: tensors.pop(name)


def _put(name: str, tensor: Tensor) -> Change:
    return lambda tensors: tensors.update({name: tensor})


NORM = "model.language_model.norm.weight"
KEY = "model.language_model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop(NORM), "1 missing: language.norm.weight"),
        (_drop(KEY), "1 missing: language.layers.1.self_attn.k_proj.weight"),
        (_put(NORM, torch.ones(65)), r"model.language_model.norm.weight \(model.safetensors\) is \[65\], not \[64\]"),
        (_put(KEY, torch.ones(64, 64)), r"k_proj.weight \(model.safetensors\) is \[64, 64\], not \[32, 64\]"),
        (_put(NORM, torch.ones(64, dtype=torch.int8)), r"norm.weight \(model.safetensors\) holds torch.int8"),
        (_put("model.image_newline", torch.ones(64)), "1 not of this model: model.image_newline"),
        (_put("model.language_model.layers.2.input_layernorm.weight", torch.ones(64)), "layers.2.input_layernorm"),
        (_put("model.vision_tower.encoder.layers.3.layer_norm1.bias", torch.ones(32)), "layers.3.layer_norm1"),
        (_put("language_model.model.norm.weight", torch.ones(64)), "both .* which mean the same"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, change: Change, message: str) -> None:
    folder = changed(tmp_path, change)
    with pytest.raises(UnsupportedCheckpoint, match=message):
        load(folder)


def test_a_long_list_of_faults_is_cut_short(tmp_path: Path) -> None:
    folder = changed(tmp_path, lambda tensors: [tensors.pop(name) for name in list(tensors)[:20]])
    with pytest.raises(UnsupportedCheckpoint, match=r"20 missing: .* and 12 more"):
        load(folder)


def test_a_head_that_should_be_tied_but_differs_is_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path, _put("lm_head.weight", torch.zeros(320, 64)), tied=True)
    with pytest.raises(UnsupportedCheckpoint, match="tie_word_embeddings"):
        load(folder)


HEAD = "model.vision_tower.head."


def test_what_siglip_was_pretrained_with_is_left_out(tmp_path: Path) -> None:
    def add_head(tensors: dict[str, Tensor]) -> None:
        tensors |= {f"{HEAD}probe": torch.ones(1, 1, 32), f"{HEAD}attention.in_proj_weight": torch.ones(96, 32)}

    assert_same(
        load(write_checkpoint(tmp_path / "a", **SIGLIP)),
        load(changed(tmp_path / "b", add_head, **SIGLIP)),
    )


@pytest.mark.parametrize(
    ("family", "stored_as", "message"),
    [
        ("llava_next", "llava", "1 not of this model: model.image_newline"),
        ("llava", "vipllava", "2 missing: projector.norm.weight, projector.norm.bias"),
        ("vipllava", "llava", "2 not of this model: model.multi_modal_projector.projector_layernorm"),
    ],
)
def test_the_config_of_another_family_is_refused(tmp_path: Path, family: str, stored_as: str, message: str) -> None:
    weights, config = (
        write_checkpoint(tmp_path / "a", family=family),
        write_checkpoint(tmp_path / "b", family=stored_as),
    )
    (weights / "model.safetensors").replace(config / "model.safetensors")
    with pytest.raises(UnsupportedCheckpoint, match=message):
        load(config)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [NORM, KEY, "model.vision_tower.embeddings.class_embedding"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, name: str, value: float) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[7] = value

    folder = changed(tmp_path, damage)
    said = rf"model.safetensors: {name} has values that are no numbers .*Fetch it again"
    with pytest.raises(UnsupportedCheckpoint, match=said):
        load(folder)


def test_delta_weights_are_recognised(tmp_path: Path) -> None:
    """v0 and v1 were published as differences from Llama: whole checkpoints by their names and shapes."""
    base = write_checkpoint(tmp_path / "base", seed=1)

    def subtract(tensors: dict[str, Tensor]) -> None:
        for name, value in load_file(base / "model.safetensors").items():
            if "language_model" in name:
                trained = value + 0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
                tensors[name] = trained - value

    with pytest.raises(UnsupportedCheckpoint, match=rf"model\.safetensors: {NORM} is nearly zero.*Apply them to their"):
        load(changed(tmp_path / "delta", subtract))


def test_weights_too_large_for_the_precision_are_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path, _put(NORM, torch.full((64,), 70000.0)))
    load(folder)
    with pytest.raises(UnsupportedCheckpoint, match=f"model.safetensors: {NORM} has values beyond what float16 holds"):
        load(folder, torch.float16)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, num_shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UnsupportedCheckpoint, match=r"model-00002-of-00003\.safetensors, which is not there"):
        load(tmp_path)


def test_a_config_far_larger_than_its_weights_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    spec = read_spec(folder)
    language = replace(
        spec.language, num_layers=256, hidden_size=1 << 17, intermediate_size=1 << 20, vocab_size=1 << 24
    )
    vision = replace(spec.vision, hidden_size=1 << 17, image_size=4096, num_layers=256)
    begun, before_kib = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsupportedCheckpoint, match=r"missing: .* and \d+ more; .* other than config.json says"):
        load_model(
            replace(spec, language=language, vision=vision), folder, CPU, torch.float32, lambda done, total: None
        )
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 500 << 10


def test_nothing_is_loaded_onto_a_model_of_another_depth(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    spec = read_spec(folder)
    deeper = replace(spec, language=replace(spec.language, num_layers=3))
    with pytest.raises(UnsupportedCheckpoint, match=r"9 missing: language\.layers\.2"):
        load_model(deeper, folder, CPU, torch.float32, lambda done, total: pytest.fail("began to load"))


@pytest.mark.parametrize("quantize", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("overrides", [{}, {"tied": True, "family": "llava_onevision", "language": "qwen2", **SIGLIP}])
def test_the_memory_plan_counts_the_quantised_weights(
    tmp_path: Path, quantize: Quantize, overrides: dict[str, object]
) -> None:
    folder = write_checkpoint(tmp_path, **overrides)
    model = load_model(read_spec(folder), folder, CPU, torch.bfloat16, lambda done, total: None, quantize)
    loaded_bytes = sum(weight.nbytes for weight in model.parameters())
    assert count_weights(read_spec(folder), "bfloat16", quantize) == loaded_bytes
    assert loaded_bytes < count_weights(read_spec(folder), "bfloat16")


LOADER = """
import sys, torch
from pathlib import Path
from lavatube.checkpoint.read import read_spec
from lavatube.model.load import load_model

def private_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

sizes = []
folder = Path(sys.argv[1])
model = load_model(
    read_spec(folder), folder, torch.device("cpu"), torch.bfloat16, lambda *_: sizes.append(private_kib()), "int4"
)
print(max(sizes) - sizes[0], sum(weight.nbytes for weight in model.parameters()) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_quantised_weights_never_lie_in_memory_as_they_were_stored(tmp_path: Path) -> None:
    """From the first tensor on. What is mapped of the files is not counted: the kernel takes it back when it likes."""
    folder = write_checkpoint(tmp_path, hidden_size=512, intermediate_size=2048, layers=6, dtype="bfloat16")
    ran = subprocess.run([sys.executable, "-c", LOADER, folder], check=True, capture_output=True, text=True)
    grown_kib, weights_kib = map(int, ran.stdout.split())
    stored_kib = (folder / "model.safetensors").stat().st_size // 1024
    assert stored_kib > 3 * weights_kib
    assert grown_kib < weights_kib + 16 * 1024 < stored_kib * 2 / 3

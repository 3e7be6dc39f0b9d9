"""The same checkpoint in the original layout: a llava-hf folder in, its weights and facts as its authors have them out.

The reverse of the conversion that made the llava-hf files, so that what is proven of one layout can be asked of the
other. Everything in the folder that must not be used is there, too, with other values.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TowerPlace = Literal["own", "inside", "beside"]
Tensors = dict[str, Tensor]

_OWN_TOWER: Final = "model.vision_tower.vision_tower.vision_model."
_NAMES: Final = (
    ("model.vision_tower.", _OWN_TOWER),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("model.image_newline", "model.image_newline"),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
)
_VIP_NAMES: Final = (
    ("model.multi_modal_projector.projector_layernorm.", "model.mm_projector.clip_layernorm."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.final_linear.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.final_linear.2."),
    *_NAMES,
)
_ARCHITECTURES: Final = {
    "llama": ("LlavaLlamaForCausalLM", "llava_llama"),
    "mistral": ("LlavaMistralForCausalLM", "llava_mistral"),
    "qwen2": ("LlavaQwenForCausalLM", "llava_qwen"),
}


def write_original(
    folder: Path,
    hf: Path,
    *,
    tower: TowerPlace = "inside",
    torch_files: bool = False,
    num_shards: int = 1,
    settings: dict[str, object] | None = None,
    change: Callable[[Tensors], object] = lambda tensors: None,
) -> Path:
    """Write the checkpoint in `hf` (names of the newest spelling) anew; `settings` go over its config.json.

    tower: the weights that count are the checkpoint's own, in `vision_tower` inside it, or in `../clip`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = json.loads((hf / "config.json").read_text())
    tensors = original_tensors(hf, source)
    decoy = {name: torch.full_like(value, 0.25) for name, value in tensors.items() if name.startswith(_OWN_TOWER)}
    place = {"own": folder / "vision_tower", "inside": folder / "vision_tower", "beside": folder.parent / "clip"}[tower]
    own = {name: value for name, value in tensors.items() if name.startswith(_OWN_TOWER)}
    write_tower(place, source, decoy if tower == "own" else own, torch_files=torch_files)
    if tower != "own":
        tensors |= decoy
    change(tensors)
    write_files(folder, tensors, torch_files=torch_files, num_shards=num_shards)
    config = _config(source, tower) | (settings or {})
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(hf / name, folder / name)
    return folder


def original_tensors(hf: Path, source: dict[str, object]) -> Tensors:
    """All tensors by the names of this layout, with the junk that old versions stored."""
    names = _VIP_NAMES if source["model_type"] == "vipllava" else _NAMES
    tensors = {_renamed(name, names): value for name, value in load_file(hf / "model.safetensors").items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.arange(4.0)
    tensors[f"{_OWN_TOWER}embeddings.position_ids"] = torch.arange(17)[None]
    return tensors


def write_tower(folder: Path, source: dict[str, object], tensors: Tensors, *, torch_files: bool = False) -> None:
    """A tower in its own repository: both halves of it, and an old preprocessor's config."""
    folder.mkdir(parents=True, exist_ok=True)
    vision = dict(source["vision_config"])  # type: ignore[call-overload]
    kind = str(vision["model_type"]).removesuffix("_vision_model")
    if kind == "siglip":  # whose last block this layout deletes
        vision["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "vision_config": vision}), encoding="utf-8")
    size = vision["image_size"]
    preprocessor = {"do_center_crop": True, "crop_size": size, "size": size, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    stored = {f"vision_model.{name.removeprefix(_OWN_TOWER)}": value for name, value in tensors.items()}
    stored |= {"text_model.final_layer_norm.weight": torch.ones(8), "logit_scale": torch.tensor(2.5)}
    write_files(folder, stored, torch_files=torch_files)


def write_files(folder: Path, tensors: Tensors, *, torch_files: bool, num_shards: int = 1) -> None:
    """Weights as safetensors, or as files of torch, whole or in shards with their index."""
    stem, suffix = ("pytorch_model", ".bin") if torch_files else ("model", ".safetensors")
    if num_shards == 1:
        _write_file(folder / f"{stem}{suffix}", tensors)
        return
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file_name = f"{stem}-{shard + 1:05d}-of-{num_shards:05d}{suffix}"
        part = {name: tensors[name] for name in list(tensors)[shard::num_shards]}
        _write_file(folder / file_name, part)
        weight_map |= dict.fromkeys(part, file_name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_file(path: Path, tensors: Tensors) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    old, new = next(pair for pair in names if name.startswith(pair[0]))
    return new + name.removeprefix(old)


def _config(source: dict[str, object], tower: TowerPlace) -> dict[str, object]:
    """The language model's facts at the top, and what is multimodal under `mm_*`."""
    text = dict(source["text_config"])  # type: ignore[call-overload]
    architecture, model_type = _ARCHITECTURES[text.pop("model_type")]
    rope = text.pop("rope_parameters")
    config = text | {
        "architectures": [architecture],
        "model_type": model_type,
        "rope_theta": rope["rope_theta"],
        "torch_dtype": source["dtype"],
        "mm_vision_tower": "../clip" if tower == "beside" else "somebody/some-tower",
        "mm_vision_select_layer": source["vision_feature_layer"],
        "mm_vision_select_feature": _feature(source),
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "unfreeze_mm_vision_tower": tower == "own",
        "image_aspect_ratio": "square",
    }
    if source["model_type"] == "vipllava":
        config["mm_vision_tower"] = "clip_4layers_336"
    if "image_grid_pinpoints" in source:
        grids = [[width, height] for height, width in source["image_grid_pinpoints"]]  # type: ignore[attr-defined]
        config |= {
            "mm_patch_merge_type": "spatial_unpad",
            "image_aspect_ratio": source.get("vision_aspect_ratio", "anyres"),
            "image_grid_pinpoints": grids,
        }
    return config


def _feature(source: dict[str, object]) -> str:
    return "cls_patch" if source.get("vision_feature_select_strategy") == "full" else "patch"

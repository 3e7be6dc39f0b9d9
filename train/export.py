"""Writes the model folder in the llava-hf layout, whole or not at all."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from train.llava import llava_config
from train.pool import IMAGE_SIZE
from train.tokenizer import BOS, EOS, IMAGE, PAD, SPECIALS, save_tokenizer
from train.tower import CLIP_MEAN, CLIP_STD, PATCH_SIZE

# From the names of transformers' modules to those of the published llava-hf checkpoints.
PREFIXES = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
DEFAULTS_OF_EVERY_CONFIG = (
    "_name_or_path", "chunk_size_feed_forward", "id2label", "label2id", "is_encoder_decoder", "output_attentions",
    "output_hidden_states", "problem_type", "return_dict",
)  # fmt: skip


def export(weights: dict[str, Tensor], tokenizer: Tokenizer, folder: Path) -> None:
    """Write every file beside the folder, then rename each into place, the weights last."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_tokenizer(tokenizer, partial)
    _write(partial / "config.json", _config())
    _write(partial / "generation_config.json", _generation_config())
    _write(partial / "preprocessor_config.json", _preprocessor_config())
    _write(partial / "processor_config.json", _processor_config())
    tensors = {checkpoint_name(name): tensor.detach().float().contiguous() for name, tensor in weights.items()}
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "model.safetensors").chmod(0o644)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.replace(folder / path.name)
    partial.rmdir()


def checkpoint_name(name: str) -> str:
    """Rename one tensor as llava-hf checkpoints do."""
    for ours, theirs in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours).removeprefix("vision_model.")
    raise ValueError(f"no llava-hf name for {name}")


def _config() -> dict[str, object]:
    config = llava_config()
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = torch.float32
    content = config.to_dict()
    for part in (content, content["text_config"], content["vision_config"]):
        for name in DEFAULTS_OF_EVERY_CONFIG:
            part.pop(name, None)
    # The name older readers of Llama configs look for.
    content["text_config"]["rope_theta"] = content["text_config"]["rope_parameters"]["rope_theta"]
    return dict(content)


def _generation_config() -> dict[str, object]:
    ids = {name: SPECIALS.index(token) for name, token in (("bos", BOS), ("eos", EOS), ("pad", PAD))}
    return {f"{name}_token_id": token_id for name, token_id in ids.items()} | {"do_sample": False}


def _preprocessor_config() -> dict[str, object]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,
        "do_center_crop": False,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }


def _processor_config() -> dict[str, object]:
    return {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": PATCH_SIZE,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")

"""A checkpoint's config files in, a ModelSpec out, with the reason of every decision.

Facts come from the files, never from a folder's name. Reads JSON and the chat template, nothing else: no torch, no
weights. A combination that this version can't serve is refused with what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lavatube.errors import UnsupportedCheckpoint
from lavatube.spec import (
    DTYPE_BYTES,
    Decision,
    LanguageSpec,
    ModelSpec,
    PixelMode,
    PixelSpec,
    ProjectorSpec,
    VisionSpec,
)

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)


def read_spec(folder: Path) -> ModelSpec:
    """Decide what the checkpoint in `folder` is.

    Raises: UnsupportedCheckpoint, with the file and key that stand in the way.
    """
    return _Reader(folder).spec()


class _Reader:
    """Reads the config files once and writes down why each choice was made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.decisions: list[Decision] = []
        self.config = self._json("config.json", is_required=True)
        processor = self._json("processor_config.json")
        self.preprocessor = self._json("preprocessor_config.json") or processor.get("image_processor") or {}
        self.generation = self._json("generation_config.json")
        self.tokenizer = self._json("tokenizer_config.json")

    def spec(self) -> ModelSpec:
        self._check_family()
        vision = self._vision(self.config["vision_config"])
        language = self._language(self.config["text_config"])
        return ModelSpec(
            family="llava",
            layout="llava-hf",
            vision=vision,
            pixels=self._pixels(vision),
            projector=ProjectorSpec(
                activation=self._one_of(self.config, "projector_hidden_act", "gelu", {"gelu"}),
                has_bias=self.config.get("multimodal_projector_bias", True),
            ),
            language=language,
            image_token_id=self._image_token_id(language),
            stop_token_ids=self._stop_token_ids(),
            dtype=self._dtype(),
            chat_template=self._chat_template(),
            decisions=tuple(self.decisions),
        )

    def _check_family(self) -> None:
        if "auto_map" in self.config:
            raise UnsupportedCheckpoint(
                "config.json names code of its own (auto_map), which is never run.",
                remedy="Use a checkpoint in a layout that needs no remote code.",
            )
        if "mm_vision_tower" in self.config:
            raise UnsupportedCheckpoint(
                "This is an original-layout checkpoint (config.json has mm_vision_tower), not read by this version.",
                remedy="Use its llava-hf conversion.",
            )
        model_type = self.config.get("model_type")
        if model_type != "llava" or not {"vision_config", "text_config"} <= self.config.keys():
            raise UnsupportedCheckpoint(
                f"config.json describes a model of type {model_type!r}; this version serves 'llava' (LLaVA 1.5) "
                "with vision_config and text_config."
            )
        self._decide("layout", "llava-hf", "config.json has vision_config and text_config")
        self._decide("family", "llava (1.5)", "config.json: model_type = llava")

    def _vision(self, config: Mapping[str, Any]) -> VisionSpec:
        tower = self._one_of(config, "model_type", "clip_vision_model", {"clip_vision_model"})
        layer = self.config.get("vision_feature_layer", -2)
        num_layers = config.get("num_hidden_layers", 12)
        if not isinstance(layer, int) or not -num_layers - 1 <= layer <= num_layers:
            raise UnsupportedCheckpoint(
                f"config.json: vision_feature_layer = {layer!r} is no hidden state of a tower of {num_layers} blocks."
            )
        strategy = self._one_of(self.config, "vision_feature_select_strategy", "default", {"default", "full"})
        vision = VisionSpec(
            image_size=config.get("image_size", 224),
            patch_size=config.get("patch_size", 32),
            hidden_size=config.get("hidden_size", 768),
            intermediate_size=config.get("intermediate_size", 3072),
            num_layers=num_layers,
            num_heads=config.get("num_attention_heads", 12),
            layer_norm_eps=config.get("layer_norm_eps", 1e-5),
            activation=self._one_of(config, "hidden_act", "quick_gelu", {"quick_gelu", "gelu"}),
            select_layer=layer,
            select_feature="patch" if strategy == "default" else "full",
        )
        stated = self.config.get("image_seq_length", vision.num_features)
        if stated != vision.num_features:
            raise UnsupportedCheckpoint(
                f"config.json: image_seq_length = {stated}, but the tower gives {vision.num_features} an image."
            )
        self._decide(
            "vision tower",
            f"{tower}, {vision.num_layers} blocks of width {vision.hidden_size}, "
            f"{vision.image_size} px in patches of {vision.patch_size}",
            "config.json: vision_config",
        )
        self._decide(
            "image features",
            f"hidden state {layer}, {'without' if strategy == 'default' else 'with'} the class token: "
            f"{vision.num_features} tokens an image",
            "config.json: vision_feature_layer, vision_feature_select_strategy",
        )
        return vision

    def _language(self, config: Mapping[str, Any]) -> LanguageSpec:
        self._one_of(config, "model_type", "llama", {"llama"})
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type != "default":
            raise UnsupportedCheckpoint(
                f"config.json: text_config has rotary embeddings of type {rope_type!r}; this version serves 'default'."
            )
        for key in ("attention_bias", "mlp_bias"):
            if config.get(key):
                raise UnsupportedCheckpoint(f"config.json: text_config.{key} is set; this version serves none.")
        hidden_size = config.get("hidden_size", 4096)
        num_heads = config.get("num_attention_heads", 32)
        language = LanguageSpec(
            hidden_size=hidden_size,
            intermediate_size=config.get("intermediate_size", 11008),
            num_layers=config.get("num_hidden_layers", 32),
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_dim=config.get("head_dim") or hidden_size // num_heads,
            vocab_size=config.get("vocab_size", 32000),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            max_positions=config.get("max_position_embeddings", 2048),
            activation=self._one_of(config, "hidden_act", "silu", {"silu"}),
            has_tied_embeddings=bool(
                self.config.get("tie_word_embeddings", False) or config.get("tie_word_embeddings", False)
            ),
        )
        self._decide(
            "language model",
            f"llama, {language.num_layers} layers of width {hidden_size}, "
            f"{num_heads} heads over {language.num_kv_heads} of keys and values, vocabulary {language.vocab_size}",
            "config.json: text_config",
        )
        self._decide("context", f"{language.max_positions} tokens", "config.json: text_config.max_position_embeddings")
        return language

    def _pixels(self, vision: VisionSpec) -> PixelSpec:
        config = self.preprocessor
        if not config:
            raise UnsupportedCheckpoint(
                "The checkpoint has no preprocessor_config.json, so how its images are cut is unknown.",
                remedy="Add the file from the checkpoint's own repository.",
            )
        if config.get("resample", 3) != 3:
            raise UnsupportedCheckpoint("preprocessor_config.json: only bicubic resampling (resample = 3) is served.")
        for key in ("do_resize", "do_rescale", "do_normalize"):
            if not config.get(key, True):
                raise UnsupportedCheckpoint(f"preprocessor_config.json: {key} = false is not served.")
        size = _edges(config.get("size", {"shortest_edge": 224}))
        has_crop = config.get("do_center_crop", True)
        crop = _edges(config.get("crop_size", {"height": 224, "width": 224})) if has_crop else size
        mode: PixelMode
        if isinstance(size, tuple):
            mode, resize, final = "stretch", size[0], size
            reason = "size has height and width"
        else:
            mode, resize, final = "crop", size, crop if isinstance(crop, tuple) else (crop, crop)
            reason = "size has a shortest edge, and the centre is cropped"
            if config.get("do_pad"):
                mode, reason = "pad", "do_pad is set"
            elif not has_crop:
                raise UnsupportedCheckpoint(
                    "preprocessor_config.json: a shortest edge without do_center_crop or do_pad."
                )
        if final != (vision.image_size, vision.image_size):
            raise UnsupportedCheckpoint(
                f"preprocessor_config.json makes images of {final[1]}x{final[0]}; the tower reads {vision.image_size}²."
            )
        self._decide("pixels", f"{mode} to {vision.image_size} px, bicubic", f"preprocessor_config.json: {reason}")
        return PixelSpec(
            mode=mode,
            size=vision.image_size,
            resize=resize,
            mean=_three(config.get("image_mean", CLIP_MEAN)),
            std=_three(config.get("image_std", CLIP_STD)),
            rescale=config.get("rescale_factor", 1 / 255),
        )

    def _image_token_id(self, language: LanguageSpec) -> int:
        token_id = self.config.get("image_token_index", self.config.get("image_token_id", 32000))
        if not 0 <= token_id < language.vocab_size:
            raise UnsupportedCheckpoint(
                f"config.json: image token {token_id} is outside the vocabulary of {language.vocab_size}."
            )
        self._decide("image token", str(token_id), "config.json: image_token_index")
        return int(token_id)

    def _stop_token_ids(self) -> tuple[int, ...]:
        sources: tuple[tuple[str, Mapping[str, Any]], ...] = (
            ("generation_config.json", self.generation),
            ("config.json", self.config),
            ("config.json: text_config", self.config["text_config"]),
        )
        for where, config in sources:
            value = config.get("eos_token_id")
            if value is not None:
                ids = tuple(value) if isinstance(value, list) else (int(value),)
                self._decide("stop tokens", ", ".join(map(str, ids)), f"{where}: eos_token_id")
                return ids
        self._decide("stop tokens", "2", "no file names one; Llama's own end token")
        return (2,)

    def _dtype(self) -> str:
        for config in (self.config, self.config["text_config"]):
            value = config.get("dtype") or config.get("torch_dtype")
            if value in DTYPE_BYTES:
                self._decide("stored dtype", value, "config.json: dtype")
                return str(value)
        self._decide("stored dtype", "float32", "config.json names none")
        return "float32"

    def _chat_template(self) -> str | None:
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            self._decide("chat template", path.name, "the file is there")
            return path.read_text(encoding="utf-8")
        for name, config in (
            ("chat_template.json", self._json("chat_template.json")),
            ("processor_config.json", self._json("processor_config.json")),
            ("tokenizer_config.json", self.tokenizer),
        ):
            template = config.get("chat_template")
            if isinstance(template, str):
                self._decide("chat template", name, "it has chat_template")
                return template
        self._decide("chat template", "llava_v1, built in", "the checkpoint has none")
        return None

    def _decide(self, subject: str, choice: str, reason: str) -> None:
        self.decisions.append(Decision(subject, choice, reason))

    def _one_of(self, config: Mapping[str, Any], key: str, default: str, served: set[str]) -> str:
        value = config.get(key, default)
        if value not in served:
            raise UnsupportedCheckpoint(
                f"config.json: {key} = {value!r} is not served by this version; {', '.join(sorted(served))} is."
            )
        return str(value)

    def _json(self, name: str, *, is_required: bool = False) -> dict[str, Any]:
        path = self.folder / name
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            if is_required:
                raise UnsupportedCheckpoint(f"There is no {name} in the checkpoint's folder.") from None
            return {}
        except (ValueError, RecursionError) as error:
            raise UnsupportedCheckpoint(f"{name} is not JSON: {error}.") from error
        if not isinstance(value, dict):
            raise UnsupportedCheckpoint(f"{name} is not a JSON object.")
        return value


def _edges(size: object) -> int | tuple[int, int]:
    """A processor's size: its shortest edge, or (height, width)."""
    match size:
        case int():
            return size
        case {"shortest_edge": int(edge)}:
            return edge
        case {"height": int(height), "width": int(width)}:
            return height, width
        case _:
            raise UnsupportedCheckpoint(f"preprocessor_config.json: a size of {size!r} is not understood.")


def _three(values: object) -> tuple[float, float, float]:
    match values:
        case [r, g, b] | (r, g, b):
            return float(r), float(g), float(b)
        case _:
            raise UnsupportedCheckpoint(f"preprocessor_config.json: {values!r} is not three numbers.")

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
        vision = self._vision(self._section("vision_config"))
        language = self._language(self._section("text_config"))
        return ModelSpec(
            family="llava",
            layout="llava-hf",
            vision=vision,
            pixels=self._pixels(vision),
            projector=ProjectorSpec(
                activation=self._one_of(self.config, "projector_hidden_act", "gelu", {"gelu"}),
                has_bias=bool(self.config.get("multimodal_projector_bias", True)),
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
        if "quantization_config" in self.config:
            raise UnsupportedCheckpoint(
                "config.json has a quantization_config; this version reads float32, float16 and bfloat16 weights.",
                remedy="Use the checkpoint that this one was quantized from.",
            )
        self._decide("layout", "llava-hf", "config.json has vision_config and text_config")
        self._decide("family", "llava (1.5)", "config.json: model_type = llava")

    def _vision(self, config: Mapping[str, Any]) -> VisionSpec:
        tower = self._one_of(config, "model_type", "clip_vision_model", {"clip_vision_model"})
        layer = self.config.get("vision_feature_layer", -2)
        num_layers = _count(config, "num_hidden_layers", 12)
        if not isinstance(layer, int) or not -num_layers - 1 <= layer <= num_layers:
            raise UnsupportedCheckpoint(
                f"config.json: vision_feature_layer = {layer!r} is no hidden state of a tower of {num_layers} blocks."
            )
        strategy = self._one_of(self.config, "vision_feature_select_strategy", "default", {"default", "full"})
        vision = VisionSpec(
            image_size=_count(config, "image_size", 224),
            patch_size=_count(config, "patch_size", 32),
            hidden_size=_count(config, "hidden_size", 768),
            intermediate_size=_count(config, "intermediate_size", 3072),
            num_layers=num_layers,
            num_heads=_count(config, "num_attention_heads", 12),
            layer_norm_eps=_number(config, "layer_norm_eps", 1e-5),
            activation=self._one_of(config, "hidden_act", "quick_gelu", {"quick_gelu", "gelu"}),
            select_layer=layer,
            select_feature="patch" if strategy == "default" else "full",
        )
        _check_divides(vision.num_heads, vision.hidden_size, "vision_config: heads do not divide its width")
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
            # Not image_seq_length: conversions leave its default of 576 behind for towers of any size.
            "config.json: vision_feature_layer, vision_feature_select_strategy; the tower's size",
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
        hidden_size = _count(config, "hidden_size", 4096)
        num_heads = _count(config, "num_attention_heads", 32)
        language = LanguageSpec(
            hidden_size=hidden_size,
            intermediate_size=_count(config, "intermediate_size", 11008),
            num_layers=_count(config, "num_hidden_layers", 32),
            num_heads=num_heads,
            num_kv_heads=_count(config, "num_key_value_heads", num_heads),
            head_dim=_count(config, "head_dim", hidden_size // num_heads),
            vocab_size=_count(config, "vocab_size", 32000),
            rms_norm_eps=_number(config, "rms_norm_eps", 1e-6),
            rope_theta=_number(rope, "rope_theta", _number(config, "rope_theta", 10000.0)),
            max_positions=_count(config, "max_position_embeddings", 2048),
            activation=self._one_of(config, "hidden_act", "silu", {"silu"}),
            has_tied_embeddings=bool(
                self.config.get("tie_word_embeddings", False) or config.get("tie_word_embeddings", False)
            ),
        )
        _check_divides(language.num_kv_heads, num_heads, "text_config: heads of keys do not divide those of queries")
        _check_divides(2, language.head_dim, "text_config: rotary embeddings need an even head_dim")
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
        kind = config.get("image_processor_type", config.get("feature_extractor_type", "CLIPImageProcessor"))
        if not str(kind).startswith(("CLIP", "LlavaImageProcessor")):
            raise UnsupportedCheckpoint(f"preprocessor_config.json: images are cut by a {kind}, not served yet.")
        if config.get("resample", 3) != 3:
            raise UnsupportedCheckpoint("preprocessor_config.json: only bicubic resampling (resample = 3) is served.")
        for key in ("do_resize", "do_rescale", "do_normalize"):
            if not config.get(key, True):
                raise UnsupportedCheckpoint(f"preprocessor_config.json: {key} = false is not served.")
        size = _edges(config.get("size", {"shortest_edge": 224}))
        has_crop = config.get("do_center_crop", True)
        crop = _edges(config.get("crop_size", {"height": 224, "width": 224})) if has_crop else size
        resized, final = _square(size), _square(crop)
        mode: PixelMode
        if config.get("do_pad"):
            mode, reason = "pad", "do_pad is set"
        elif isinstance(size, tuple) and resized == final:
            mode, reason = "stretch", "size has height and width"
        elif isinstance(size, int) and has_crop:
            mode, reason = "crop", "size has a shortest edge, and the centre is cropped"
        else:
            raise UnsupportedCheckpoint(
                f"preprocessor_config.json: size = {config.get('size')!r} with crop_size = {config.get('crop_size')!r} "
                f"and do_center_crop = {has_crop!r} is not served."
            )
        if final != (vision.image_size, vision.image_size):
            raise UnsupportedCheckpoint(
                f"preprocessor_config.json makes images of {final[1]}x{final[0]}; the tower reads {vision.image_size}²."
            )
        self._decide("pixels", f"{mode} to {vision.image_size} px, bicubic", f"preprocessor_config.json: {reason}")
        return PixelSpec(
            mode=mode,
            size=vision.image_size,
            resize=resized[0],
            mean=_three(config.get("image_mean", CLIP_MEAN)),
            std=_three(config.get("image_std", CLIP_STD)),
            rescale=_number(config, "rescale_factor", 1 / 255),
        )

    def _image_token_id(self, language: LanguageSpec) -> int:
        token_id = self.config.get("image_token_index", self.config.get("image_token_id", 32000))
        if not isinstance(token_id, int) or not 0 <= token_id < language.vocab_size:
            raise UnsupportedCheckpoint(
                f"config.json: image token {token_id!r} is outside the vocabulary of {language.vocab_size}."
            )
        self._decide("image token", str(token_id), "config.json: image_token_index")
        return token_id

    def _stop_token_ids(self) -> tuple[int, ...]:
        sources: tuple[tuple[str, Mapping[str, Any]], ...] = (
            ("generation_config.json", self.generation),
            ("config.json", self.config),
            ("config.json: text_config", self._section("text_config")),
        )
        for where, config in sources:
            value = config.get("eos_token_id")
            if value is not None:
                ids = tuple(value) if isinstance(value, list) else (value,)
                if not all(isinstance(token_id, int) for token_id in ids):
                    raise UnsupportedCheckpoint(f"{where}: eos_token_id = {value!r} is no token id.")
                self._decide("stop tokens", ", ".join(map(str, ids)), f"{where}: eos_token_id")
                return ids
        self._decide("stop tokens", "2", "no file names one; Llama's own end token")
        return (2,)

    def _dtype(self) -> str:
        for config in (self.config, self._section("text_config")):
            value = str(config.get("dtype") or config.get("torch_dtype"))
            if value in DTYPE_BYTES:
                self._decide("stored dtype", value, "config.json: dtype")
                return value
        self._decide("stored dtype", "float32", "config.json names none")
        return "float32"

    def _chat_template(self) -> str | None:
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UnsupportedCheckpoint(f"{path.name} is not UTF-8.") from error
            self._decide("chat template", path.name, "the file is there")
            return text
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

    def _section(self, key: str) -> Mapping[str, Any]:
        section = self.config[key]
        if not isinstance(section, dict):
            raise UnsupportedCheckpoint(f"config.json: {key} is not an object.")
        return section

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


def _square(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _three(values: object) -> tuple[float, float, float]:
    match values:
        case [int() | float() as r, int() | float() as g, int() | float() as b]:
            return float(r), float(g), float(b)
        case _:
            raise UnsupportedCheckpoint(f"preprocessor_config.json: {values!r} is not three numbers.")


def _count(config: Mapping[str, Any], key: str, default: int) -> int:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int) or value < 1:
        raise UnsupportedCheckpoint(f"config.json: {key} = {value!r} is not a positive whole number.")
    return value


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int | float) or value <= 0:
        raise UnsupportedCheckpoint(f"{key} = {value!r} is not a positive number.")
    return float(value)


def _check_divides(part: int, whole: int, fault: str) -> None:
    if whole % part:
        raise UnsupportedCheckpoint(f"config.json: {fault}: {part}, {whole}.")

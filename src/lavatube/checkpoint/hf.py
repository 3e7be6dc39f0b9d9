"""The llava-hf layout: `vision_config` and `text_config` side by side, with a processor's own files."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from lavatube.checkpoint.files import Folder
from lavatube.checkpoint.preprocessor import NEXT_GRIDS, ONEVISION_GRIDS, read_grids, read_pixels
from lavatube.checkpoint.prompting import (
    read_chat_template,
    read_dtype,
    read_stop_strings,
    read_stop_token_ids,
)
from lavatube.checkpoint.towers import (
    LANGUAGE_KINDS,
    MAX_LAYERS,
    VISION_KINDS,
    check_select_layer,
    describe_language,
    read_language,
    read_vision,
)
from lavatube.errors import UnsupportedCheckpoint
from lavatube.spec import (
    Decision,
    Family,
    LanguageSpec,
    Merge,
    ModelSpec,
    PixelSpec,
    ProjectorSpec,
    VisionSpec,
)

MAX_SELECTED: Final = 16


@dataclass(frozen=True, slots=True)
class _Family:
    """What a model type takes for granted where config.json says nothing; grids are (height, width)."""

    name: Family
    title: str
    vision: str = "clip_vision_model"
    language: str = "llama"
    select_layers: tuple[int, ...] = (-2,)
    select_strategy: str = "default"
    merge: Merge = "flat"
    grids: tuple[tuple[int, int], ...] = ()
    processor: str = "CLIPImageProcessor"
    image_token_id: int = 32000
    has_norm: bool = False


_NEXT: Final = _Family(
    "llava_next", "LLaVA-NeXT (1.6)", merge="unpad", grids=NEXT_GRIDS, processor="LlavaNextImageProcessor"
)
_FAMILIES: Final = {  # by model type
    "llava": _Family("llava", "LLaVA 1.5 and its kin"),
    "llava_next": _NEXT,
    "llava_next_video": replace(_NEXT, title="LLaVA-NeXT-Video, for pictures", image_token_id=32001),
    "llava_onevision": _Family(
        "llava_onevision",
        "LLaVA-OneVision",
        vision="siglip_vision_model",
        language="qwen2",
        select_layers=(-1,),
        select_strategy="full",
        merge="unpad",
        grids=ONEVISION_GRIDS,
        processor="LlavaOnevisionImageProcessor",
        image_token_id=151646,
    ),
    "vipllava": _Family("vipllava", "ViP-LLaVA", select_layers=(-2, -5, -8, -11, 6), has_norm=True),
}


def read_hf(folder: Folder) -> ModelSpec:
    """The spec of a checkpoint in this layout. Raises: UnsupportedCheckpoint."""
    return _Reader(folder).spec()


class _Reader:
    """Reads the config files once and writes down why each choice was made."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.decisions: list[Decision] = []
        self.config = folder.json("config.json")
        self.text_config = self.config.section("text_config")
        self.tokenizer = folder.json("tokenizer_config.json")

    def spec(self) -> ModelSpec:
        family = self._family()
        vision = self._vision(family)
        language = self._language(family)
        template, template_file = read_chat_template(self.folder, self._decide)
        builtin = self._builtin_template(family, language, is_used=template is None)
        tokenizer = self._tokenizer()
        generation = self.folder.json("generation_config.json")
        return ModelSpec(
            family=family.name,
            layout="llava-hf",
            fidelity="hf",
            vision=vision,
            pixels=self._pixels(family, vision),
            projector=self._projector(family),
            language=language,
            merge=family.merge,
            has_newline=family.merge == "unpad",
            image_token_id=self._image_token_id(family, language),
            stop_token_ids=read_stop_token_ids(
                (generation, self.config, self.text_config), language.vocab_size, self._decide
            ),
            stop_strings=read_stop_strings(template, builtin, self._decide),
            dtype=read_dtype((self.config, self.text_config), self._decide),
            template=template,
            template_file=template_file,
            builtin_template=builtin,
            tokenizer=tokenizer,
            is_legacy_tokenizer=self.tokenizer.flag("legacy", default=True),
            decisions=tuple(self.decisions),
        )

    def _family(self) -> _Family:
        model_type = self.config.get("model_type")
        family = _FAMILIES.get(str(model_type))
        if family is None or not {"vision_config", "text_config"} <= self.config.values.keys():
            raise UnsupportedCheckpoint(
                f"config.json describes a model of type {model_type!r:.80}; this version serves "
                f"{', '.join(_FAMILIES)} with vision_config and text_config."
            )
        self._decide("layout", "llava-hf", "config.json has vision_config and text_config")
        self._decide("family", family.title, f"config.json: model_type = {model_type}")
        return family

    def _vision(self, family: _Family) -> VisionSpec:
        config = self.config.section("vision_config")
        tower = config.one_of("model_type", family.vision, VISION_KINDS)
        strategy = family.select_strategy
        if not family.has_norm:  # ViP-LLaVA never asks: it drops the first row
            strategy = self.config.one_of("vision_feature_select_strategy", strategy, {"default", "full"})
        feature: Literal["patch", "full"] = "patch" if strategy == "default" else "full"
        layers = self._select_layers(family, config.count("num_hidden_layers", 12, MAX_LAYERS))
        vision = read_vision(config, VISION_KINDS[tower], layers, feature)
        if family.merge != "flat" and vision.num_features != vision.num_patches:
            raise UnsupportedCheckpoint(
                f"config.json: vision_feature_select_strategy = {strategy!r} leaves {vision.num_features} rows of "
                f"{vision.num_patches} patches, which can't be laid out as a map."
            )
        self._decide(
            "vision tower",
            f"{tower}, {vision.num_layers} blocks of width {vision.hidden_size}, "
            f"{vision.image_size} px in patches of {vision.patch_size}",
            config.where,
        )
        self._decide(
            "image features",
            f"hidden state {', '.join(map(str, layers))}, "
            f"{'without the first row' if feature == 'patch' else 'all rows'}: {vision.num_features} a tile",
            # Not image_seq_length: conversions leave its default of 576 behind for towers of any size.
            "config.json: vision_feature_layer, vision_feature_select_strategy; the tower's size",
        )
        return vision

    def _select_layers(self, family: _Family, num_layers: int) -> tuple[int, ...]:
        key = "vision_feature_layer" if "vision_feature_layer" in self.config else "vision_feature_layers"
        value = self.config.get(key, family.select_layers)
        layers = value if isinstance(value, list | tuple) else [value]
        if not 1 <= len(layers) <= MAX_SELECTED:
            raise UnsupportedCheckpoint(f"{self.config.name(key)} is no list of 1 to {MAX_SELECTED} layers.")
        return tuple(check_select_layer(layer, num_layers, self.config.name(key)) for layer in layers)

    def _projector(self, family: _Family) -> ProjectorSpec:
        activation = self.config.one_of("projector_hidden_act", "gelu", {"gelu"})
        norm = " after a norm" if family.has_norm else ""
        self._decide("projector", f"2 layers, {activation}{norm}", f"config.json: model_type = {family.name}")
        return ProjectorSpec(
            num_layers=2,
            activation=activation,
            has_bias=family.has_norm or self.config.flag("multimodal_projector_bias", default=True),
            has_norm=family.has_norm,
            norm_eps=self.config.number("projector_layernorm_eps", 1e-5),
        )

    def _language(self, family: _Family) -> LanguageSpec:
        config = self.text_config
        kind = LANGUAGE_KINDS[config.one_of("model_type", family.language, LANGUAGE_KINDS)]
        language = read_language(config, kind, is_tied=self.config.flag("tie_word_embeddings", default=False))
        self._decide("language model", describe_language(language), config.where)
        self._decide("context", f"{language.max_positions} tokens", config.name("max_position_embeddings"))
        return language

    def _pixels(self, family: _Family, vision: VisionSpec) -> PixelSpec:
        config = self.folder.json("preprocessor_config.json")
        config = config or self.folder.json("processor_config.json").section("image_processor")
        if not config:
            raise UnsupportedCheckpoint(
                "The checkpoint has no preprocessor_config.json, so how its images are cut is unknown.",
                remedy="Add the file from the checkpoint's own repository.",
            )
        pixels, reason = read_pixels(config, vision.image_size, family.processor)
        if (pixels.mode == "anyres") != bool(family.grids):
            raise UnsupportedCheckpoint(f"{reason} does not fit a model of type {family.name}.")
        if pixels.grids != read_grids(self.config, family.grids, vision.image_size):
            raise UnsupportedCheckpoint(
                f"image_grid_pinpoints of config.json and of {config.where} are not the same, so the features of an "
                "image would not fit its tokens."
            )
        pixels = replace(pixels, max_tiles=self._max_tiles(family))
        grids = f", {len(pixels.grids)} grids" if pixels.grids else ""
        limit = f", shrunk above {pixels.max_tiles} tiles" if pixels.max_tiles else ""
        self._decide("pixels", f"{pixels.mode} to {vision.image_size} px, bicubic{grids}{limit}", reason)
        layout = (
            "the whole image, then a map of its tiles without padding, a newline a row" if family.grids else "one tile"
        )
        self._decide("image layout", layout, f"config.json: model_type = {family.name}")
        return pixels

    def _max_tiles(self, family: _Family) -> int | None:
        if family.name != "llava_onevision":
            return None
        value = self.config.get("vision_aspect_ratio", "anyres_max_9")
        match = re.fullmatch(r"anyres_max_([1-9]\d{0,3})", str(value))
        if match is None:
            raise UnsupportedCheckpoint(
                f"config.json: vision_aspect_ratio = {value!r:.80} is not served; anyres_max_N is."
            )
        return int(match[1])

    def _image_token_id(self, family: _Family, language: LanguageSpec) -> int:
        key = "image_token_index" if "image_token_index" in self.config else "image_token_id"
        token_id = self.config.get(key, family.image_token_id)
        if type(token_id) is not int or not 0 <= token_id < language.vocab_size:
            raise UnsupportedCheckpoint(
                f"config.json: image token {token_id!r:.80} is outside the vocabulary of {language.vocab_size}."
            )
        self._decide("image token", str(token_id), self.config.name(key))
        return token_id

    def _builtin_template(self, family: _Family, language: LanguageSpec, *, is_used: bool) -> str:
        """Which of ours stands in where the checkpoint has none: chosen by the special tokens that it needs."""
        tokens = self._added_tokens()
        if family.has_norm:
            name, reason = "llava_v0", "ViP-LLaVA was trained with it"
        elif "<|eot_id|>" in tokens:
            name, reason = "llava_llama_3", "the tokenizer has <|eot_id|>"
        elif "<|im_end|>" in tokens:
            name, reason = ("qwen_1_5" if language.kind == "qwen2" else "chatml_direct"), "the tokenizer has <|im_end|>"
        elif language.kind == "mistral" and family.name == "llava_next":
            name, reason = "mistral_instruct", "a LLaVA-NeXT on Mistral"
        else:
            # Not llava_v1: conversions are prompted without its system sentence.
            name, reason = "vicuna_hub", "a Vicuna, as far as the tokenizer tells"
        if is_used:
            self._decide("chat template", f"{name}, built in", f"the checkpoint has none; {reason}")
        return name

    def _tokenizer(self) -> Literal["json", "sentencepiece"]:
        if self.folder.has("tokenizer.model") and not self.folder.has("tokenizer.json"):
            self._decide("tokenizer", "tokenizer.model (sentencepiece)", "there is no tokenizer.json")
            return "sentencepiece"
        self._decide("tokenizer", "tokenizer.json", "conversions are prompted with it")
        return "json"

    def _added_tokens(self) -> set[str]:
        entries = self.tokenizer.section("added_tokens_decoder").values.values()
        return {str(entry.get("content")) for entry in entries if isinstance(entry, dict)}

    def _decide(self, subject: str, choice: str, reason: str) -> None:
        self.decisions.append(Decision(subject, choice, reason))

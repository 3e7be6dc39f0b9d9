"""The original layout of `liuhaotian/*` and `lmms-lab/*`: the config.json of a language model, with `mm_*` keys.

Source: haotian-liu/LLaVA@c121f04 llava/model/builder.py and llava_arch.py; LLaVA-NeXT@df17966, the same.
"""

from __future__ import annotations

import re
from typing import Final

from lavatube.checkpoint.files import Folder, Section
from lavatube.checkpoint.original_vision import Eyes, read_eyes
from lavatube.checkpoint.parts import Parts, adapter_file, read_parts
from lavatube.checkpoint.prompting import read_dtype, read_stop_token_ids
from lavatube.checkpoint.towers import describe_language, read_language
from lavatube.errors import UnsupportedCheckpoint
from lavatube.spec import Decision, Family, LanguageKind, LanguageSpec, ModelSpec, ProjectorSpec

_KINDS: Final[dict[str, LanguageKind]] = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
    "llava": "llama",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_qwen": "qwen2",
}
_TITLES: Final[dict[Family, str]] = {
    "llava": "LLaVA 1.5 and before",
    "llava_next": "LLaVA-NeXT (1.6)",
    "llava_onevision": "LLaVA-OneVision",
    "vipllava": "ViP-LLaVA",
}
# What ends a turn of a template, where it is neither the end token of Llama nor one that config.json has to name.
_ENDS: Final = {
    "llava_v0": "###",
    "chatml_direct": "<|im_end|>",
    "qwen_1_5": "<|im_end|>",
    "llava_llama_3": "<|eot_id|>",
}
_LLAMA_2_POSITIONS: Final = 4096


def read_original(folder: Folder) -> ModelSpec:
    """The spec of a checkpoint in this layout. Raises: UnsupportedCheckpoint."""
    return _Reader(folder).spec()


class _Reader:
    """Reads the config files once and writes down why each choice was made."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.decisions: list[Decision] = []
        self.config = folder.json("config.json")
        self.parts: Parts = read_parts(folder.path)

    def spec(self) -> ModelSpec:
        self._decide("layout", "original", "config.json has mm_vision_tower")
        eyes = read_eyes(self.config, self.parts, self._decide)
        family = self._family(eyes)
        projector = self._projector(eyes)
        language = self._language()
        self._decide_parts()
        has_marks = self.config.flag("mm_use_im_start_end", default=False)
        special_ids = self._special_ids()
        template = self._template(family, projector, language, special_ids, has_marks=has_marks)
        stop_ids, stop_strings = self._stops(template, language, special_ids)
        self._decide("image token", "none of the vocabulary", "the layout puts features between pieces of text")
        return ModelSpec(
            family=family,
            layout="original",
            fidelity="original",
            vision=eyes.vision,
            pixels=eyes.pixels,
            projector=projector,
            language=language,
            merge=eyes.merge,
            has_newline="unpad" in str(self.config.get("mm_patch_merge_type", "")),
            image_token_id=language.vocab_size,
            stop_token_ids=stop_ids,
            stop_strings=stop_strings,
            dtype=read_dtype((self.config,), self._decide),
            template=None,
            builtin_template=template,
            tokenizer="sentencepiece" if self._has_sentencepiece(language) else "json",
            is_legacy_tokenizer=self._is_legacy(language),
            has_image_marks=has_marks,
            decisions=tuple(self.decisions),
        )

    def _family(self, eyes: Eyes) -> Family:
        family: Family
        if eyes.has_norm:
            family, reason = "vipllava", "config.json: mm_vision_tower selects several hidden states"
        elif eyes.pixels.mode != "anyres":
            family, reason = "llava", "config.json: image_aspect_ratio makes one tile of an image"
        elif eyes.pixels.max_tiles is None:
            family, reason = "llava_next", "config.json: image_aspect_ratio = anyres"
        else:
            family, reason = "llava_onevision", "config.json: image_aspect_ratio = anyres_max_N"
        self._decide("family", _TITLES[family], reason)
        return family

    def _projector(self, eyes: Eyes) -> ProjectorSpec:
        for key in ("s2", "mm_resampler_type"):
            if self.config.get(key):
                raise UnsupportedCheckpoint(f"config.json: {key} = {self.config.get(key)!r:.80} is not served.")
        kind = self.config.get("mm_projector_type", "linear")
        match = re.fullmatch(r"mlp([1-9])x_gelu", str(kind))
        if kind != "linear" and match is None:
            raise UnsupportedCheckpoint(
                f"config.json: mm_projector_type = {kind!r:.80} is not served; linear and mlpNx_gelu are."
            )
        self._decide("projector", str(kind), "config.json: mm_projector_type")
        num_layers = int(match[1]) if match else 1
        return ProjectorSpec(num_layers=num_layers, activation="gelu", has_bias=True, has_norm=eyes.has_norm)

    def _language(self) -> LanguageSpec:
        listed = self.config.get("architectures", [])
        architectures = listed if isinstance(listed, list) else []
        names = [str(name) for name in (*architectures, self.config.get("model_type"))]
        name = next((name for name in names if name in _KINDS), None)
        if name is None:
            raise UnsupportedCheckpoint(
                f"config.json: the language model {', '.join(names)!r:.200} is not served; {', '.join(_KINDS)} are."
            )
        language = read_language(self.config, _KINDS[name], is_tied=False)
        self._decide("language model", describe_language(language), f"config.json: {name}")
        self._decide("context", f"{language.max_positions} tokens", self.config.name("max_position_embeddings"))
        return language

    def _decide_parts(self) -> None:
        if self.parts.base is not None:
            adapter = adapter_file(self.folder.path)
            what = f"{adapter.name}, merged into" if adapter else "a projector on"
            self._decide("weights", f"{what} {self.parts.base.reference}", "there are no weights of a language model")

    def _special_ids(self) -> dict[str, int]:
        """Tokens that were added to the vocabulary, by their text."""
        listed = self.folder.json("added_tokens.json").values.items()
        ids = {token: token_id for token, token_id in listed if isinstance(token_id, int)}
        decoder = self.folder.json("tokenizer_config.json").section("added_tokens_decoder")
        for token_id, entry in decoder.values.items():
            if isinstance(entry, dict) and token_id.isdecimal():
                ids[str(entry.get("content"))] = int(token_id)
        added = self.folder.json("tokenizer.json").get("added_tokens", []) if not ids else []
        for entry in added if isinstance(added, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("id"), int):
                ids[str(entry.get("content"))] = entry["id"]
        return ids

    def _template(
        self,
        family: Family,
        projector: ProjectorSpec,
        language: LanguageSpec,
        special_ids: dict[str, int],
        *,
        has_marks: bool,
    ) -> str:
        """The layout does not say which; its own code goes by the name of the folder, which may be any."""
        is_llama_2 = language.max_positions >= _LLAMA_2_POSITIONS
        if language.kind == "qwen2":
            name, reason = "qwen_1_5", "a Qwen"
        elif language.kind == "mistral" and language.sliding_window and family == "llava":
            # Those on an instructed Mistral are younger, and have no window any more.
            name, reason = "vicuna_v1", "one square on a Mistral with a window, so on its base: BakLLaVA's training"
        elif language.kind == "mistral":
            name, reason = "mistral_instruct", "a Mistral"
        elif "<|eot_id|>" in special_ids:
            name, reason = "llava_llama_3", "the tokenizer has <|eot_id|>"
        elif "<|im_end|>" in special_ids:
            name, reason = "chatml_direct", "a Llama whose tokenizer has <|im_end|>"
        elif family == "vipllava":
            name, reason = "llava_v0", "ViP-LLaVA was trained with it"
        elif projector.num_layers > 1:
            name, reason = "llava_v1", "a Vicuna with a projector of several layers: 1.5 or 1.6"
        elif is_llama_2:
            name, reason = "llava_llama_2", f"a linear projector on a Llama of {language.max_positions} positions"
        elif has_marks:
            name, reason = "llava_v0", "a linear projector, and mm_use_im_start_end"
        else:
            name, reason = "llava_v1", "a linear projector without mm_use_im_start_end"
        self._decide("chat template", f"{name}, built in", reason)
        return name

    def _stops(
        self, template: str, language: LanguageSpec, special_ids: dict[str, int]
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What config.json says ends an answer, and the mark between turns: a token where it is one, else its text."""
        sources = (self.folder.json("generation_config.json"), self.config)
        ids = read_stop_token_ids(sources, language.vocab_size, self._decide)
        end = _ENDS.get(template)
        if end is None:
            return ids, ()
        token_id = special_ids.get(end, language.vocab_size)
        if token_id < language.vocab_size:
            self._decide("stop tokens of the template", f"{token_id} ({end})", f"{template} ends turns with it")
            return (*ids, token_id) if token_id not in ids else ids, ()
        self._decide("stop strings", end, f"{template} ends turns with it")
        return ids, (end,)

    def _has_sentencepiece(self, language: LanguageSpec) -> bool:
        """The layout's own code takes the slow tokenizer but for Mistral, where files for both are there."""
        has_both = self.folder.has("tokenizer.model") and self.folder.has("tokenizer.json")
        return self.folder.has("tokenizer.model") and not (has_both and language.kind == "mistral")

    def _is_legacy(self, language: LanguageSpec) -> bool:
        config: Section = self.folder.json("tokenizer_config.json")
        return language.kind == "mistral" or config.flag("legacy", default=True)

    def _decide(self, subject: str, choice: str, reason: str) -> None:
        self.decisions.append(Decision(subject, choice, reason))

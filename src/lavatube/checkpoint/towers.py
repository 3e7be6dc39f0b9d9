"""The config sections of both towers in, their specs out, the same in every layout.

What a section leaves out is the default of its own model type, as the published files rely on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lavatube.checkpoint.files import Section
from lavatube.errors import UnsupportedCheckpoint
from lavatube.spec import LanguageKind, LanguageSpec, VisionKind, VisionSpec

MAX_LAYERS: Final = 1024
MAX_WIDTH: Final = 1 << 17
MAX_IMAGE_SIZE: Final = 4096
MAX_PATCHES: Final = 1 << 16

VISION_KINDS: Final[dict[str, VisionKind]] = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}
LANGUAGE_KINDS: Final[dict[str, LanguageKind]] = {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2"}


@dataclass(frozen=True, slots=True)
class _VisionDefaults:
    patch_size: int
    activation: str
    layer_norm_eps: float


@dataclass(frozen=True, slots=True)
class _LanguageDefaults:
    intermediate_size: int
    num_kv_heads: int | None  # None: as many as of queries
    vocab_size: int
    max_positions: int
    has_qkv_bias: bool = False


_VISION: Final[dict[VisionKind, _VisionDefaults]] = {
    "clip": _VisionDefaults(patch_size=32, activation="quick_gelu", layer_norm_eps=1e-5),
    "siglip": _VisionDefaults(patch_size=16, activation="gelu_pytorch_tanh", layer_norm_eps=1e-6),
}
_LANGUAGE: Final[dict[LanguageKind, _LanguageDefaults]] = {
    "llama": _LanguageDefaults(11008, None, 32000, 2048),
    "mistral": _LanguageDefaults(14336, 8, 32000, 131072),
    "qwen2": _LanguageDefaults(22016, 32, 151936, 32768, has_qkv_bias=True),
}


def read_vision(
    config: Section, kind: VisionKind, select_layers: Sequence[int], select_feature: Literal["patch", "full"]
) -> VisionSpec:
    """The vision tower. Raises: UnsupportedCheckpoint."""
    defaults = _VISION[kind]
    vision = VisionSpec(
        kind=kind,
        image_size=config.count("image_size", 224, MAX_IMAGE_SIZE),
        patch_size=config.count("patch_size", defaults.patch_size, MAX_IMAGE_SIZE),
        hidden_size=config.count("hidden_size", 768, MAX_WIDTH),
        intermediate_size=config.count("intermediate_size", 3072, MAX_WIDTH),
        num_layers=config.count("num_hidden_layers", 12, MAX_LAYERS),
        num_heads=config.count("num_attention_heads", 12, MAX_WIDTH),
        layer_norm_eps=config.number("layer_norm_eps", defaults.layer_norm_eps),
        activation=config.one_of("hidden_act", defaults.activation, {"quick_gelu", "gelu", "gelu_pytorch_tanh"}),
        select_layers=tuple(select_layers),
        select_feature=select_feature,
    )
    if vision.hidden_size % vision.num_heads:
        raise UnsupportedCheckpoint(
            f"{config.where}: {vision.num_heads} heads do not divide a width of {vision.hidden_size}."
        )
    if not 1 <= vision.num_patches <= MAX_PATCHES:
        raise UnsupportedCheckpoint(
            f"{config.where}: patches of {vision.patch_size} in images of {vision.image_size} px make "
            f"{vision.num_patches} patches; 1 to {MAX_PATCHES} are served."
        )
    return vision


def check_select_layer(layer: object, num_layers: int, name: str) -> int:
    """One index into the hidden states of a tower, of which there is one more than of blocks."""
    if type(layer) is not int or not -num_layers - 1 <= layer <= num_layers:
        raise UnsupportedCheckpoint(f"{name} = {layer!r:.80} is no hidden state of a tower of {num_layers} blocks.")
    return layer


def read_language(config: Section, kind: LanguageKind, *, is_tied: bool) -> LanguageSpec:
    """The decoder; `is_tied` where another section says so. Raises: UnsupportedCheckpoint."""
    defaults = _LANGUAGE[kind]
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise UnsupportedCheckpoint(f"{config.name(key)} is set; this version serves none.")
    hidden_size = config.count("hidden_size", 4096, MAX_WIDTH)
    num_heads = config.count("num_attention_heads", 32, MAX_WIDTH)
    has_null = "num_key_value_heads" in config  # null: as many as of queries; missing: the default of the kind
    num_kv_heads = config.count("num_key_value_heads", num_heads if has_null else defaults.num_kv_heads or num_heads)
    language = LanguageSpec(
        kind=kind,
        hidden_size=hidden_size,
        intermediate_size=config.count("intermediate_size", defaults.intermediate_size, 8 * MAX_WIDTH),
        num_layers=config.count("num_hidden_layers", 32, MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=config.count("head_dim", max(1, hidden_size // num_heads), MAX_WIDTH),
        vocab_size=config.count("vocab_size", defaults.vocab_size),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(config),
        max_positions=config.count("max_position_embeddings", defaults.max_positions),
        activation=config.one_of("hidden_act", "silu", {"silu"}),
        has_tied_embeddings=is_tied or config.flag("tie_word_embeddings", default=False),
        has_qkv_bias=defaults.has_qkv_bias,
        sliding_window=_sliding_window(config, kind),
    )
    if num_heads % num_kv_heads:
        raise UnsupportedCheckpoint(
            f"{config.where}: {num_kv_heads} heads of keys do not divide {num_heads} of queries."
        )
    if language.head_dim % 2:
        raise UnsupportedCheckpoint(f"{config.where}: rotary embeddings need an even head_dim.")
    return language


def describe_language(language: LanguageSpec) -> str:
    """For a decision."""
    window = f", a window of {language.sliding_window} tokens" if language.sliding_window else ""
    return (
        f"{language.kind}, {language.num_layers} layers of width {language.hidden_size}, "
        f"{language.num_heads} heads over {language.num_kv_heads} of keys and values{window}, "
        f"vocabulary {language.vocab_size}"
    )


def _rope_theta(config: Section) -> float:
    rope = config.section("rope_parameters") or config.section("rope_scaling")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UnsupportedCheckpoint(
            f"{rope.where}: rotary embeddings of type {kind!r:.80}; this version serves 'default'."
        )
    return rope.number("rope_theta", config.number("rope_theta", 10000.0))


def _sliding_window(config: Section, kind: LanguageKind) -> int | None:
    """Mistral's window holds in all layers; Qwen2's must be turned on, and may hold in some."""
    if kind == "llama":
        return None
    if kind == "mistral":
        # A null says that there is none, a missing key that nobody changed the default.
        return config.count("sliding_window", 4096) if config.values.get("sliding_window", 0) is not None else None
    if not config.flag("use_sliding_window", default=False) or config.get("sliding_window", 4096) is None:
        return None
    window, num_layers = config.count("sliding_window", 4096), config.count("num_hidden_layers", 32, MAX_LAYERS)
    first = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if isinstance(first, int) and layer >= first else "full_attention"
        for layer in range(num_layers)
    ]
    if kinds == ["full_attention"] * num_layers:
        return None
    if kinds == ["sliding_attention"] * num_layers:
        return window
    raise UnsupportedCheckpoint(
        f"{config.where}: a sliding window in some layers only (use_sliding_window, max_window_layers, layer_types) "
        "is not served."
    )

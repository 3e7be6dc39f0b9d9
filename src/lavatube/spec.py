"""What a checkpoint is, as values: its towers, its preprocessing, its stop tokens, and the arithmetic of their sizes.

Pure: no torch, no files. `checkpoint` reads these off a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED_GROUPS: Final = {"int8": 256, "int4": 64}  # fp8 has one scale for each output
"""Inputs of a linear map whose weights share a scale."""

Quantize = Literal["none", "int8", "int4", "fp8"]

VisionKind = Literal["clip", "siglip"]
LanguageKind = Literal["llama", "mistral", "qwen2"]
PixelMode = Literal["crop", "pad", "stretch", "anyres"]
Family = Literal["llava", "llava_next", "llava_onevision", "vipllava"]
Layout = Literal["llava-hf", "original"]
Fidelity = Literal["original", "hf"]
Merge = Literal["flat", "spatial", "unpad"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that was decided, and the evidence for it."""

    subject: str
    choice: str
    reason: str


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The vision tower and which of its hidden states are the image's features.

    Several selected states stand side by side on the width. "patch" drops each state's first row, whatever it is:
    a tower without class token then loses its first patch, as the checkpoints that say so were trained.
    """

    kind: VisionKind
    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    layer_norm_eps: float
    activation: str
    select_layers: tuple[int, ...]
    select_feature: Literal["patch", "full"]

    @property
    def has_class_token(self) -> bool:
        return self.kind == "clip"

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.patches_per_side**2

    @property
    def num_features(self) -> int:
        """Rows that one tile becomes."""
        return self.num_patches + self.has_class_token - (self.select_feature == "patch")

    @property
    def feature_size(self) -> int:
        """Width of a row that goes into the projector."""
        return self.hidden_size * len(self.select_layers)

    @property
    def select_states(self) -> tuple[int, ...]:
        """The selected states counted from the front; state 0 is the embeddings, state n the output of block n."""
        return tuple(layer if layer >= 0 else self.num_layers + 1 + layer for layer in self.select_layers)

    @property
    def num_layers_run(self) -> int:
        """Blocks that the selected hidden states need."""
        return max(self.select_states)


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """How an RGB image becomes the squares that the tower reads.

    crop: shortest edge to `resize`, then the centre `size`²; pad: onto a square of the mean colour, then as crop;
    stretch: straight to `size`², whatever the aspect ratio; anyres: the whole image stretched, then the tiles of the
    grid that suits it.

    grids: (width, height) in pixels, in the order in which ties are decided.
    max_tiles: the N of anyres_max_N, above which a map of features is shrunk.
    several: what becomes of the images of a prompt that has more than one.
    rounding: how the unpadded edge becomes whole; int(x), or int(round(x, 7)).
    """

    mode: PixelMode
    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float
    grids: tuple[tuple[int, int], ...] = ()
    max_tiles: int | None = None
    several: Literal["same", "pad"] = "same"
    rounding: Literal["truncate", "round"] = "truncate"


@dataclass(frozen=True, slots=True)
class ProjectorSpec:
    """The perceptron between the tower and the decoder; of one layer, it is a linear map."""

    num_layers: int
    activation: str
    has_bias: bool
    has_norm: bool = False
    norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class LanguageSpec:
    """The decoder: Llama's, and what its kin do differently.

    sliding_window: how many tokens, itself included, a row sees; None for all before it.
    """

    kind: LanguageKind
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    activation: str
    has_tied_embeddings: bool
    has_qkv_bias: bool = False
    sliding_window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything about a checkpoint that other modules ask for.

    image_token_id: the placeholder of image features. Where the vocabulary has none it is `language.vocab_size`, one
    past the table: never embedded, never sampled.
    template: Jinja text of the checkpoint's own, from `template_file`; without one, `builtin_template` names ours.
    has_image_marks: an image stands between `<im_start>` and `<im_end>`.
    is_legacy_tokenizer: text after a special token gets another space in front (sentencepiece's dummy prefix).
    """

    family: Family
    layout: Layout
    fidelity: Fidelity
    vision: VisionSpec
    pixels: PixelSpec
    projector: ProjectorSpec
    language: LanguageSpec
    merge: Merge
    has_newline: bool
    image_token_id: int
    stop_token_ids: tuple[int, ...]
    stop_strings: tuple[str, ...] = ()
    dtype: str
    template: str | None
    template_file: str = ""
    builtin_template: str
    tokenizer: Literal["json", "sentencepiece"] = "json"
    is_legacy_tokenizer: bool = False
    has_image_marks: bool = False
    decisions: tuple[Decision, ...]

    @property
    def tokenizer_file(self) -> str:
        return "tokenizer.json" if self.tokenizer == "json" else "tokenizer.model"

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Keys and values of all layers."""
        return 2 * self.language.num_layers * self.language.num_kv_heads * self.language.head_dim * DTYPE_BYTES[dtype]

    @property
    def num_parameters(self) -> int:
        """Of the parts that run: the tower's blocks after the selected one are not counted."""
        language = self.language
        heads = 1 if language.has_tied_embeddings else 2
        tables = language.hidden_size * (heads * language.vocab_size + 1 + self.has_newline)
        return self._num_tower_parameters + self._num_projector_parameters + self._num_decoder_parameters + tables

    @property
    def _num_tower_parameters(self) -> int:
        vision = self.vision
        width = vision.hidden_size
        attention, perceptron = 4 * width * (width + 1), (2 * width + 1) * vision.intermediate_size + width
        embeddings = width * (3 * vision.patch_size**2 + vision.num_patches)
        # CLIP: the class token, its place, and the norm before the blocks; SigLIP: the bias of the patches.
        embeddings += width * (4 if vision.has_class_token else 1)
        return vision.num_layers_run * (attention + perceptron + 4 * width) + embeddings

    @property
    def _num_projector_parameters(self) -> int:
        hidden, features = self.language.hidden_size, self.vision.feature_size
        layers = features * hidden + (self.projector.num_layers - 1) * hidden**2
        return (
            layers
            + self.projector.num_layers * hidden * self.projector.has_bias
            + 2 * features * self.projector.has_norm
        )

    @property
    def _num_decoder_parameters(self) -> int:
        language = self.language
        query, key = language.num_heads * language.head_dim, language.num_kv_heads * language.head_dim
        matrices = language.hidden_size * (2 * query + 2 * key + 3 * language.intermediate_size + 2)
        return language.num_layers * (matrices + (query + 2 * key) * language.has_qkv_bias)

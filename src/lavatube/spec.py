"""What a checkpoint is, as values: its towers, its preprocessing, its stop tokens, and the arithmetic of their sizes.

Pure: no torch, no files. `checkpoint.py` reads these off a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}

PixelMode = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that was decided, and the evidence for it."""

    subject: str
    choice: str
    reason: str


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The CLIP tower and which of its hidden states are the image's features."""

    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    layer_norm_eps: float
    activation: str
    select_layer: int
    select_feature: Literal["patch", "full"]

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_features(self) -> int:
        """Rows that one tile becomes: its patches, and the class token where the checkpoint keeps it."""
        return self.num_patches + (self.select_feature == "full")

    @property
    def num_layers_run(self) -> int:
        """Blocks that the selected hidden state needs; state 0 is the embeddings."""
        return self.select_layer if self.select_layer >= 0 else self.num_layers + 1 + self.select_layer


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """How an RGB image becomes the square that the tower reads.

    crop: shortest edge to `resize`, then the centre `size`²; pad: onto a square of the mean colour, then as crop;
    stretch: straight to `size`², whatever the aspect ratio.
    """

    mode: PixelMode
    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float


@dataclass(frozen=True, slots=True)
class ProjectorSpec:
    """The two-layer perceptron between the tower and the decoder."""

    activation: str
    has_bias: bool


@dataclass(frozen=True, slots=True)
class LanguageSpec:
    """The Llama decoder."""

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


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything about a checkpoint that other modules ask for."""

    family: Literal["llava"]
    layout: Literal["llava-hf"]
    vision: VisionSpec
    pixels: PixelSpec
    projector: ProjectorSpec
    language: LanguageSpec
    image_token_id: int
    stop_token_ids: tuple[int, ...]
    dtype: str
    chat_template: str | None
    decisions: tuple[Decision, ...]

    def num_image_tokens(self, width: int, height: int) -> int:
        """Placeholders that an image of this size becomes; this family has one tile, so the size does not matter."""
        del width, height
        return self.vision.num_features

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Keys and values of all layers."""
        return 2 * self.language.num_layers * self.language.num_kv_heads * self.language.head_dim * DTYPE_BYTES[dtype]

    @property
    def num_parameters(self) -> int:
        """Of the parts that run: the tower's blocks after the selected one are not counted."""
        vision, language = self.vision, self.language
        tower = vision.num_layers_run * (
            4 * vision.hidden_size * (vision.hidden_size + 1)
            + 2 * vision.hidden_size * vision.intermediate_size
            + vision.intermediate_size
            + 5 * vision.hidden_size
        )
        tower += vision.hidden_size * (3 * vision.patch_size**2 + vision.num_patches + 1 + 1 + 2)
        projector = (vision.hidden_size + language.hidden_size) * language.hidden_size
        projector += 2 * language.hidden_size * self.projector.has_bias
        query, key = language.num_heads * language.head_dim, language.num_kv_heads * language.head_dim
        decoder = language.num_layers * (
            language.hidden_size * (2 * query + 2 * key + 3 * language.intermediate_size + 2)
        )
        heads = 1 if language.has_tied_embeddings else 2
        return tower + projector + decoder + language.hidden_size * (heads * language.vocab_size + 1)

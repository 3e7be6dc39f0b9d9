"""A LLaVA, for inference: pixels and token ids in, hidden states and logits out. Knows no requests and no files."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lavatube.geometry import ImagePlan
from lavatube.model.arrange import arrange
from lavatube.model.attention import KVCache, Layout
from lavatube.model.fused import Fused
from lavatube.model.language import LanguageModel
from lavatube.model.linear import Linear
from lavatube.model.native_attention import attention_of
from lavatube.model.projector import Projector
from lavatube.model.vision import VisionTower
from lavatube.spec import ModelSpec


class Llava(nn.Module):
    """Tower, projector, decoder and head, in the order in which they run."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.fused = Fused()
        self.vision = VisionTower(spec.vision, spec.pixels)
        self.projector = Projector(spec)
        self.newline = nn.Parameter(torch.empty(spec.language.hidden_size)) if spec.has_newline else None
        self.language = LanguageModel(spec.language)
        is_tied = spec.language.has_tied_embeddings
        self.head = None if is_tied else Linear(spec.language.hidden_size, spec.language.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        return self.language.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language.norm.weight.dtype

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Squares of images to features, each square on its own.

        Shapes: in (N, 3, size, size) uint8, on any device; out (N, features, hidden).
        """
        features: Tensor = self.projector(self.vision(pixels.to(self.device)))
        return features

    @torch.inference_mode()
    def encode_by_layer(self, pixels: Tensor) -> Iterator[Tensor | None]:
        """`encode_images` in pieces: nothing after each of the tower's blocks, and at last the features."""
        for features in self.vision.by_layer(pixels.to(self.device)):
            yield None if features is None else self.projector(features)

    @torch.inference_mode()
    def arrange(self, features: Tensor, plan: ImagePlan) -> Tensor:
        """What stands in the place of one image's placeholders: its base tile, then the map of the others.

        Shapes: in (tiles, features, hidden) as `encode_images` makes them; out (plan.num_tokens, hidden).
        """
        return arrange(features, plan, self.newline)

    @torch.inference_mode()
    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """A placeholder's id may lie behind the table: what stands there for it is never read.

        Shapes: in (T,), out (T, hidden).
        """
        embeddings: Tensor = self.language.embed_tokens(token_ids.clamp(max=self.language.embed_tokens.outputs - 1))
        return embeddings.to(self.dtype)

    @torch.inference_mode()
    def forward(self, embeddings: Tensor, cache: KVCache, layout: Layout) -> Tensor:
        """One step of all sequences: adds its rows to the cache, and returns their states after the last norm.

        Shapes: in and out (T, hidden).
        """
        attention = attention_of(cache, layout, self.language.sliding_window, self.fused)
        hidden: Tensor = self.language(embeddings, layout.positions, attention)
        return hidden

    @torch.inference_mode()
    def forward_by_layer(self, embeddings: Tensor, cache: KVCache, layout: Layout) -> Iterator[Tensor | None]:
        """`forward` in pieces: nothing after each of the decoder's blocks, and at last the states."""
        attention = attention_of(cache, layout, self.language.sliding_window, self.fused)
        yield from self.language.by_layer(embeddings, layout.positions, attention)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every id, also of those that only pad the vocabulary.

        Shapes: in (R, hidden), out (R, vocab) float32.
        """
        head = self.language.embed_tokens if self.head is None else self.head
        return head.product(hidden, torch.float32)

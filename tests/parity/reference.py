"""Our model and the one of `transformers`, from the same folder; and what the latter says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration
from transformers.utils import logging

from lavatube.checkpoint import read_spec
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.spec import ModelSpec

logging.disable_progress_bar()


@dataclass(frozen=True)
class Prompt:
    """Token ids, each image expanded to its placeholders, and the images' pixels. Shapes: (T,), (N, 3, S, S) uint8."""

    token_ids: Tensor
    pixels: Tensor


@dataclass(frozen=True)
class Pair:
    """`ours` on `device`; the reference always on the CPU in float32, where nothing rounds behind one's back."""

    folder: Path
    device: torch.device
    dtype: torch.dtype = torch.float32

    @cached_property
    def spec(self) -> ModelSpec:
        return read_spec(self.folder)

    @cached_property
    def ours(self) -> Llava:
        return load_model(self.spec, self.folder, self.device, self.dtype, lambda done, total: None)

    @cached_property
    def theirs(self) -> LlavaForConditionalGeneration:
        return self._their_model(torch.float32)

    def prompt(self, *parts: int | str, seed: int = 0) -> Prompt:
        """A number stands for so many random tokens, "image" for a random image."""
        generator = torch.Generator().manual_seed(seed)
        ids = [1]
        for part in parts:
            if isinstance(part, int):
                ids += torch.randint(10, 300, (part,), generator=generator).tolist()
            else:
                ids += [self.spec.image_token_id] * self.spec.vision.num_features
        size = self.spec.vision.image_size
        shape = (parts.count("image"), 3, size, size)
        return Prompt(torch.tensor(ids), torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))

    def embed(self, prompt: Prompt) -> Tensor:
        """Ours, with the images' features in place. Shapes: (T, hidden)."""
        embeddings = self.ours.embed_tokens(prompt.token_ids.to(self.device)).clone()
        if len(prompt.pixels):
            is_image = (prompt.token_ids == self.spec.image_token_id).to(self.device)
            embeddings[is_image] = self.ours.encode_images(prompt.pixels).flatten(0, 1)
        return embeddings

    @torch.inference_mode()
    def their_logits(self, prompt: Prompt, dtype: torch.dtype = torch.float32) -> Tensor:
        """Shapes: (T, vocab)."""
        model = self.theirs if dtype == torch.float32 else self._their_model(dtype)
        return model(**self._inputs(prompt)).logits[0].float()

    @torch.inference_mode()
    def their_greedy(self, prompt: Prompt, num_tokens: int) -> list[int]:
        lengths = {"min_new_tokens": num_tokens, "max_new_tokens": num_tokens}
        ids = self.theirs.generate(**self._inputs(prompt), do_sample=False, **lengths)
        return ids[0, len(prompt.token_ids) :].tolist()

    def their_next(self, prompt: Prompt, answer: list[int]) -> list[int]:
        """Their choice after the prompt and each beginning of `answer`; `answer` itself means: greedy gives the same.

        One pass without a cache, many times faster than `their_greedy`.
        """
        whole = Prompt(torch.cat([prompt.token_ids, torch.tensor(answer[:-1])]), prompt.pixels)
        return self.their_logits(whole)[-len(answer) :].argmax(-1).tolist()

    @torch.inference_mode()
    def their_features(self, pixels: Tensor) -> Tensor:
        """Shapes: (N, features, hidden)."""
        return torch.stack(list(self.theirs.get_image_features(self._normalize(pixels)).pooler_output))

    def _their_model(self, dtype: torch.dtype) -> LlavaForConditionalGeneration:
        return LlavaForConditionalGeneration.from_pretrained(self.folder, dtype=dtype).eval()

    def _inputs(self, prompt: Prompt) -> dict[str, Tensor]:
        ids = prompt.token_ids[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return inputs | ({"pixel_values": self._normalize(prompt.pixels)} if len(prompt.pixels) else {})

    def _normalize(self, pixels: Tensor) -> Tensor:
        """Written anew here, in float64, so that the reference shares nothing with what it judges."""
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.spec.pixels.mean, self.spec.pixels.std))
        return ((pixels.double() * self.spec.pixels.rescale).float() - mean) / std

"""Our model and the one of `transformers`, from the same folder; and what the latter says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import logging

from lavatube.checkpoint.read import read_spec
from lavatube.geometry import ImagePlan, plan_image
from lavatube.model.llava import Llava
from lavatube.model.load import load_model
from lavatube.spec import ModelSpec
from tests.model.driver import Driver, Stream

logging.disable_progress_bar()


Part = int | str | tuple[int, int]
"""So many random tokens; "image", a square of the tower's size; an image of (width, height)."""


@dataclass(frozen=True)
class Prompt:
    """Token ids, each image expanded to its placeholders; the tiles of all images, and how each is laid out.

    Shapes: token_ids (T,), pixels (tiles, 3, S, S) uint8. Sizes are (width, height).
    """

    token_ids: Tensor
    pixels: Tensor
    sizes: tuple[tuple[int, int], ...] = ()
    plans: tuple[ImagePlan, ...] = ()


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
    def theirs(self) -> PreTrainedModel:
        return self._their_model(torch.float32)

    def prompt(self, *parts: Part, seed: int = 0) -> Prompt:
        generator = torch.Generator().manual_seed(seed)
        size = self.spec.vision.image_size
        sizes = tuple((size, size) if part == "image" else part for part in parts if not isinstance(part, int))
        plans = tuple(plan_image(self.spec, *size, num_images=len(sizes)) for size in sizes)
        ids, rest = [1], iter(plans)
        for part in parts:
            if isinstance(part, int):
                ids += torch.randint(10, 300, (part,), generator=generator).tolist()
            else:
                ids += [self.spec.image_token_id] * next(rest).num_tokens
        shape = (sum(plan.tiles for plan in plans), 3, size, size)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return Prompt(torch.tensor(ids), pixels, sizes, plans)

    def image_rows(self, prompt: Prompt) -> list[Tensor]:
        """Ours, of each image. Shapes: (tokens, hidden) each."""
        if not prompt.plans:
            return []
        features = self.ours.encode_images(prompt.pixels).split([plan.tiles for plan in prompt.plans])
        return [self.ours.arrange(tiles, plan) for tiles, plan in zip(features, prompt.plans, strict=True)]

    def embed(self, prompt: Prompt) -> Tensor:
        """Ours, with the images' rows in place. Shapes: (T, hidden)."""
        embeddings = self.ours.embed_tokens(prompt.token_ids.to(self.device)).clone()
        if prompt.plans:
            is_image = (prompt.token_ids == self.spec.image_token_id).to(self.device)
            embeddings[is_image] = torch.cat(self.image_rows(prompt))
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
        whole = replace(prompt, token_ids=torch.cat([prompt.token_ids, torch.tensor(answer[:-1])]))
        return self.their_logits(whole)[-len(answer) :].argmax(-1).tolist()

    @torch.inference_mode()
    def their_image_rows(self, prompt: Prompt) -> list[Tensor]:
        """Shapes: (tokens, hidden) each."""
        return list(self.theirs.get_image_features(**self._image_inputs(prompt)).pooler_output)

    def _their_model(self, dtype: torch.dtype) -> PreTrainedModel:
        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=dtype).eval()

    def _inputs(self, prompt: Prompt) -> dict[str, Tensor]:
        ids = prompt.token_ids[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return inputs | (self._image_inputs(prompt) if prompt.plans else {})

    def _image_inputs(self, prompt: Prompt) -> dict[str, Tensor]:
        """Their processors' form: with anyres, each image's tiles padded to those of the largest."""
        pixels = self._normalize(prompt.pixels)
        if self.spec.pixels.mode != "anyres":
            return {"pixel_values": pixels}
        images = pixels.split([plan.tiles for plan in prompt.plans])
        sizes = torch.tensor([(height, width) for width, height in prompt.sizes])
        inputs = {"pixel_values": pad_sequence(images, batch_first=True), "image_sizes": sizes}
        if self.spec.pixels.several == "pad":
            inputs["batch_num_images"] = torch.tensor([len(images)])
        return inputs

    def _normalize(self, pixels: Tensor) -> Tensor:
        """Written anew here, in float64, so that the reference shares nothing with what it judges."""
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.spec.pixels.mean, self.spec.pixels.std))
        return ((pixels.double() * self.spec.pixels.rescale).float() - mean) / std


Pairs = Callable[..., Pair]
"""A device, and fields of a recipe, to the pair on its checkpoint."""


def our_logits(pair: Pair, prompt: Prompt, *borders: int) -> Tensor:
    """Logits of every position, the prompt cut at `borders`."""
    driver, stream = Driver(pair.ours, pair.spec), Stream()
    edges = [0, *borders, len(prompt.token_ids)]
    chunks = pair.embed(prompt).split([end - start for start, end in pairwise(edges)])
    return torch.cat([driver.step([(stream, chunk)])[0] for chunk in chunks]).cpu()


def assert_logits_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)

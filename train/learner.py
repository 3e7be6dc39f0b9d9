"""Takes one training step after another on the whole model. Knows nothing of files or of progress bars."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import Parameter, functional
from transformers import LlavaForConditionalGeneration

from train.attention import HIDDEN, use_in
from train.dense import DenseHead, dense_loss, label, score
from train.llava import NUM_IMAGE_TOKENS, build_llava
from train.optimiser import Optimisers
from train.pack import IGNORED, Packed, pack
from train.pool import KIND, Shard, X
from train.projector import start_projector
from train.scene import SHAPES
from train.tower import normalise, start_as_convolution


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the recipe.

    Units: rates: of layer matrices, by Muon. A decoder rate of zero leaves the language part out, a tower rate of zero
    keeps the tower as it is. Where both learn, the language loss moves the tower too; the tower learns in every n-th
    step, which is cheaper. A picture share below one leaves pictures of a single thing out. The forward and backward
    runs of a bfloat16 stage are computed in bfloat16, on weights in float32.
    """

    name: str
    num_steps: int
    batch_size: int
    tower_rate: float
    decoder_rate: float
    dense_weight: float
    is_bfloat16: bool
    starts_projector: bool = False
    tower_every: int = 1
    picture_share: float = 1.0


class Learner:
    """The model in training, with its dense head and its optimisers."""

    def __init__(self, seed: int, tokenizer: Tokenizer, stage: Stage, first: Shard) -> None:
        torch.manual_seed(seed)
        self.model = build_llava()
        use_in(self.model)
        self.head = DenseHead()
        self._tokenizer, self._stage, self._seed = tokenizer, stage, seed
        start_as_convolution(self.model.model.vision_tower, normalise(torch.from_numpy(first.pixels[:64])))
        self.optimisers = Optimisers(_groups(self.model, self.head, stage))

    def step(self, step: int, batch: Shard) -> tuple[float, float]:
        """Learn from one batch; return its dense and its language loss."""
        random = np.random.default_rng([self._seed, step])
        batch = flip(random, batch)
        dense = language = torch.zeros(())
        moves_tower = self._stage.tower_rate > 0 and step % self._stage.tower_every == 0
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._stage.is_bfloat16):
            with torch.set_grad_enabled(moves_tower):
                features = self.features(batch.pixels)
                if moves_tower and self._stage.dense_weight:
                    claims = tuple(claim.float() for claim in self.head(features))
                    dense = dense_loss(claims, label(batch.things))
            if self._stage.decoder_rate:
                packed = pack(random, self._tokenizer, batch.things)
                language = self.language_loss(features, packed)
        (self._stage.dense_weight * dense + language).backward()
        self.optimisers.step(step / self._stage.num_steps, step)
        return dense.item(), language.item()

    @torch.no_grad()
    def start_projector(self, shard: Shard, num_pictures: int = 800) -> None:
        """Aim the projector at the decoder's words, before the decoder learns to see."""
        core = self.model.model
        features = self.features(shard.pixels[:num_pictures])
        labels = label(shard.things[:num_pictures])
        words = core.language_model.embed_tokens.weight
        start_projector(core.multi_modal_projector, self.head, features, labels, words, self._tokenizer)

    def features(self, pixels: np.ndarray) -> Tensor:
        """Run the tower. Shapes: pixels (n, H, W, 3) uint8; out (n, patches, tower width), without the class token."""
        tower = self.model.model.vision_tower
        output = tower(normalise(torch.from_numpy(pixels)), output_hidden_states=True)
        return output.hidden_states[-1][:, 1:]

    def language_loss(self, features: Tensor, packed: Packed) -> Tensor:
        """Run the decoder over packed conversations; mean loss of an answer's token."""
        core = self.model.model
        words = core.language_model.embed_tokens(packed.ids)
        image = core.multi_modal_projector(features)
        end = packed.image_start + NUM_IMAGE_TOKENS
        words = torch.cat([words[:, : packed.image_start], image, words[:, end:]], dim=1)
        bias = torch.where(packed.mask, 0.0, HIDDEN).to(image.dtype)
        hidden = core.language_model(
            inputs_embeds=words, attention_mask=bias, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
        spoken = packed.labels != IGNORED
        return functional.cross_entropy(self.model.lm_head(hidden[spoken]).float(), packed.labels[spoken])

    @torch.no_grad()
    def measure(self, shard: Shard, num_pictures: int = 256) -> dict[str, float]:
        """Score the dense claims on held-out pictures."""
        return score(self.head(self.features(shard.pixels[:num_pictures])), label(shard.things[:num_pictures]))

    def state(self) -> dict[str, object]:
        return {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimisers": self.optimisers.state(),
        }

    def load(self, state: Mapping[str, object], *, is_same_stage: bool) -> None:
        """Take up the weights, and the optimisers' memory too if the stage is the same."""
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        if is_same_stage:
            self.optimisers.load(state["optimisers"])


def flip(random: np.random.Generator, batch: Shard) -> Shard:
    """Mirror half of the pictures of shapes; letters and digits have no mirror image."""
    chosen = (batch.things[:, 0, KIND] < len(SHAPES)) & (random.random(len(batch.pixels)) < 0.5)
    pixels = np.where(chosen[:, None, None, None], batch.pixels[:, :, ::-1], batch.pixels)
    things = batch.things.copy()
    mirrored = np.where(things[..., KIND] >= 0, 1 - things[..., X], things[..., X])
    things[..., X] = np.where(chosen[:, None], mirrored, things[..., X])
    return Shard(pixels, things)


def _groups(
    model: LlavaForConditionalGeneration, head: DenseHead, stage: Stage
) -> list[tuple[Mapping[str, Parameter], float, float]]:
    core = model.model
    tower = {name: weight for name, weight in core.vision_tower.named_parameters() if "post_layernorm" not in name}
    tower |= {f"head.{name}": weight for name, weight in head.named_parameters()}
    groups: list[tuple[Mapping[str, Parameter], float, float]] = []
    if stage.tower_rate:
        groups.append((tower, stage.tower_rate, stage.tower_rate / 2))
    if stage.decoder_rate:
        decoder = dict(core.language_model.named_parameters())
        decoder |= {f"projector.{name}": weight for name, weight in core.multi_modal_projector.named_parameters()}
        decoder |= {f"lm_head.{name}": weight for name, weight in model.lm_head.named_parameters()}
        groups.append((decoder, stage.decoder_rate, stage.decoder_rate))
    return groups

"""The predictor that Cog's own server runs: its inputs are those of the original hosted LLaVA, and two more.

The model is `tiny` unless `LAVATUBE_MODEL` (or Cog's `COG_WEIGHTS`) names another.
"""

import cog
from cog import BasePredictor, ConcatenateIterator, Input, Path

from lavatube.predictor import Predictor as Lavatube


class Predictor(BasePredictor):  # type: ignore[misc]
    def setup(self) -> None:
        """Phases 1 and 2, once."""
        self.lavatube = Lavatube()
        self.lavatube.setup()

    @cog.streaming  # type: ignore[untyped-decorator]
    def predict(
        self,
        image: Path = Input(description="The picture to ask about."),
        prompt: str = Input(description="The question or instruction."),
        top_p: float = Input(
            description="Sample from the most likely tokens whose probabilities add up to this.",
            default=1.0,
            ge=0.0,
            le=1.0,
        ),
        temperature: float = Input(
            description="0 is greedy and repeatable; higher is more varied.", default=0.2, ge=0.0
        ),
        max_tokens: int = Input(description="Most tokens to answer with.", default=1024, ge=0),
        seed: int | None = Input(description="Makes sampling repeatable.", default=None, ge=0),
        top_k: int = Input(description="Sample from this many most likely tokens; 0: all.", default=0, ge=0),
    ) -> ConcatenateIterator[str]:
        """Phase 3: the answer, piece by piece."""
        yield from self.lavatube.predict(
            image=image,
            prompt=prompt,
            top_p=top_p,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            top_k=top_k,
        )

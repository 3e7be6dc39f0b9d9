"""The predictor that the real Cog server runs for the comparison: paced text, as many at once as asked for."""

import asyncio
import os

import cog
from cog import AsyncConcatenateIterator, BasePredictor

PERIOD_S = float(os.environ["BENCH_PERIOD_S"])


class Predictor(BasePredictor):
    async def setup(self) -> None:
        """Nothing to load."""

    @cog.streaming
    async def predict(self, prompt: str, max_tokens: int) -> AsyncConcatenateIterator[str]:
        for _ in range(max_tokens):
            await asyncio.sleep(PERIOD_S)
            yield "word "

"""What goes on beside all predictions of a server: the work of dead ones is taken on, what is old is forgotten."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from lavatube.errors import StorageUnavailable
from lavatube.predictions.leases import LeaseLost
from lavatube.predictions.scribe import Scribe
from lavatube.predictions.service import PredictionService

logger = logging.getLogger(__name__)

ROUND_S: Final = 1.0


async def keep_journal(service: PredictionService, scribe: Scribe) -> None:
    """For ever. The first round takes on what the server before this one has left."""
    while True:
        try:
            await scribe.keep_up()
            await service.adopt()
        except (StorageUnavailable, LeaseLost) as error:
            logger.warning("the journal is not kept up: %r", error)
        except Exception:
            logger.exception("the journal is not kept up: a defect")
        await asyncio.sleep(ROUND_S)

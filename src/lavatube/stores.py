"""What the server has of its database: uploads and secrets for the routes, webhooks, the journal of predictions.

The one place where the tables' users and the protocols' views of predictions are put together.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from hashlib import sha256
from typing import Final

from sqlalchemy import Engine

from lavatube.errors import StorageUnavailable
from lavatube.predictions.files import FileLimits, FileStore
from lavatube.predictions.leases import LeaseLost, Leases
from lavatube.predictions.outbox import Outbox
from lavatube.predictions.postman import Postman
from lavatube.predictions.revival import keep_journal
from lavatube.predictions.scribe import JournalLimits, Scribe
from lavatube.predictions.server_secrets import Secrets
from lavatube.predictions.service import PredictionService
from lavatube.predictions.webhooks import Webhooks
from lavatube.serve import cog, replicate
from lavatube.serve.kept import Kept
from lavatube.settings import MIB, Settings
from lavatube.weights.provision import Provisioned

logger = logging.getLogger(__name__)

WEBHOOK_GRACE_S: Final = 5.0


class Stores:
    """Made on the event loop."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._leases = Leases(engine)
        self._outbox = Outbox(engine, holder=lambda: self._leases.holder)
        self._limits = JournalLimits(settings.keep_s, settings.keep_mib * MIB)
        secrets = Secrets(engine)
        postman = Postman(settings.webhook_urls, settings.webhook_auth_token)
        renders = {cog.ORIGIN: cog.render, replicate.ORIGIN: replicate.render}
        self.kept = Kept(secrets, FileStore(engine, FileLimits(max_bytes=settings.max_image_mib * MIB)), postman)
        self.webhooks = Webhooks(postman, self._outbox, secrets, renders)
        self.scribe: Scribe | None = None
        self._keeping: asyncio.Task[None] | None = None

    def open_journal(self, provisioned: Provisioned) -> Scribe:
        """Of the predictions of one model; others wait for a server of their own."""
        model = sha256(f"{provisioned.source} {provisioned.set_digest}".encode()).hexdigest()
        self.scribe = Scribe(
            self._engine,
            self._outbox,
            self._leases,
            last_word=self.webhooks.last_word,
            model=model,
            limits=self._limits,
        )
        return self.scribe

    def keep(self, service: PredictionService) -> None:
        """Take on what the server before this one has left, and be there when another one dies."""
        assert self.scribe is not None
        self._keeping = asyncio.create_task(keep_journal(service, self.scribe))

    async def close(self) -> None:
        """After the last prediction: webhooks leave, then the server leaves the others."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self.webhooks.close(WEBHOOK_GRACE_S)
        if self.scribe is not None:
            with suppress(StorageUnavailable, LeaseLost):  # they find out by themselves
                await self.scribe.close()

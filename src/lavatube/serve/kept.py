"""What the routes reach of the database besides predictions: secrets, uploaded files, and who sends webhooks."""

from __future__ import annotations

from dataclasses import dataclass

from lavatube.predictions.files import FileStore
from lavatube.predictions.postman import Postman
from lavatube.predictions.server_secrets import Secrets


@dataclass(frozen=True, slots=True)
class Kept:
    """Secrets and files block; call them from a thread."""

    secrets: Secrets
    files: FileStore
    postman: Postman

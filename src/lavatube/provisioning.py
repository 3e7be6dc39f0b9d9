"""Settings become the options of phase 1. Apart from `assembly`: what fetches must be up long before what answers."""

from __future__ import annotations

from pathlib import Path

from lavatube.container import container_bytes
from lavatube.errors import InvalidSetting
from lavatube.settings import Settings
from lavatube.trace import Trace
from lavatube.weights.options import Policy, ProvisionOptions, connections_within


def provision_options(settings: Settings) -> ProvisionOptions:
    """Raises: InvalidSetting."""
    return ProvisionOptions(
        cache=settings.cache_folder,
        lock=Path(settings.lock) if settings.lock else None,
        allow_unverified=settings.allow_unverified,
        hf_endpoint=settings.hf_endpoint,
        hf_token=settings.hf_token,
        hf_cache=settings.hf_cache_folder,
        mirrors=tuple(uri.strip() for uri in settings.mirrors.split(",") if uri.strip()),
        bucket_endpoint=settings.bucket_endpoint,
        bucket_unsigned=settings.bucket_unsigned,
        base=Path(settings.base_cache).expanduser().absolute() if settings.base_cache else None,
        is_thorough=settings.verify == "full",
        policy=Policy(max_connections=connections_within(container_bytes())),
        trace=open_trace(settings.trace),
    )


def open_trace(path: str) -> Trace:
    """Raises: InvalidSetting, if the file can't be written."""
    try:
        return Trace(path)
    except OSError as error:
        raise InvalidSetting(
            f"trace: {path} can't be written: {error.strerror}.", remedy="Name another file."
        ) from error

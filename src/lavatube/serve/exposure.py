"""Who can reach the server at its address, and whether that is meant: without a key, this machine alone."""

from __future__ import annotations

import ipaddress
import logging

from lavatube.errors import InvalidSetting
from lavatube.serve.auth import Keyring
from lavatube.settings import Settings

logger = logging.getLogger(__name__)


def check_exposure(keyring: Keyring, settings: Settings) -> None:
    """Raises: InvalidSetting, where anybody on the network could use the server without a key."""
    if keyring.is_asking or settings.insecure or _is_this_machine(settings.host):
        return
    raise InvalidSetting(
        f"Others could use the server at {settings.host} without any key.",
        remedy="Set LAVATUBE_API_KEY or use `lavatube keys add`; where you trust the network, --insecure allows it.",
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tell_who_may_call(keyring: Keyring, settings: Settings) -> None:
    """In the log, once the server listens."""
    if keyring.is_asking:
        logger.info("an API key is asked for; %d are valid", keyring.num_valid)
    elif _is_this_machine(settings.host):
        logger.info("no API key is asked for: only this machine can call; LAVATUBE_API_KEY or `lavatube keys` set one")
    else:
        logger.warning("no API key is asked for, and anybody who reaches %s can call (--insecure)", settings.host)

"""Hugging Face hub access that does not wait for timeouts without a network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

from huggingface_hub import constants


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Set the hub client to offline mode (cache only) if the host name of the hub cannot be resolved.

    Otherwise the client retries for most of a minute per file. With a proxy, which resolves names itself, nothing is
    changed.
    """
    if _reachable():
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable() -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True

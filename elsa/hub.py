"""Whether the model hub can be reached, asked once and quickly, so that being offline is said at once."""

import os
import socket
from functools import cache
from urllib.parse import urlsplit

from huggingface_hub import constants


@cache
def reachable() -> bool:
    """True if a connection to the hub opens within 3 seconds (or a proxy is set: then only a request can tell)."""
    if constants.HF_HUB_OFFLINE:
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True

"""The model hub: whether it can be reached, asked once and quickly, and where its files are kept."""

import os
import re
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, try_to_load_from_cache

_mirror: Path | None = None


def use_mirror(folder: str | None) -> None:
    """Keep the hub's files in `<folder>/hub` from now on; None for the hub's own cache."""
    global _mirror
    _mirror = None if folder is None else Path(folder)


def place() -> dict[str, Any]:
    """Arguments that tell the hub's functions where to look, and not to ask the hub where it can't be reached."""
    where: dict[str, Any] = {"local_files_only": not reachable()}
    return where if _mirror is None else where | {"cache_dir": str(_mirror / "hub")}


def streams() -> Path:
    """Where documents are kept that were read from the hub one by one."""
    return (Path(constants.HF_HOME) if _mirror is None else _mirror) / "streams"


def is_commit(revision: str | None) -> bool:
    """Whether it is no branch, which may mean another commit tomorrow."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def commit(repository: str, revision: str | None, file: str, kind: str = "model") -> str | None:
    """The commit that a branch means: what the hub says, or else the one that is cached; None if neither is known.

    `file`: one that the repository has.
    """
    if is_commit(revision):
        return revision
    if reachable():
        return HfApi().repo_info(repository, revision=revision, repo_type=kind).sha
    found = try_to_load_from_cache(
        repository, file, cache_dir=None if _mirror is None else _mirror / "hub", revision=revision, repo_type=kind
    )
    parts = Path(found).parts if isinstance(found, str) else ()
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else revision


@cache
def reachable() -> bool:
    """Whether the hub may be asked and answers."""
    return not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT)


def answers(server: str) -> bool:
    """Whether a connection to a web address opens within 3 seconds; behind a proxy only a request can tell: True."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    address = urlsplit(server)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True

"""Whether the Hugging Face hub is reachable, tested once and within seconds; checks of hub names and local paths."""

import contextlib
import importlib
import os
import socket
import sys
import threading
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from recipe.system.errors import UserError
from recipe.system.paths import path_exists

CONNECT_SECONDS = 4.0


@cache
def hub_is_reachable() -> bool:
    """Whether a TCP connection to the hub or its proxy succeeds within 4 seconds; False at once in offline mode."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = getproxies().get(endpoint.scheme)
    target = urlsplit(proxy) if proxy else endpoint
    port = target.port or (443 if target.scheme == "https" else 80)
    reached = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((target.hostname, port), timeout=CONNECT_SECONDS).close()
            reached.set()

    # A thread, so that one deadline covers the DNS lookup and all addresses together.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_SECONDS)
    return reached.is_set()


def go_offline_unless_reachable() -> bool:
    """Puts the Hugging Face libraries into offline mode where the hub is unreachable, so that they use their caches
    without waiting for timeouts. Returns whether the hub is reachable."""
    if hub_is_reachable():
        return True
    os.environ["HF_HUB_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return False


def is_local(name: str) -> bool:
    """Whether the name of a model, tokenizer or dataset is a path and no hub id, which has at most one slash."""
    if path_exists(name) or name.startswith((".", "/", "~", "runs/")) or name.endswith((".json", "/")):
        return True
    return name.count("/") > 1


def require_local_path(name: str, what: str) -> None:
    """Raises UserError where `name` is a path that doesn't exist."""
    if is_local(name) and not path_exists(name):
        raise UserError(f"found no {what} at {name}: expected a folder or file that exists, or a hub id")


def require_hub(what: str, instead: str) -> None:
    """Prepares for loading `what`, which is not on this machine, from the hub. Raises UserError, which says what to
    pass `instead`, where the hub is unreachable and this machine has no hub cache."""
    if go_offline_unless_reachable():
        return
    cache_folder = importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE
    if not Path(cache_folder).exists():
        raise UserError(
            f"found no {what} on this machine, and the Hugging Face hub cannot be reached from here: pass {instead}"
        )


def require_hub_for_pushing() -> None:
    """Raises UserError for --push_to_hub where the hub is unreachable."""
    if not go_offline_unless_reachable():
        raise UserError(
            "found --push_to_hub, and the Hugging Face hub cannot be reached from here: leave it out, and push later"
        )

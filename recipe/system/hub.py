"""Whether the Hugging Face hub can be reached, asked once and quickly, so that nobody waits for a time-out."""

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
    """Tries one TCP connection to the hub, or to the proxy in front of it; False at once in offline mode."""
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

    # One deadline for looking the name up and for all of its addresses together.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_SECONDS)
    return reached.is_set()


def go_offline_unless_reachable() -> bool:
    """Without a hub, tells the Hugging Face libraries so: they then use their caches at once. Returns reachability."""
    if hub_is_reachable():
        return True
    os.environ["HF_HUB_OFFLINE"] = "1"
    importlib.import_module("huggingface_hub.constants").HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return False


def is_local(name: str) -> bool:
    """Whether a model or tokenizer name is a path rather than a hub id."""
    return path_exists(name) or name.startswith((".", "/", "~")) or name.endswith(".json")


def require_local_path(name: str, what: str) -> None:
    """Raises UserError where `name` can only be a path and nothing is there."""
    if is_local(name) and not path_exists(name):
        raise UserError(f"found no {what} at {name}: expected a folder or file that exists, or a hub id")


def require_hub(what: str, instead: str) -> None:
    """Prepares for loading `what` from the hub. Raises UserError, naming what to pass instead, if there is no network
    and nothing of the hub is cached on this machine."""
    if go_offline_unless_reachable():
        return
    cache_folder = importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE
    if not Path(cache_folder).exists():
        raise UserError(f"{what} is on the Hugging Face hub, which cannot be reached from here: pass {instead}")

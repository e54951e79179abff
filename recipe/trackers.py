"""Experiment trackers: settled before training begins, so that none of them can stop it."""

import importlib.util
import netrc
import os
import socket
from urllib.parse import urlsplit

from recipe.errors import UserError

CONNECT_SECONDS = 4.0


def settle_trackers(args, say) -> None:
    """Decides how `args.report_to` is reached: W&B goes offline where there is no key or no route to its server.

    Raises UserError for a tracker whose package isn't installed.
    """
    for name in args.report_to:
        if name in ("wandb", "tensorboard", "mlflow") and importlib.util.find_spec(name) is None:
            raise UserError(f"--report_to {name}: the package is not installed: pip install {name}, or leave it out")
    if "wandb" not in args.report_to:
        return
    os.environ.setdefault("WANDB_PROJECT", "encoder-recipe")
    os.environ.setdefault("WANDB_SILENT", "true")
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled", "dryrun"):
        return
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    reason = None
    if not _has_key(urlsplit(base).hostname):
        reason = "no API key was found"
    elif not _reachable(base):
        reason = f"{base} cannot be reached"
    if reason:
        os.environ["WANDB_MODE"] = "offline"
        say(f"W&B: {reason}, so the run is logged offline; later: wandb sync wandb/offline-run-*")


def _has_key(host: str | None) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(url: str) -> bool:
    target = urlsplit(url)
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        socket.create_connection((target.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True

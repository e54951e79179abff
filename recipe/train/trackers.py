"""Experiment trackers: checked and configured before training, and wrapped so that none of them can stop it."""

import http.client
import importlib.util
import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_reporting_integration_callbacks

from recipe.system.errors import UserError
from recipe.system.secrets import redact, redact_console

ANSWER_SECONDS = 4.0
# Variables whose values W&B displays: secrets in them are redacted.
SHOWN = ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_TAGS", "WANDB_NOTES")
# {tracker: (modules of which one is enough, packages to install)}
PACKAGES = {
    "azure_ml": (("azureml",), "azureml-mlflow"),
    "clearml": (("clearml",), "clearml"),
    "codecarbon": (("codecarbon",), "codecarbon"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "dagshub": (("dagshub",), "dagshub mlflow"),
    "dvclive": (("dvclive",), "dvclive"),
    "flyte": (("flytekit",), "flytekit"),
    "kubeflow": (("kubeflow",), "kubeflow"),
    "mlflow": (("mlflow",), "mlflow"),
    "neptune": (("neptune",), "neptune"),
    "swanlab": (("swanlab",), "swanlab"),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
    "trackio": (("trackio",), "trackio"),
    "wandb": (("wandb",), "wandb"),
}


def select_trackers(args, say, folder: Path | None = None) -> None:
    """Validates `args.report_to` and sets W&B's environment variables: offline mode, which `say` reports, if there is
    no API key or its server doesn't answer within ANSWER_SECONDS.

    `folder` is where W&B writes its runs; by default WANDB_DIR. Raises UserError for an unknown tracker and for one
    whose package isn't installed.
    """
    known = {"none", "all", *INTEGRATION_TO_CALLBACK}
    for name in args.report_to:
        if name not in known:
            raise UserError(f"found --report_to {name}, expected one of {', '.join(sorted(known))}")
        modules, package = PACKAGES.get(name, ((), ""))
        if modules and not any(importlib.util.find_spec(module) for module in modules):
            raise UserError(f"--report_to {name}: the package is not installed: pip install {package}, or leave it out")
    if "wandb" not in args.report_to:
        return
    os.environ.update({name: redact(os.environ[name]) for name in SHOWN if name in os.environ})
    if getattr(args, "run_name", None):
        args.run_name = redact(args.run_name)
    os.environ.setdefault("WANDB_PROJECT", "encoder-recipe")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_LOG_MODEL", "false")
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "8")  # seconds; its own default is 90
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled", "dryrun"):
        return
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    reason = None
    if not _has_key(urlsplit(base).hostname):
        reason = "no API key was found"
    elif not _answers(base):
        reason = f"{base} does not answer"
    if reason:
        os.environ["WANDB_MODE"] = "offline"
        runs = Path(folder or os.environ.get("WANDB_DIR", ".")) / "wandb"
        say(f"W&B: {reason}, so the run is logged offline; later: wandb sync {runs}/offline-run-*")


def _has_key(host: str | None) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers(url: str) -> bool:
    """Whether any HTTP response comes within ANSWER_SECONDS; a server that accepts the connection and hangs counts as
    down."""
    try:
        urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


class Guarded(TrainerCallback):
    """Wraps a tracker's callback: its first exception is printed as a warning, and it isn't called again."""

    def __init__(self, callback: TrainerCallback):
        self.callback, self.broken = callback, False

    def _call(self, event: str, *args, **kwargs):
        if self.broken:
            return None
        try:
            return getattr(self.callback, event)(*args, **kwargs)
        except Exception as error:
            self.broken = True
            name = type(self.callback).__name__
            reason = redact(str(error)).strip()[:200]
            print(f"warning: {name} failed ({reason}); training continues without it", flush=True)
            return None


def _guarded(event: str):
    return lambda self, *args, **kwargs: self._call(event, *args, **kwargs)


for _event in [name for name in dir(TrainerCallback) if name.startswith("on_")]:
    setattr(Guarded, _event, _guarded(_event))


def continue_wandb_run(identity: str) -> None:
    """Sets W&B's run id to `identity`, from run.json, so that a resumed run continues its curves: one id per run
    folder."""
    os.environ.setdefault("WANDB_RUN_ID", identity)
    os.environ.setdefault("WANDB_RESUME", "allow")


def guard_trackers(trainer) -> None:
    """Wraps the callbacks of `trainer`'s trackers, and no others, in `Guarded`."""
    redact_console()  # W&B copies the console from the moment it is imported
    handler = trainer.callback_handler
    trackers = tuple(get_reporting_integration_callbacks(trainer.args.report_to))
    handler.callbacks = [Guarded(c) if trackers and isinstance(c, trackers) else c for c in handler.callbacks]

"""Manifests: size and sha256 of every file in a folder, written and verified."""

import json
from pathlib import Path

from recipe.system.files import DamagedFile, read_object, sha256_of

MANIFEST = "manifest.json"


def manifest_of(files: dict[str, Path], ranks: int = 1) -> str:
    """The manifest of `files`, {name in the folder: path}, as JSON: their sizes and sha256, and the number of `ranks`
    that saved a random state if there are several."""
    described = {name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for name, path in files.items()}
    return json.dumps({"files": described} | ({"ranks": ranks} if ranks > 1 else {}), indent=2) + "\n"


def damage(folder: Path, manifest: str = MANIFEST) -> str | None:
    """Why a folder fails verification against its `manifest`, in a few words that name the file; None where every
    listed file is as it was written. An undamaged checkpoint can be evaluated; recipe.train.resume checks more."""
    try:
        files = read_object(folder / manifest)["files"]
        listed = [(name, about["bytes"], about["sha256"]) for name, about in files.items()]
    except FileNotFoundError:
        return f"it has no {manifest}"
    except DamagedFile as error:
        return f"{manifest} {error}"
    except (OSError, KeyError, TypeError, AttributeError):
        return f"{manifest} is unreadable"
    for name, size, sha256 in listed:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        try:
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes, expected {size}"
            if sha256_of(path) != sha256:
                return f"{name} doesn't match its sha256"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None

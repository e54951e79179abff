"""Uploads of prepared tokens to any fsspec URL; a later run takes that URL as its dataset."""

import tempfile
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem
from transformers import PreTrainedTokenizerFast

from recipe.data.filesystems import access_error, open_filesystem, with_timeout
from recipe.data.prepared_tokens import TOKENIZER_FOLDER, PreparedTokens
from recipe.data.tokenizer import fingerprint, load_tokenizer
from recipe.system.errors import UserError
from recipe.system.manifest import MANIFEST, manifest_of
from recipe.system.progress import BYTES, Progress
from recipe.system.secrets import url_identity


def require_writable(url: str) -> None:
    """Writes and deletes a small file in the folder `url`. Raises UserError where that fails."""
    system, root = open_filesystem(url)
    probe = f"{root.rstrip('/')}/.writable"
    try:
        with_timeout(url, lambda: _put(system, b"?", probe))
        system.rm_file(probe)
    except UserError:
        raise
    except Exception as error:
        raise access_error(url, error, "write to") from error


def upload_tokens(prepared: PreparedTokens, tokenizer: PreTrainedTokenizerFast, url: str) -> str:
    """Copies prepared tokens and their tokenizer into a folder of the same name in `url`; returns that folder's URL.

    Raises UserError where it fails; `fetch` refuses an unfinished upload.
    """
    target = f"{url.rstrip('/')}/{prepared.folder.name}"
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        files = {f"{TOKENIZER_FOLDER}/{file.name}": file for file in sorted(Path(temporary).iterdir())}
        if fingerprint(load_tokenizer(temporary, ("pad",))) != fingerprint(tokenizer):  # changed by saving: left out
            files = {}
        arrays = sorted(path.name for path in prepared.folder.iterdir() if path.suffix in (".npy", ".json"))
        arrays = [name for name in arrays if name != MANIFEST]  # tokens that were fetched have one of their own
        upload_files({**{name: prepared.folder / name for name in arrays}, **files}, target)
    return target


def upload_files(files: dict[str, Path], url: str) -> bool:
    """Copies {name there: file} into the folder `url`, then a manifest of them, which marks the upload as finished.

    Returns False where the same files are there already. Raises UserError where it fails.
    """
    system, root = open_filesystem(url)
    system.invalidate_cache()
    root = root.rstrip("/")
    manifest = manifest_of(files)
    try:
        if system.exists(f"{root}/{MANIFEST}"):
            if system.cat_file(f"{root}/{MANIFEST}") == manifest.encode():
                return False
            system.rm_file(f"{root}/{MANIFEST}")
        total = sum(file.stat().st_size for file in files.values())
        with Progress(f"writing {url_identity(url)}", total, BYTES) as progress:
            for name, file in files.items():
                _put(system, file, f"{root}/{name}")
                found, expected = system.info(f"{root}/{name}")["size"], file.stat().st_size
                if found != expected:
                    raise OSError(f"{name} has {found} bytes there, expected {expected}")
                progress.update(expected)
        _put(system, manifest.encode(), f"{root}/{MANIFEST}")
    except Exception as error:  # each service has its own errors
        raise access_error(url, error, "write to") from error
    return True


def _put(system, content: Path | bytes, path: str) -> None:
    if isinstance(system, LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        system.pipe_file(path, content)
    else:
        system.put_file(str(content), path)

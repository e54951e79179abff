"""The records of a run without its weights, for a repository or a paper's appendix.

Copies settings (run.json) and log (log.jsonl), the tables, plots and commands of its sweeps, and its curves as SVG:
less than a megabyte, from which python -m recipe.report makes the page again. Paths become relative to the current
folder, and secrets that older versions recorded are removed. Existing files are replaced.

    python -m recipe.report.publish runs/first results/first
    python -m recipe.report results/first
"""

if __name__ == "__main__":
    import recipe.cli.ctrl_c  # noqa: F401  Ctrl-C during the imports below is one line

import json
from pathlib import Path

from recipe.cli.parser import parse
from recipe.cli.program import run_script
from recipe.finetune.suites import SUITES
from recipe.report.page import LOG, read_log
from recipe.report.scores import JOINED
from recipe.report.training_curves import pictures_of
from recipe.system.errors import UserError
from recipe.system.files import write_atomically
from recipe.system.secrets import redact, redact_all
from recipe.train.run_record import PLAN, RECORD


def evidence_of(run: Path) -> list[Path]:
    """The files of a run that say what was done and what came of it, those that there are, relative to its folder."""
    of_sweeps = [
        Path(suite, name) for suite in SUITES for name in (f"{suite}.csv", f"{suite}.md", f"{suite}.png", RECORD)
    ]
    return [file for file in (Path(RECORD), Path(LOG), Path(PLAN), *of_sweeps, Path(JOINED)) if (run / file).is_file()]


def publish(run: Path, folder: Path) -> list[Path]:
    """Writes the evidence of `run` and its curves into `folder`; returns the files, relative to it. Raises UserError
    where `run` is none or the two are one."""
    if not (run / LOG).is_file():
        raise UserError(f"found no {LOG} in {run}: expected a run's folder, such as runs/NAME")
    if run.resolve() == folder.resolve():
        raise UserError(f"found {folder} as the run and as where its results go: name another folder")
    here = f"{Path.cwd()}/".encode()
    contents = {file: (run / file).read_bytes() for file in evidence_of(run)}
    for picture in pictures_of(read_log(run / LOG)):
        contents[Path(f"{picture.title.lower().replace(' ', '_')}.svg")] = picture.svg
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / file, content if file.suffix == ".png" else _public(file, content.replace(here, b"")))
    return list(contents)


def _public(file: Path, content: bytes) -> bytes:
    """A text file's content without secrets; what has none stays as it is, to the byte."""
    text = content.decode("utf-8", errors="surrogateescape")
    try:
        record = json.loads(text) if file.suffix == ".json" else None
    except (ValueError, RecursionError):
        record = None
    if record is not None and (public := redact_all(record)) != record:
        text = json.dumps(public, indent=2) + "\n"
    return redact(text).encode("utf-8", errors="surrogateescape")


def main() -> None:
    ((run, folder),) = parse((), description=__doc__, positional=("run", "folder"))
    run, folder = Path(run).expanduser(), Path(folder).expanduser()
    try:
        files = publish(run, folder)
    except OSError as error:
        raise UserError(f"cannot publish to {folder}: {error.filename}: {error.strerror}: name another") from error
    size = sum((folder / file).stat().st_size for file in files)
    print(f"{folder}: {', '.join(map(str, files))} ({size / 1e6:.1f} MB)")
    print(f"Its page:  python -m recipe.report {folder}")


if __name__ == "__main__":
    run_script(main)

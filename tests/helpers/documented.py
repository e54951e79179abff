"""The commands that this repository's documents and usage blocks tell a reader to type, and a place to type them in."""

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toy import REPOSITORY, SHARED_DATA

PROGRAMS = r"(?:bash|python|sky|ray|pip|sbatch|torchrun|\./)"
VARIABLES = r"(?:[A-Z][A-Z_0-9]*=(?:\"[^\"]*\"|'[^']*'|\S*)\s+)*"
COMMAND = re.compile(rf"^{VARIABLES}{PROGRAMS}\s")
EXPORT = re.compile(r"^(?:export\s+)?[A-Z][A-Z_0-9]*=\S")


@dataclass(frozen=True)
class Documented:
    """A command and the file that it stands in. `exports` are the lines of its block before it that set variables."""

    file: str
    command: str
    exports: tuple[str, ...] = ()


def documented_commands() -> list[Documented]:
    """All of them, each once a file: fenced bash blocks and code spans of the documents, the usage blocks of shell and
    YAML files, the indented lines of the programs' docstrings."""
    found: list[Documented] = []
    documents = [REPOSITORY / "README.md", REPOSITORY / "launch" / "README.md"]
    documents += [*sorted(REPOSITORY.glob("docs/*.md")), *sorted(REPOSITORY.glob("results/*/README.md"))]
    for file in documents:
        text = file.read_text()
        for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S):
            found += _of_block(file, block)
        outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside))
        found += [Documented(_name(file), span) for span in spans if _is_whole(span)]
    for file in (*REPOSITORY.glob("*.sh"), *REPOSITORY.glob("launch/*"), *REPOSITORY.glob("benchmarks/*.sh")):
        if file.suffix in (".sh", ".yaml"):
            usage = re.match(r"(?:#.*\n)+", file.read_text())
            found += _of_usage(file, [line.removeprefix("#") for line in usage[0].splitlines()] if usage else [])
    for file in (*REPOSITORY.glob("*.py"), *REPOSITORY.glob("recipe/**/*.py"), *REPOSITORY.glob("benchmarks/*.py")):
        found += _of_usage(file, (ast.get_docstring(ast.parse(file.read_text()), clean=False) or "").splitlines())
    return list(dict.fromkeys(found))


def _name(file: Path) -> str:
    return file.relative_to(REPOSITORY).as_posix()


def _is_whole(span: str) -> bool:
    """Whether a code span is a command to type, not the name of a program alone."""
    return bool(COMMAND.match(span)) and "..." not in span


def _of_block(file: Path, block: str) -> list[Documented]:
    found, exports = [], []
    for line in block.replace("\\\n", " ").splitlines():
        line = re.sub(r"\s+#\s.*$", "", line).strip()
        if COMMAND.match(line):
            found.append(Documented(_name(file), " ".join(line.split()), tuple(exports)))
        elif EXPORT.match(line):
            exports.append(line)
        elif line and not line.startswith("#"):
            found.append(Documented(_name(file), line))
    return found


def _of_usage(file: Path, lines: list[str]) -> list[Documented]:
    """Indented lines that are commands; what follows two spaces or more explains them."""
    found = []
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    for line in (line for line in joined if re.match(r"\s{2,}\S", line)):
        command = re.split(r"\s{2,}", line.strip())[0]
        if COMMAND.match(f"{command} "):
            found.append(Documented(_name(file), command))
    return found


def copy_repository(folder: Path) -> Path:
    """Copies the files of the repository into `folder`, without tests and what git ignores, and returns it. GLUE's
    files, where there are any beside the repository, are in its folder glue."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    if SHARED_DATA.is_dir():
        (folder / "glue").symlink_to(SHARED_DATA / "glue")
    return folder


def typed(folder: Path, found: Documented, timeout: int = 280, **variables: str) -> subprocess.CompletedProcess:
    """Types a command, after the exports of its block, in `folder`, with these variables exported and without a hub."""
    leave = ("MODEL", "TOKENIZER", "DATASET", "RUN", "DRY_RUN", "WORLD_SIZE", "RANK", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in leave}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment |= {"PATH": path, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    lines = "\n".join([*found.exports, found.command])
    return subprocess.run(
        ["bash", "-c", lines], cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=timeout
    )

#!/usr/bin/env python3
"""Mutation testing: changes one line of code at a time and reports the test that detects it.

    python tests/mutations.py                       all mutations of tests/mutation_list.py, about 15 minutes on one core
    python tests/mutations.py --only mask-seed ...  some of them
    python tests/mutations.py --list                their names, and the harm that each would do
    python tests/mutations.py --markdown            all of them, and writes tests/MUTATIONS.md

A mutation is applied to a temporary copy of the checkout, where its test files run until the first failure. At the end
the failed tests run on the unchanged copy, where all must pass. Exit code 1 if a mutation was not detected.
PyTorch, transformers and pytest are imported once: each mutation runs in a fork of this process.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TABLE = REPOSITORY / "tests" / "MUTATIONS.md"
SECONDS = 600  # for the tests of one mutation
NOT_DETECTED = "NOT DETECTED"


@dataclass(frozen=True)
class Mutation:
    """A change of one line: `before`, which occurs once in `file`, becomes `after`. `tests` are the files that should
    detect it, `harm` is the consequence for users, and `missed` says that no test detected it when it was first tried."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    harm: str
    missed: bool = False

    def apply(self, text: str) -> str:
        """The file's text with the change. Raises ValueError unless the line occurs exactly once."""
        if (found := text.count(self.before)) != 1:
            raise ValueError(f"{self.name}: found {self.before!r} {found} times in {self.file}, expected once")
        if "\n" in self.before + self.after or self.before == self.after:
            raise ValueError(f"{self.name}: expected a change of one line")
        return text.replace(self.before, self.after)


class FirstFailure:
    """A pytest plugin that records the first failed test and the first file that could not be collected."""

    def __init__(self):
        self.test = self.broken = None

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.test = self.test or report.nodeid

    def pytest_collectreport(self, report):
        if report.failed:
            self.broken = self.broken or report.nodeid


def copy_checkout(folder: Path) -> Path:
    """Copies the checkout's files, except ignored ones, into `folder` and links ../shared beside the copy."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    copy = folder / "checkout"
    for name in subprocess.check_output(listing, cwd=REPOSITORY, text=True).split("\0"):
        if name and (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name)
    if (shared := REPOSITORY.parent / "shared").exists():
        (folder / "shared").symlink_to(shared)
    return copy


def import_libraries() -> None:
    """Imports the libraries that the tests need, once for all forks, which saves each 10 to 40 seconds."""
    import accelerate
    import datasets
    import evaluate
    import matplotlib.figure
    import sklearn.metrics
    import torch
    import transformers.models.bert.modeling_bert
    import transformers.models.modernbert.modeling_modernbert
    import transformers.models.roberta.modeling_roberta
    import transformers.trainer

    torch.set_num_threads(1)  # no thread may be running when the process forks
    assert accelerate and datasets and evaluate and matplotlib and sklearn and transformers


def first_failure(copy: Path, tests: tuple[str, ...], log: Path) -> str:
    """The first test of `tests` that fails in `copy`, "" if all pass. Raises RuntimeError where they could not run."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        _run_tests(copy, tests, log, write)
    os.close(write)
    deadline = time.monotonic() + SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            return f"{tests[0]} (timed out after {SECONDS} s)"
        time.sleep(0.05)
    with os.fdopen(read) as stream:
        verdict = stream.read()
    if os.WIFSIGNALED(ended[1]):  # such as a stop signal without its handler
        return f"{tests[0]} (ended by {signal.Signals(os.WTERMSIG(ended[1])).name})"
    if not verdict.startswith("ran "):
        raise RuntimeError(f"{verdict or 'the process died'}\n{log.read_text(errors='replace')[-3000:]}")
    return verdict.removeprefix("ran ")


def _run_tests(copy: Path, tests: tuple[str, ...], log: Path, write: int) -> None:
    """Runs pytest in the child and writes "ran <failed test>" to the pipe."""
    code = 1
    try:
        with log.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        os.chdir(copy)
        sys.path = [
            str(copy),
            *[path for path in sys.path if not Path(path or ".").resolve().is_relative_to(REPOSITORY / "tests")],
        ]
        import pytest

        failure = FirstFailure()
        options = ["-x", "-p", "no:cacheprovider", "--rootdir", str(copy), "-c", str(copy / "pyproject.toml")]
        options += ["--basetemp", str(copy.parent / "pytest"), "--durations=0"]
        code = int(pytest.main([*options, *tests], plugins=[failure]))
        if failure.broken:
            verdict = f"{failure.broken} could not be collected"
        elif code in (0, 1):
            verdict = f"ran {failure.test or ''}"
        else:
            verdict = f"pytest ended with {code}"
        os.write(write, verdict.encode())
        sys.stdout.flush()
    finally:
        os._exit(code)


def try_out(mutation: Mutation, copy: Path) -> str:
    """The test that detects `mutation`, or NOT_DETECTED."""
    file = copy / mutation.file
    before = file.read_text()
    try:
        file.write_text(mutation.apply(before))
        return first_failure(copy, mutation.tests, copy.parent / f"{mutation.name}.log") or NOT_DETECTED
    finally:
        file.write_text(before)


def require_passing(copy: Path, tests: list[str]) -> None:
    """Raises RuntimeError where a test also fails on the unchanged code, so that it detected nothing."""
    log = copy.parent / "unchanged.log"
    if tests and (failed := first_failure(copy, tuple(tests), log)):
        raise RuntimeError(f"{failed} also fails on the unchanged code:\n{log.read_text()[-3000:]}")


def table_of(mutations: list[Mutation], detected: dict[str, str]) -> str:
    """tests/MUTATIONS.md, with `detected` {name of a mutation: the test that detects it}."""
    missed = [mutation for mutation in mutations if mutation.missed]
    lines = [
        "# Mutation testing: the change of one line, and the test that detects it",
        "",
        "Written by `python tests/mutations.py --markdown`, which applies each change to a copy of the checkout and runs",
        "the tests. `tests/repository/test_mutations.py` checks that the lines still exist and that this table is complete.",
        "",
        f"{len(mutations)} mutations, {sum(test == NOT_DETECTED for test in detected.values())} of them not detected. "
        f"{len(missed)} were missed when first tried, and got a test:",
        f"{', '.join(mutation.name for mutation in missed)}.",
        "",
        "| name | file | line, before → after | consequence | detected by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for mutation in mutations:
        change = f"{_code(mutation.before)} → {_code(mutation.after)}"
        test = detected[mutation.name].removeprefix("tests/").partition("[")[0]
        lines.append(f"| {mutation.name} | {mutation.file} | {change} | {mutation.harm} | {test} |")
    return "\n".join(lines) + "\n"


def _code(line: str) -> str:
    return "`" + line.strip().replace("|", "\\|") + "`" if line.strip() else "nothing"


def main(arguments: list[str] | None = None) -> int:
    from mutation_list import MUTATIONS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="Names of mutations to try (default: all).")
    parser.add_argument("--list", action="store_true", help="Print names and consequences.")
    parser.add_argument("--markdown", action="store_true", help="Try all and write tests/MUTATIONS.md.")
    options = parser.parse_args(arguments)
    by_name = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := sorted(set(options.only or ()) - set(by_name)):
        parser.error(f"found no mutation {', '.join(unknown)}: --list prints the names")
    if options.markdown and options.only:
        parser.error("found both --only and --markdown, whose table needs all mutations: pass one of the two")
    chosen = [by_name[name] for name in options.only or by_name]
    if options.list:
        for mutation in chosen:
            print(f"{mutation.name:28} {mutation.file}: {mutation.harm}")
        return 0

    sys.dont_write_bytecode = True  # Python could take the .pyc of the unchanged file for that of the mutated one
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    import_libraries()
    detected = {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = copy_checkout(Path(folder))
        for mutation in chosen:
            start = time.monotonic()
            test = detected[mutation.name] = try_out(mutation, copy)
            verdict = NOT_DETECTED if test == NOT_DETECTED else f"detected by {test}"
            print(f"{mutation.name:28} {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
        require_passing(copy, sorted({test for test in detected.values() if "::" in test}))
    survivors = [name for name, test in detected.items() if test == NOT_DETECTED]
    print(
        f"{len(detected)} mutations, {len(survivors)} not detected" + (f": {', '.join(survivors)}" if survivors else "")
    )
    if options.markdown:
        TABLE.write_text(table_of(chosen, detected))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

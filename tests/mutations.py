#!/usr/bin/env python3
"""Changes one line of the code at a time and says which test notices: whether the suite is awake.

    python tests/mutations.py                       all of tests/mutation_list.py, some 15 minutes on one core
    python tests/mutations.py --only mask-seed ...  some of them
    python tests/mutations.py --list                their names, and what each would do to a user
    python tests/mutations.py --markdown            all of them, and tests/MUTATIONS.md is written anew

A mutation is made in a temporary copy of the checkout, on which the test files named with it are run until the first
failure; in the end the tests that failed are run on the unchanged copy, where all have to pass. Exit code 1 if a
mutation was not noticed.
PyTorch, transformers and pytest are imported once: each mutation is a fork of this process.
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
NOT_NOTICED = "NOT NOTICED"


@dataclass(frozen=True)
class Mutation:
    """One change of one line: `before`, which occurs once in `file`, becomes `after`. `tests` are the files that should
    notice; `harm` says what a user would suffer; `slept` whether no test noticed when it was first tried."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    harm: str
    slept: bool = False

    def apply(self, text: str) -> str:
        """The file's text with the change. Raises ValueError where the line isn't there, or is there twice."""
        if (found := text.count(self.before)) != 1:
            raise ValueError(f"{self.name}: found {self.before!r} {found} times in {self.file}, expected once")
        if "\n" in self.before + self.after or self.before == self.after:
            raise ValueError(f"{self.name}: expected a change of one line")
        return text.replace(self.before, self.after)


class FirstFailure:
    """A pytest plugin that remembers the first test that failed, and what could not be collected."""

    def __init__(self):
        self.test = self.broken = None

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.test = self.test or report.nodeid

    def pytest_collectreport(self, report):
        if report.failed:
            self.broken = self.broken or report.nodeid


def copy_checkout(folder: Path) -> Path:
    """A copy of the checkout's files, tracked or new but not ignored, in `folder`, and a link to ../shared beside it."""
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
    """Imports, once for all forks, what the tests would import one after another: 10 to 40 seconds."""
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

    torch.set_num_threads(1)  # no thread may run when the process forks
    assert accelerate and datasets and evaluate and matplotlib and sklearn and transformers


def first_failure(copy: Path, tests: tuple[str, ...], log: Path) -> str:
    """The first test of `tests` that fails in `copy`, or "" if all pass. Raises RuntimeError where none could run."""
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
            return f"{tests[0]} (not done after {SECONDS} s)"
        time.sleep(0.05)
    with os.fdopen(read) as stream:
        verdict = stream.read()
    if os.WIFSIGNALED(ended[1]):  # such as a stop signal that nothing handles any more
        return f"{tests[0]} (ended by {signal.Signals(os.WTERMSIG(ended[1])).name})"
    if not verdict.startswith("ran "):
        raise RuntimeError(f"{verdict or 'the process died'}\n{log.read_text(errors='replace')[-3000:]}")
    return verdict.removeprefix("ran ")


def _run_tests(copy: Path, tests: tuple[str, ...], log: Path, write: int) -> None:
    """The child's part: runs pytest, and writes "ran <test>" to the pipe."""
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
    """The test that notices `mutation`, or NOT_NOTICED."""
    file = copy / mutation.file
    before = file.read_text()
    try:
        file.write_text(mutation.apply(before))
        return first_failure(copy, mutation.tests, copy.parent / f"{mutation.name}.log") or NOT_NOTICED
    finally:
        file.write_text(before)


def require_passing(copy: Path, tests: list[str]) -> None:
    """Raises RuntimeError where one of the tests fails on the unchanged code, too: it notices nothing."""
    log = copy.parent / "unchanged.log"
    if tests and (failed := first_failure(copy, tuple(tests), log)):
        raise RuntimeError(f"{failed} fails on the unchanged code, too:\n{log.read_text()[-3000:]}")


def table_of(mutations: list[Mutation], noticed: dict[str, str]) -> str:
    """tests/MUTATIONS.md: what was changed, and `noticed`, by mutation, which test notices."""
    asleep = [mutation for mutation in mutations if mutation.slept]
    lines = [
        "# Mutations: one line changed, and the test that notices",
        "",
        "Written by `python tests/mutations.py --markdown`, which makes each of these changes in a copy of the checkout",
        "and runs the tests; without the flag it only says what it finds. `tests/repository/test_mutations.py` sees to it that the",
        "lines are still there and that this table is the list's.",
        "",
        f"{len(mutations)} mutations, {sum(test == NOT_NOTICED for test in noticed.values())} of them not noticed. "
        f"{len(asleep)} were not noticed when they were first tried, and got a test:",
        f"{', '.join(mutation.name for mutation in asleep)}.",
        "",
        "| name | file | line, before → after | what it would do | noticed by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for mutation in mutations:
        change = f"{_code(mutation.before)} → {_code(mutation.after)}"
        test = noticed[mutation.name].removeprefix("tests/").partition("[")[0]
        lines.append(f"| {mutation.name} | {mutation.file} | {change} | {mutation.harm} | {test} |")
    return "\n".join(lines) + "\n"


def _code(line: str) -> str:
    return "`" + line.strip().replace("|", "\\|") + "`" if line.strip() else "nothing"


def main(arguments: list[str] | None = None) -> int:
    from mutation_list import MUTATIONS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="Mutations to try, by name; all of them by default.")
    parser.add_argument("--list", action="store_true", help="Print the mutations' names and harms.")
    parser.add_argument("--markdown", action="store_true", help="Try all, and write tests/MUTATIONS.md.")
    told = parser.parse_args(arguments)
    by_name = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := sorted(set(told.only or ()) - set(by_name)):
        parser.error(f"found no mutation {', '.join(unknown)}: --list has the names")
    if told.markdown and told.only:
        parser.error("found --only beside --markdown, whose table is of all mutations: pass one of the two")
    chosen = [by_name[name] for name in told.only or by_name]
    if told.list:
        for mutation in chosen:
            print(f"{mutation.name:28} {mutation.file}: {mutation.harm}")
        return 0

    sys.dont_write_bytecode = True  # a .pyc of the line before would be taken for that of the line after
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    import_libraries()
    noticed = {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = copy_checkout(Path(folder))
        for mutation in chosen:
            start = time.monotonic()
            test = noticed[mutation.name] = try_out(mutation, copy)
            verdict = NOT_NOTICED if test == NOT_NOTICED else f"noticed by {test}"
            print(f"{mutation.name:28} {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
        require_passing(copy, sorted({test for test in noticed.values() if "::" in test}))
    asleep = [name for name, test in noticed.items() if test == NOT_NOTICED]
    print(f"{len(noticed)} mutations, {len(asleep)} not noticed" + (f": {', '.join(asleep)}" if asleep else ""))
    if told.markdown:
        TABLE.write_text(table_of(chosen, noticed))
    return 1 if asleep else 0


if __name__ == "__main__":
    sys.exit(main())

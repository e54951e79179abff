"""docs/support.md says what the tests' markers say."""

import subprocess
import sys

from toy import REPOSITORY


def test_the_page_is_what_the_markers_say():
    command = [sys.executable, "tests/helpers/support_page.py", "--print"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    _, heading, page = done.stdout.partition("# What is supported")
    written = (REPOSITORY / "docs" / "support.md").read_text()
    assert written == heading + page, "the page is out of date: run python tests/helpers/support_page.py"
    assert page.count("| masked tokens | default | slow | slow | slow | slow |") == 8

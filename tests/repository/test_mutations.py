"""Every mutation applies to exactly one line and names existing tests, and tests/MUTATIONS.md lists all of them."""

from mutation_list import MUTATIONS
from mutations import TABLE
from toy import REPOSITORY


def test_every_mutation_applies_to_exactly_one_line():
    for mutation in MUTATIONS:
        mutation.apply((REPOSITORY / mutation.file).read_text())


def test_every_mutation_has_a_unique_name_and_existing_tests():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    for mutation in MUTATIONS:
        assert mutation.tests and all((REPOSITORY / test).is_file() for test in mutation.tests), mutation.name


def test_the_table_lists_every_mutation():
    rows = [line.split(" | ")[:2] for line in TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    listed = [(name.removeprefix("| "), file) for name, file in rows if name != "| ---"]
    assert listed == [(mutation.name, mutation.file) for mutation in MUTATIONS], (
        "run python tests/mutations.py --markdown"
    )

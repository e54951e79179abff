"""The list of mutations doesn't rot: each line is there, once, and so are the tests; the table is the list's."""

from mutation_list import MUTATIONS
from toy import REPOSITORY


def test_every_mutation_changes_a_line_that_is_there_once():
    for mutation in MUTATIONS:
        mutation.apply((REPOSITORY / mutation.file).read_text())


def test_every_mutation_has_tests_and_a_name_of_its_own():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    for mutation in MUTATIONS:
        assert mutation.tests and all((REPOSITORY / test).is_file() for test in mutation.tests), mutation.name

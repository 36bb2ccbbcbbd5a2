"""docs/faults.md is true: each fault of the catalogue stands there once, and the tests that it names are there."""

import ast
import re
from pathlib import Path

import pytest
from parts import ROOT

# no | fault | what happens | shown by
ROWS = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in (ROOT / "docs" / "faults.md").read_text("utf-8").splitlines() if re.match(r"\| \d", line)]
TESTS = {
    node.name
    for path in Path(__file__).parent.glob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
}


def test_every_fault_of_the_catalogue_stands_there_once_in_order():
    assert [int(row[0]) for row in ROWS] == list(range(1, 111))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_fault_says_what_happens_and_names_tests_that_are_there(row):
    assert len(row) == 4
    number, fault, what_happens, shown_by = row
    assert fault
    assert what_happens
    assert shown_by.startswith(("`test_", "refused: ", "not covered because ")), shown_by
    named = re.findall(r"`(test_\w+)`", shown_by)
    assert set(named) <= TESTS, f"fault {number}: {sorted(set(named) - TESTS)}"

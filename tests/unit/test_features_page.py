"""docs/features.md promises a test for each feature: each that it names must be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text()
ROWS = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "::" in line]


def functions_of(path: str) -> set[str]:
    file = ROOT / path
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module(body=[], type_ignores=[])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("| "))
def test_each_feature_has_tests_that_exist(row):
    named = re.findall(r"`(tests/[^`:]+)::([^`]+)`", row[-1])
    assert named
    for path, name in named:
        present = functions_of(path)
        assert present if name == "@" else name in present, f"{path}::{name}"


def test_no_row_of_the_table_goes_without_tests():
    table = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| feature")]
    assert len(table) == len(ROWS) > 30

"""The tests that docs/features.md and docs/userspace-defects.md name exist."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text()
DEFECTS_PAGE = (ROOT / "docs" / "userspace-defects.md").read_text()


def rows(page: str) -> list[list[str]]:
    return [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and "::" in line]


ROWS, DEFECTS = rows(PAGE), rows(DEFECTS_PAGE)
NOT_APPLICABLE = {"21", "22", "30"}  # VPP, documentation


@functools.cache
def functions_of(path: str) -> set[str]:
    file = ROOT / path
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)) if file.exists() else set()


@pytest.mark.parametrize("row", ROWS + DEFECTS, ids=lambda row: row[0].strip("| "))
def test_each_feature_and_each_defect_has_tests_that_exist(row):
    named = re.findall(r"`(tests/[^`:]+)::([^`]+)`", row[-1])
    assert named
    for path, name in named:
        present = functions_of(path)
        assert present if name == "@" else name in present, f"{path}::{name}"


def test_no_row_of_the_table_goes_without_tests():
    table = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| feature")]
    assert len(table) == len(ROWS) > 30


def test_every_defect_has_a_row_and_those_that_can_be_shown_have_tests():
    numbers = [line.split(" | ")[0].strip("| ") for line in DEFECTS_PAGE.splitlines() if line[2:3].isdigit()]
    assert numbers == [str(number) for number in range(1, 34)]
    assert {row[0].strip("| ") for row in DEFECTS} == set(numbers) - NOT_APPLICABLE

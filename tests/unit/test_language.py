"""Documents, hints, docstrings and comments are in plain English: no refused words, no long lines."""

from __future__ import annotations

import ast
import re
import tokenize
from pathlib import Path

import pytest

from cni.errors import catalogue

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(
    source
    for folder in ("cni", "deviceplugin", "ipam", "kubevirt", "resident")
    for source in (ROOT / folder).rglob("*.py")
)
WRITTEN = ("cni/sriov", "ipam", "tests")
"""The folders whose docstrings and comments use no refused words."""
LINE = 120

_ENTRIES = [
    line.partition(" | ") for line in (ROOT / "build/words/refused.txt").read_text().splitlines() if line[0] != "#"
]
_REFUSED = [(re.compile(rf"\b(?:{word})\b", re.IGNORECASE), instead) for word, _, instead in _ENTRIES]
_CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)", re.DOTALL)


def refused(text):
    return [f"{match[0]}: write {instead}" for word, instead in _REFUSED for match in word.finditer(text)]


def prose(page):
    return _CODE.sub("", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_uses_no_refused_word(page):
    assert refused(prose(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_prose_is_longer_than_others(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#")) and "](" not in line]
    assert [line for line in lines if len(line) > LINE] == []


def test_causes_and_remedies_use_no_refused_word():
    assert [problem for cls in catalogue() for problem in refused(f"{cls.cause} {cls.remedy}")] == []


def hints(source):
    """The literal parts of the arguments `hint=` of a module."""
    keywords = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.keyword)]
    values = [keyword.value for keyword in keywords if keyword.arg == "hint"]
    return [
        part.value
        for value in values
        for part in ast.walk(value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_a_hint_uses_no_refused_word(source):
    assert [problem for hint in hints(source) for problem in refused(hint)] == []


def remarks(source):
    """The docstrings and comments of a module, without code in them."""
    with source.open("rb") as file:
        comments = [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    statements = [node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Expr)]
    strings = [node.value for node in statements if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return _CODE.sub("", "\n".join([*strings, *comments]))


@pytest.mark.parametrize("folder", WRITTEN)
def test_docstrings_and_comments_use_no_refused_word(folder):
    sources = [source for source in (ROOT / folder).rglob("*.py") if not source.name.endswith("_pb2.py")]
    found = {str(source.relative_to(ROOT)): refused(remarks(source)) for source in sources}
    assert {source: problems for source, problems in found.items() if problems} == {}

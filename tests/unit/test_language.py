"""Documents, hints, docstrings and comments are in plain English: no refused words, no long lines."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from cni.errors import catalogue
from tests.sources import statements

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PRODUCT = ("cni", "deviceplugin", "ipam", "kubevirt", "resident")
WRITTEN = ("cni/sriov", "cni/userspace", "deviceplugin", "ipam", "kubevirt", "tests")
"""The folders whose docstrings and comments use no refused words."""
LINE = 120

_ENTRIES = [
    line.partition(" | ") for line in (ROOT / "build/words/refused.txt").read_text().splitlines() if line[0] != "#"
]
_REFUSED = [(re.compile(rf"\b(?:{word})\b", re.IGNORECASE), instead) for word, _, instead in _ENTRIES]
_ANY_REFUSED = re.compile("|".join(rf"\b(?:{word})\b" for word, _, _ in _ENTRIES), re.IGNORECASE)
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


def hints(tree):
    """The literal parts of the arguments `hint=` of a module."""
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "hint"]
    return [part.value for value in values for part in ast.walk(value) if isinstance(part, ast.Constant)]


def docstrings(tree):
    values = [node.value for node in statements(tree) if isinstance(node, ast.Expr)]
    return [value.value for value in values if isinstance(value, ast.Constant)]


def comments(text):
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(token.string for token in tokens if token.type == tokenize.COMMENT)


def candidates(folder):
    """The texts that contain a refused word anywhere: parsing all others would take seconds."""
    sources = [source for source in (ROOT / folder).rglob("*.py") if not source.name.endswith("_pb2.py")]
    texts = {str(source.relative_to(ROOT)): source.read_text() for source in sources}
    return {source: text for source, text in texts.items() if _ANY_REFUSED.search(text)}


def found(parts):
    return [problem for part in parts if isinstance(part, str) for problem in refused(_CODE.sub("", part))]


@pytest.mark.parametrize("folder", PRODUCT)
def test_a_hint_uses_no_refused_word(folder):
    problems = {source: found(hints(ast.parse(text))) for source, text in candidates(folder).items() if "hint=" in text}
    assert [(source, words) for source, words in problems.items() if words] == []


@pytest.mark.parametrize("folder", WRITTEN)
def test_docstrings_and_comments_use_no_refused_word(folder):
    problems = {}
    for source, text in candidates(folder).items():
        has_comment = any(_ANY_REFUSED.search(line.partition("#")[2]) for line in text.splitlines())
        problems[source] = found([*docstrings(ast.parse(text)), *([comments(text)] if has_comment else [])])
    assert [(source, words) for source, words in problems.items() if words] == []

"""Links between the documents lead to files that exist, and the map leads to all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_to_a_file(page):
    targets = [target for target in _LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


_FILE = re.compile(r"`((?:build|cni|conf-examples|deviceplugin|ipam|tests)/[\w./-]*)`")


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", ROOT / "docs/architecture.md"], ids=lambda page: page.name)
def test_every_file_that_a_page_about_the_code_names_exists(page):
    named = _FILE.findall(page.read_text())
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_map_leads_to_every_page():
    docs = ROOT / "docs"
    linked = {(docs / target).resolve() for target in _LINK.findall((docs / "README.md").read_text())}
    pages = {page for folder in (docs, docs / "reference") for page in folder.glob("*.md")}
    assert sorted(page.name for page in pages - linked - {docs / "README.md"}) == []

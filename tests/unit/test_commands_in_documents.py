"""The commands in documents and hints exist, with the options that they mention."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from cni.tool.__main__ import _parser
from ipam.command.options import parser

ROOT = Path(__file__).parents[2]
PROGRAMS = {"barewire": _parser(), "barewire-ipam": parser()}
COMMAND = re.compile(
    r"\b(barewire(?:-ipam)?) ((?:gc|forget|status|list|show|release|fsck|free-node|adopt|reconcile)\b[^`\"#\n)]*)"
)


def places() -> list[Path]:
    """The texts for users: the documents, and the hints in the sources."""
    return [
        ROOT / "README.md",
        *sorted(ROOT.glob("docs/*.md")),
        *sorted(ROOT.glob("cni/**/*.py")),
        *sorted(ROOT.glob("ipam/*.py")),
    ]


def commands(program: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = [one.choices for one in program._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(found)


FOUND = sorted({match.groups() for path in places() for match in COMMAND.finditer(path.read_text())})


@pytest.mark.parametrize(("program", "words"), FOUND)
def test_a_command_in_documents_and_hints_exists(program, words):
    name, *rest = words.split()
    known = commands(PROGRAMS[program])
    assert name in known
    named = {option for word in rest for option in re.findall(r"^\[?(--[a-z-]+)", word)}
    assert named <= set(known[name]._option_string_actions)


def test_the_ways_out_of_dead_ends_are_reported():
    told = {(program, words.split()[0]) for program, words in FOUND}
    assert {("barewire", "forget"), ("barewire-ipam", "forget"), ("barewire-ipam", "free-node")} <= told

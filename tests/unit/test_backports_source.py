"""build/backports.awk derives the source of the backports suite from the machine's own sources."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = Path(__file__).parents[2] / "build" / "backports.awk"

DEB822 = """\
# the archive
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/other.gpg
"""

ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/debian.gpg] http://mirror.example/debian bookworm main contrib # x
deb http://mirror.example/debian-security bookworm-security main
"""


class Derived(NamedTuple):
    code: int
    lines: list[str]


@pytest.fixture(params=["awk", "busybox awk"])
def derive(request: pytest.FixtureRequest, tmp_path: Path):
    def run(**sources: str) -> Derived:
        paths = []
        for name, text in sources.items():
            paths.append(tmp_path / name.replace("_", "."))
            paths[-1].write_text(text)
        command = [*request.param.split(), "-v", "release=bookworm", "-f", str(SCRIPT), *map(str, paths)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
        )
        assert done.stderr == ""
        return Derived(done.returncode, done.stdout.splitlines())

    return run


def test_a_stanza_is_copied_with_place_components_and_inline_key(derive) -> None:
    assert derive(debian_sources=DEB822) == (
        0,
        [
            "Types: deb",
            "Suites: bookworm-backports",
            "URIs: http://mirror.example/debian",
            "Components: main",
            " contrib",
            "Signed-By:",
            " -----BEGIN PGP PUBLIC KEY BLOCK-----",
            " .",
            " abcd",
        ],
    )


def test_a_line_becomes_a_stanza_with_its_options(derive) -> None:
    code, lines = derive(sources_list=ONE_LINE)
    assert (code, lines[:2]) == (0, ["Types: deb", "Suites: bookworm-backports"])
    assert sorted(lines[2:]) == [
        "Architectures: amd64 arm64",
        "Components: main contrib",
        "Signed-by: /usr/share/keyrings/debian.gpg",
        "URIs: http://mirror.example/debian",
    ]


def test_a_line_without_options_becomes_a_stanza(derive) -> None:
    code, lines = derive(sources_list="deb http://mirror.example/debian bookworm main\n")
    assert (code, lines[2:]) == (0, ["URIs: http://mirror.example/debian", "Components: main"])


@pytest.mark.parametrize(
    "present",
    [
        "deb http://elsewhere.example/debian bookworm-backports main\n",
        "deb [trusted=yes] http://elsewhere.example/debian bookworm-backports main\n",
    ],
)
def test_a_suite_that_is_configured_already_is_left_alone(derive, present: str) -> None:
    assert derive(sources_list=ONE_LINE, more_list=present) == (0, [])
    assert derive(more_list=present) == (0, [])


def test_a_suite_in_a_stanza_that_is_configured_already_is_left_alone(derive) -> None:
    assert derive(debian_sources=DEB822.replace("bookworm-updates", "bookworm-backports")) == (0, [])


def test_a_disabled_stanza_counts_for_nothing(derive) -> None:
    assert derive(debian_sources="Enabled: no\n" + DEB822.partition("\n")[2]) == (3, [])


@pytest.mark.parametrize("text", ["", "deb http://mirror.example/debian trixie main\n"])
def test_without_a_source_of_the_release_there_is_nothing_to_derive_from(derive, text: str) -> None:
    assert derive(sources_list=text) == (3, [])


def test_without_any_file_there_is_nothing_to_derive_from(derive) -> None:
    assert derive() == (3, [])


def test_another_suite_is_derived_with_its_own_types_although_it_is_configured(tmp_path: Path) -> None:
    path = tmp_path / "debian.sources"
    path.write_text(DEB822)
    options = ("release=bookworm-security", "suite=bookworm-security", "kinds=deb deb-src")
    command = ["awk", *(word for option in options for word in ("-v", option)), "-f", str(SCRIPT), str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.splitlines() == [
        "Types: deb deb-src",
        "Suites: bookworm-security",
        "URIs: http://mirror.example/debian-security",
        "Components: main",
        "Signed-By: /usr/share/keyrings/other.gpg",
    ]

"""build/debian.py: packages of another release come from the machine's own mirror."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import debian
import pytest

if TYPE_CHECKING:
    from pathlib import Path

APT_CACHE = """#!/bin/sh
printf 'Package: p\\nVersion: 1:1.0-1\\n\\nPackage: p\\nVersion: 1:1.0-1+deb13u1\\n\\nPackage: p\\nVersion: 1:1.0-1~a\\n'
"""
APT_GET = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/log"
for last; do :; done
case $last in {refused}) echo "E: 404 $last" >&2; exit 100 ;; esac
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debian, "derived", lambda suite: f"Suites: {suite}\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    (tmp_path / "bin").mkdir()

    def make(refused: str) -> debian.Archive:
        for name, text in {"apt-cache": APT_CACHE, "apt-get": APT_GET.replace("{refused}", refused)}.items():
            path = tmp_path / "bin" / name
            path.write_text(text)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return debian.Archive("trixie", tmp_path / "cache")

    return make


def test_the_newest_version_is_taken(archive) -> None:
    assert archive(refused="none").source("p").name == "p_1.0-1+deb13u1.dsc"


def test_an_older_version_is_taken_where_the_mirror_lacks_files_of_the_newest_one(archive, capsys) -> None:
    assert archive(refused="*deb13u1").source("p").name == "p_1.0-1.dsc"
    assert "taking 1:1.0-1" in capsys.readouterr().err


def test_a_package_without_files_is_refused_with_the_reason_of_each_version(archive) -> None:
    with pytest.raises(debian.NotFetched, match=r"404 p=1:1\.0-1\+deb13u1(.|\n)*404 p=1:1\.0-1~a"):
        archive(refused="p=*").source("p")


def test_a_release_that_the_mirror_lacks_is_refused(archive) -> None:
    with pytest.raises(debian.NotFetched, match="404"):
        archive(refused="*update*|--error-on=any")


def test_apt_works_on_lists_of_its_own(archive, tmp_path: Path) -> None:
    archive(refused="none")
    (line,) = (tmp_path / "bin/log").read_text().splitlines()
    assert f"--option=Dir::State::Lists={tmp_path}/cache/lists" in line
    assert "--option=Dir::Etc::SourceParts=/dev/null" in line


def test_versions_are_ordered_as_debian_orders_them() -> None:
    assert debian.newest_first({"1.9", "1.10", "1.10~rc1", "1:0.1"}) == ["1:0.1", "1.10", "1.10~rc1", "1.9"]

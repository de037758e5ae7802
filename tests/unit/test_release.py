"""`make release` prepares a release and publishes nothing."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
import release

LOG = "# Changelog\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.1.0 - 2026-01-01\n\n- The first one.\n"
SOURCE = 'VERSION = "0.1.0"\n'
BUILD = f"""
import pathlib, shutil
for name in {release.BUNDLES}:
    folder = pathlib.Path("dist/release/bundles", name)
    folder.mkdir(parents=True)
    shutil.copy("cni/version.py", folder)
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "cni").mkdir()
    (tmp_path / "cni/version.py").write_text(SOURCE)
    (tmp_path / "CHANGELOG.md").write_text(LOG)
    (tmp_path / ".gitignore").write_text("/dist/\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build/bundles.py").write_text(BUILD)
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def status(repository):
    return subprocess.run(
        ["git", "status", "--porcelain"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout


def test_without_apply_the_release_is_shown_and_nothing_changes(repository, capsys):
    release.main(repository, "0.2.0", "2026-02-02", apply=False)
    assert "- A thing." in capsys.readouterr().out
    assert status(repository) == ""
    assert not (repository / "dist").exists()


def test_a_prepared_release_has_version_changelog_tag_message_archives_and_checksums(repository):
    release.main(repository, "0.2.0", "2026-02-02", apply=True)
    assert (repository / "cni/version.py").read_text() == 'VERSION = "0.2.0"\n'
    assert (
        "## Unreleased\n\n## 0.2.0 - 2026-02-02\n\n### Added\n\n- A thing." in (repository / "CHANGELOG.md").read_text()
    )
    out = repository / "dist/release"
    assert (out / "tag-message").read_text() == "Barewire 0.2.0\n\n### Added\n\n- A thing.\n"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, check=True, capture_output=True)
    with tarfile.open(out / "barewire-0.2.0-x86_64.tar.gz") as tar:
        member = tar.extractfile("barewire/version.py")
        assert member is not None
        assert member.read() == b'VERSION = "0.2.0"\n'  # built after the version was changed


def test_a_prepared_release_is_neither_committed_nor_tagged(repository):
    release.main(repository, "0.2.0", "2026-02-02", apply=True)
    assert [line.split()[1] for line in status(repository).splitlines()] == ["CHANGELOG.md", "cni/version.py"]
    assert subprocess.run(["git", "tag"], cwd=repository, check=True, capture_output=True).stdout == b""


def test_the_same_bundle_gives_the_same_archive(tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in ("b", "a"):
        (bundle / name).write_text(name)
    release.archive(bundle, tmp_path / "one.tar.gz")
    for path in (bundle, bundle / "a"):
        path.touch()
    release.archive(bundle, tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_a_working_tree_with_changes_is_refused(repository):
    (repository / "cni/version.py").write_text(SOURCE + "# changed\n")
    with pytest.raises(release.NotReady, match=r"cni/version\.py"):
        release.main(repository, "0.2.0", "2026-02-02", apply=False)


@pytest.mark.parametrize("version", ["0.0.9", "0.2", "v0.2.0", "0.2.0rc1"])
def test_a_malformed_or_older_version_is_refused(version):
    with pytest.raises(release.NotReady, match=r"older than|not a version"):
        release.version_file(SOURCE, version)


@pytest.mark.parametrize(
    ("changelog", "problem"),
    [
        (LOG.replace("### Added\n\n- A thing.\n\n", ""), "no changes"),
        (LOG.replace("Unreleased", "Other"), "no changes"),
        (LOG.replace("0.1.0", "0.2.0"), "already"),
    ],
)
def test_a_changelog_without_changes_or_with_this_version_is_refused(changelog, problem):
    with pytest.raises(release.NotReady, match=problem):
        release.dated(changelog, "0.2.0", "2026-02-02")


def test_the_repository_itself_can_be_released():
    root = Path(__file__).parents[2]
    assert release.version_file((root / "cni/version.py").read_text(), "0.1.0")
    assert release.dated((root / "CHANGELOG.md").read_text(), "0.1.0", "2026-02-02")

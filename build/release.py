"""Prepares a release: version, section of the changelog, tag message, archives of the bundles, checksums.

`release.py VERSION` shows the preparation and changes nothing. `release.py VERSION --apply` edits cni/version.py and
CHANGELOG.md, and writes the rest to dist/release. It neither commits nor tags nor pushes: it prints the commands.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gzip
import hashlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNRELEASED = "## Unreleased"
BUNDLES = ("barewire", "barewire-node", "barewire-kubevirt")
"""The directories that a release contains; build/bundles.py builds them."""

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class NotReady(Exception):
    """The repository is not ready for the release; the message names the reason."""


def version_file(text: str, version: str) -> str:
    """cni/version.py with the new version. Raises `NotReady` if the version is malformed or older."""
    old = re.search(r'VERSION = "(.+)"', text)
    if old is None or (new := _VERSION.fullmatch(version)) is None:
        raise NotReady(f"{version} is not a version of the form 1.2.3")
    before = _VERSION.fullmatch(old[1])
    if before and tuple(map(int, new.groups())) < tuple(map(int, before.groups())):
        raise NotReady(f"{version} is older than {old[1]}")
    return text.replace(old[0], f'VERSION = "{version}"')


def changes(changelog: str) -> str:
    """The section of unreleased changes, without its title. Raises `NotReady` if it is empty."""
    _, found, rest = changelog.partition(f"{UNRELEASED}\n")
    text = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not found or not text:
        raise NotReady(f"CHANGELOG.md has no changes below {UNRELEASED!r}")
    return text


def dated(changelog: str, version: str, date: str) -> str:
    """The changelog with the unreleased changes below the title of the version, and an empty section above."""
    if f"## {version} " in changelog:
        raise NotReady(f"CHANGELOG.md already has a section for {version}")
    changes(changelog)
    return changelog.replace(f"{UNRELEASED}\n", f"{UNRELEASED}\n\n## {version} - {date}\n", 1)


def archive(bundle: Path, target: Path) -> None:
    """Packs a bundle. The same bundle gives the same bytes: sorted names, no times, no owners."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with (
        target.open("wb") as out,
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in [bundle, *sorted(bundle.rglob("*"))]:
            tar.add(path, arcname=path.relative_to(bundle.parent), recursive=False, filter=plain)


def checksums(files: list[Path]) -> str:
    """The lines of a SHA256SUMS file."""
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(files))


def require_clean(root: Path) -> None:
    """Raises `NotReady` if the working tree has changes, which the tag would not contain."""
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, check=True, capture_output=True, text=True)
    if status.stdout:
        raise NotReady(f"the working tree has changes:\n{status.stdout}")


def main(root: Path, version: str, date: str, apply: bool) -> None:
    """Shows the release, and prepares it with `apply`."""
    require_clean(root)
    source, log = root / "cni/version.py", root / "CHANGELOG.md"
    new_source, old_log = version_file(source.read_text(), version), log.read_text()
    new_log, message = dated(old_log, version, date), f"Barewire {version}\n\n{changes(old_log)}\n"
    if not apply:
        print(f"{message}\nnothing was changed; `make release VERSION={version} APPLY=--apply` prepares this release")
        return
    source.write_text(new_source)
    log.write_text(new_log)
    out = root / "dist/release"
    out.mkdir(parents=True, exist_ok=True)
    archives = []
    subprocess.run([sys.executable, root / "build/bundles.py"], cwd=root, check=True)
    for name in BUNDLES:
        archives.append(out / f"{name}-{version}-x86_64.tar.gz")
        archive(out / "bundles" / name, archives[-1])
    (out / "SHA256SUMS").write_text(checksums(archives))
    (out / "tag-message").write_text(message)
    print(f"dist/release is complete. After `make test` and `make floor`, run:\n{commands(version)}")


def commands(version: str) -> str:
    """The remaining steps, which a maintainer runs."""
    return (
        f"  git commit --message 'Release {version}' cni/version.py CHANGELOG.md\n"
        f"  git tag --annotate v{version} --cleanup=verbatim --file dist/release/tag-message\n"
        f"  git push origin main v{version}\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--apply", action="store_true", help="prepare the release instead of showing it")
    arguments = parser.parse_args()
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    try:
        main(ROOT, arguments.version, today, arguments.apply)
    except NotReady as problem:
        sys.exit(f"release: {problem}")

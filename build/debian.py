"""Debian's packages of other releases than the machine's, from the mirror that the machine uses.

The sources are derived from the configured ones (build/backports.awk), so no mirror is named here, and apt verifies the
signatures as always. Lists and packages go to a directory of their own: the machine's apt is not changed.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

_BUILD = Path(__file__).parent
_ETC = Path("/etc/apt")
_MINUTES = 10


class NotFetched(Exception):
    """The mirror does not have what is needed, or cannot be reached; the message names it."""


class Archive:
    """The packages of one release of Debian, `suite`, and of its security updates.

    `folder` keeps the lists and all that is fetched. Raises `NotFetched` when the mirror does not have the release.
    """

    def __init__(self, suite: str, folder: Path) -> None:
        self.suite = suite
        self.folder = folder
        (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        (folder / "archives/partial").mkdir(parents=True, exist_ok=True)
        (folder / "debian.sources").write_text(derived(suite))
        self._apt("apt-get", "update", "--error-on=any")

    def source(self, package: str) -> Path:
        """The .dsc file of the newest source package that the mirror has; its other files lie beside it.

        A mirror may list a version whose files it does not have (yet): the next older one is taken then.
        """
        listed = self._apt("apt-cache", "showsrc", "--only-source", package)
        refused = []
        for version in newest_first(set(re.findall(r"^Version: (\S+)$", listed, re.MULTILINE))):
            try:
                self._apt("apt-get", "source", "--download-only", f"{package}={version}")
            except NotFetched as problem:
                refused.append(str(problem))
                continue
            if refused:
                print(
                    f"debian: the mirror lacks files of newer versions of {package}: taking {version}", file=sys.stderr
                )
            return self.folder / f"{package}_{version.partition(':')[2] or version}.dsc"
        raise NotFetched("\n".join(refused) or f"{self.suite} has no source package {package}")

    def unpacked(self, package: str, into: Path) -> None:
        """Unpacks the files of a binary package into a directory; none of its scripts is executed."""
        work = self.folder / "packages" / package
        work.mkdir(parents=True, exist_ok=True)
        for old in work.glob("*.deb"):
            old.unlink()
        self._apt("apt-get", "download", package, cwd=work)
        (file,) = work.glob("*.deb")
        _output(["dpkg-deb", "--extract", str(file), str(into)])

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc::SourceList": self.folder / "debian.sources",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::Status": "/dev/null",
            "Dir::Cache": self.folder,
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "root",
            "Acquire::Retries": 3,
        }
        given = [f"--option={key}={value}" for key, value in options.items()]
        return _output([program, *given, *arguments], cwd or self.folder)


def derived(suite: str) -> str:
    """The sources of a release and of its security updates, from where the machine's own come."""
    own = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    files = [path for path in (_ETC / "sources.list", *sorted((_ETC / "sources.list.d").glob("*"))) if path.is_file()]
    stanzas = []
    for part in ("", "-security"):
        names = [f"release={own}{part}", f"suite={suite}{part}", "kinds=deb deb-src"]
        options = [option for name in names for option in ("-v", name)]
        stanzas.append(_output(["awk", *options, "-f", str(_BUILD / "backports.awk"), *map(str, files)]))
    return "\n".join(stanzas)


def newest_first(versions: set[str]) -> list[str]:
    """Versions of a package in Debian's order."""
    rest = sorted(versions)
    ordered: list[str] = []
    for version in rest:
        at = next((at for at, other in enumerate(ordered) if _newer(version, other)), len(ordered))
        ordered.insert(at, version)
    return ordered


def _newer(one: str, other: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", one, "gt", other], check=False).returncode == 0


def _output(argv: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_MINUTES * 60,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        raise NotFetched(f"{argv[0]} {argv[-1]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout

"""Selects the files of the host for the guest's root: those of installed Debian packages and their dependencies."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.lab.errors import LabError

LIST = Path(__file__).with_name("packages.txt")
GUEST_HEADING = "# guest"
LEFT_OUT = re.compile(
    r"/usr/share/(doc|man|info|locale|lintian|bug|bash-completion|zoneinfo|icons|applications|perl|perl5|gdb)/"
    r"|/usr/lib/x86_64-linux-gnu/(perl|perl-base)/|/usr/lib/udev/hwdb\.d/|/usr/include/|\.a$"
)

Depends = dict[str, list[list[str]]]


def guest_packages() -> list[str]:
    """The names under the heading for the guest in packages.txt, and kmod, which both host and guest need."""
    text = LIST.read_text().partition(GUEST_HEADING)[2]
    return ["kmod", *(line for line in text.splitlines() if line and not line.startswith("#") and " " not in line)]


def closure(seeds: Iterable[str]) -> dict[str, str]:
    """The installed packages that these require, including themselves, with their versions.

    Raises LabError if a seed is not installed. Dependencies that are not installed are left out.
    """
    versions, depends, provided = _installed()
    absent = sorted(seed for seed in seeds if seed not in versions)
    if absent:
        raise LabError(f"Debian packages are missing: {' '.join(absent)}", hint="run build/bootstrap.sh")
    found: dict[str, str] = {}
    todo = list(seeds)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found[name] = versions[name]
        for alternatives in depends[name]:
            todo += [real for one in alternatives if (real := one if one in versions else provided.get(one, ""))][:1]
    return found


def _installed() -> tuple[dict[str, str], Depends, dict[str, str]]:
    pattern = "${db:Status-Status}\t${Package}\t${Version}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    text = subprocess.run(["dpkg-query", "-W", "-f", pattern], stdout=subprocess.PIPE, text=True, check=True).stdout
    versions: dict[str, str] = {}
    depends: Depends = {}
    provided: dict[str, str] = {}
    for line in text.splitlines():
        status, name, version, needs, provides = line.split("\t")
        if status == "installed":
            versions[name] = version
            depends[name] = [[_name(one) for one in need.split("|")] for need in needs.split(",") if need.strip()]
            provided.update((_name(one), name) for one in provides.split(",") if one.strip())
    return versions, depends, provided


def _name(dependency: str) -> str:
    """`libc6:amd64 (>= 2.36)` -> `libc6`."""
    return re.split(r"[ :(]", dependency.strip())[0]


def files_of(names: Iterable[str]) -> set[str]:
    """The files and symlinks of these packages that are useful in the guest, under their real folders."""
    text = subprocess.run(["dpkg", "-L", *names], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {
        real(path)
        for path in text.splitlines()
        if path.startswith("/") and not LEFT_OUT.search(path) and (os.path.islink(path) or os.path.isfile(path))
    }


def real(path: str) -> str:
    """The path under its real folder: some packages still name files under /bin and /lib, which are symlinks."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def libraries_of(programs: Iterable[str]) -> set[str]:
    """The shared libraries that these programs and libraries load, with the symlinks to them."""
    names = list(programs)
    if not names:
        return set()
    answer = subprocess.run(["ldd", *names], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    found = set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", answer.stdout, re.MULTILINE))
    return {real(path) for path in found} | {os.path.realpath(path) for path in found}

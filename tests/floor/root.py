"""A root directory with glibc and zlib of a release of Debian, and a shell: the least that a node has."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import debian

CACHE = Path(__file__).parents[2] / ".cache/floor"
OWN = "this machine"
"""In the place of a release: the glibc of the machine that runs the tests."""

SECONDS = 60
_PACKAGES = ("libc6", "zlib1g")
"""PyInstaller's bootloader, which begins each program, is linked with both."""
_SHELL = "/bin/busybox"
_TOOLS = ("sh", "cat", "ls", "env", "mkdir", "chroot")
# The mounts are those of the command's own mount namespace, and end with it.
_ENTER = """
for folder in proc sys dev; do mount --rbind "/$folder" "$0/$folder"; done
exec chroot "$0" "$@"
"""


class Answer(NamedTuple):
    """The end of a command."""

    code: int
    out: str
    err: str


class Root(NamedTuple):
    """A root directory, in which commands are run."""

    path: Path
    release: str

    def start(self, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts a command in the root, with exactly this environment; its streams are pipes."""
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _ENTER, str(self.path), *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, env: dict[str, str] | None = None, stdin: str = "") -> Answer:
        """Runs a command in the root. Raises `TimeoutExpired` after a minute."""
        with self.start(*command, env=env) as process:
            try:
                out, err = process.communicate(stdin, timeout=SECONDS)
            finally:
                process.kill()
        return Answer(process.returncode, out, err)

    def glibc(self) -> tuple[int, ...]:
        """The version in the library itself."""
        (libc,) = self.path.rglob("libc.so.6")
        found = re.search(rb"GNU C Library .*release version (\d+)\.(\d+)", libc.read_bytes())
        assert found, libc
        return tuple(map(int, found.groups()))


def make(release: str, path: Path) -> Root:
    """Makes a root. Raises `debian.NotFetched` if the mirror does not have the release (any more)."""
    path.mkdir()
    if release == OWN:
        _copy_own(path)
    else:
        archive = debian.Archive(release, CACHE / release)
        for package in _PACKAGES:
            archive.unpacked(package, path)
    for folder in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "var/lib"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(_SHELL, path / "bin/busybox")
    for tool in _TOOLS:
        (path / "bin" / tool).symlink_to("busybox")
    return Root(path, release)


def _copy_own(path: Path) -> None:
    listed = subprocess.run(["dpkg", "--listfiles", *_PACKAGES], capture_output=True, text=True, check=True).stdout
    for file in listed.splitlines():
        if ".so" in file and "gconv" not in file and Path(file).is_file() and not file.startswith("/etc/"):
            target = path / file.removeprefix("/usr").lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            target.chmod(0o755)

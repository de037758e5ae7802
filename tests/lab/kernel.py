"""The guest's kernel: Debian's own package, fetched into the cache and unpacked there, never installed on the host.

The tests use igb's VFs in ways that need about Linux 6.12. Debian 12 has it in bookworm-backports, later releases in
main.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.progress import Say

PACKAGE = "linux-image-amd64"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Kernel:
    """`release` is the output of `uname -r` in the guest; `tree` contains `lib/modules/<release>` with its
    `modules.dep`.
    """

    release: str
    vmlinux: Path
    tree: Path

    def module_files(self, *names: str) -> list[Path]:
        """The files of these modules and their dependencies, in the order of loading; built-in modules have none."""
        answer = _output("modprobe", "-d", str(self.tree), "-S", self.release, "--show-depends", "-a", *names)
        paths = [line.split()[1] for line in answer.splitlines() if line.startswith("insmod ")]
        return [Path(path) for path in dict.fromkeys(paths)]


def kernel(cache: Path, say: Say) -> Kernel:
    """The kernel in the cache, which is fetched if there is none. To update it, clear the cache."""
    kept = sorted((cache / "kernel").glob("*/vmlinux"))
    folder = kept[-1].parent if kept else _fetch(cache, say)
    tree = next(path for path in (folder / "usr", folder) if (path / "lib/modules").is_dir())
    return Kernel(release=folder.name, vmlinux=folder / "vmlinux", tree=tree)


def _fetch(cache: Path, say: Say) -> Path:
    package, version = _newest()
    work = cache / "kernel.partial"
    shutil.rmtree(work, ignore_errors=True)
    (work / "tree").mkdir(parents=True)
    say(f"fetching {package} {version}")
    options = ("-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root")
    _output("apt-get", "download", *options, f"{package}={version}", cwd=work)
    say("unpacking the kernel")
    _output("dpkg-deb", "-x", str(next(work.glob("*.deb"))), str(work / "tree"))
    release = package.removeprefix("linux-image-")
    _prepare(work / "tree", release)
    folder = cache / "kernel" / release
    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    (work / "tree").rename(folder)
    shutil.rmtree(work)
    return folder


def _newest() -> tuple[str, str]:
    """The kernel package of the metapackage's newest version, and its version."""
    found = []
    for stanza in _output("apt-cache", "show", PACKAGE).split("\n\n"):
        meta = re.search(r"^Version: (\S+)$", stanza, re.MULTILINE)
        real = re.search(r"^Depends: .*?(linux-image-\d\S+) \(= (\S+)\)", stanza, re.MULTILINE)
        if meta and real:
            found.append((real[1], real[2]))
    if not found:
        raise LabError(f"apt knows no {PACKAGE}", hint="run build/bootstrap.sh, which adds the suite that has it")
    newest = found[0]
    for one in found[1:]:
        if subprocess.run(["dpkg", "--compare-versions", one[1], "gt", newest[1]], check=False).returncode == 0:
            newest = one
    return newest


def _prepare(tree: Path, release: str) -> None:
    """Makes `vmlinux` and `modules.dep`, which the package's own scripts would make."""
    (tree / "vmlinux").write_bytes(_elf((tree / "boot" / f"vmlinuz-{release}").read_bytes()))
    shutil.rmtree(tree / "boot")
    base = tree / "usr" if (tree / "usr/lib/modules").is_dir() else tree
    _output("depmod", "-b", str(base), release)


def _elf(image: bytes) -> bytes:
    """The uncompressed kernel inside a bzImage, which QEMU starts through PVH, so that no decompressor runs emulated.

    Offsets are those of the x86 boot protocol (Documentation/arch/x86/boot.rst): setup_sects at 0x1f1, payload_offset
    and payload_length at 0x248. The last four bytes of the payload are its unpacked size.
    """
    protected = (image[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[protected + offset : protected + offset + length - 4]
    if not payload.startswith(ZSTD_MAGIC):
        raise LabError("the kernel is not packed with zstd", hint="teach tests/lab/kernel.py how this one is packed")
    return subprocess.run(["zstd", "-dc"], input=payload, stdout=subprocess.PIPE, check=True).stdout


def _output(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise LabError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout

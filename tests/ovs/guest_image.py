"""The files from which guests on vhost-user ports boot: the lab's kernel, and an initramfs with a shell and a driver.

The initramfs is made once and kept in `.cache/guests`, under a key of its inputs. `python -m tests.ovs.guest_image`
makes it ahead of time, and fetches the kernel if the lab has not done that yet.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.lab import image as lab, kernel as kernels
from tests.lab.progress import Say, silent

INIT = Path(__file__).with_name("guest_init")
BUSYBOX = Path("/bin/busybox")
CACHE = lab.REPOSITORY / ".cache" / "guests"
# Debian's kernel has PCI, virtio's transport, its console and the initramfs built in.
MODULES = ("virtio_net",)
# Options that save time under emulation; a guest without IPv6 sends no unsolicited frames.
KERNEL_OPTIONS = (
    "quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable cryptomgr.notests random.trust_cpu=on audit=0 "
    "nowatchdog net.ifnames=0 ipv6.disable=1"
)

MEMORY_MIB = 96
"""A running guest has 30 MiB of it free."""


@dataclass(frozen=True)
class GuestImage:
    kernel: Path
    initramfs: Path


@cache
def guest_image(say: Say = silent) -> GuestImage:
    """Makes the image. Raises LabError if a required Debian package is missing."""
    lab.CACHE.mkdir(parents=True, exist_ok=True)
    with lab._locked(lab.CACHE):
        kernel = kernels.kernel(lab.CACHE, say)
    CACHE.mkdir(parents=True, exist_ok=True)
    with lab._locked(CACHE):
        key = lab._digest([kernel.release, MODULES, INIT.read_text(), BUSYBOX.stat().st_mtime_ns])
        initramfs = lab._cached(CACHE, "initramfs", ".cpio", key, say, lambda to: _initramfs(kernel, to))
    return GuestImage(kernel.vmlinux, initramfs)


def kernel_command_line(*addresses: str) -> str:
    """`addresses`, each of the form 10.9.0.1/24 or empty, are for the network cards in their order."""
    return f"console=ttyS0 {KERNEL_OPTIONS} guest.addresses={','.join(addresses)}"


def _initramfs(kernel: kernels.Kernel, to: Path) -> None:
    with lab._stage(to) as stage:
        for folder in ("bin", "modules", "dev", "proc", "sys"):
            (stage / folder).mkdir()
        shutil.copy(BUSYBOX, stage / "bin/busybox")
        shutil.copy(INIT, stage / "init")
        (stage / "init").chmod(0o755)
        modules = kernel.module_files(*MODULES)
        (stage / "modules.order").write_text("".join(f"/modules/{lab._unpacked(path)}\n" for path in modules))
        for path in modules:
            lab._unpack(path, stage / "modules" / lab._unpacked(path))
        _pack(stage, to)


def _pack(stage: Path, to: Path) -> None:
    files = subprocess.run(["find", "."], cwd=stage, stdout=subprocess.PIPE, check=True).stdout
    with to.open("wb") as out:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=stage, input=files, stdout=out, check=True
        )


if __name__ == "__main__":
    print(guest_image(print).initramfs)

"""The kernel's own simulated network card in the guest: netdevsim accepts the VF settings that igb refuses.

Debian's kernels do not contain it. It is built once from Debian's source of exactly the same kernel, and kept in the
cache of the lab. Its devices are on a bus of their own and have no PCI address; their VFs exist as settings only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.lab import kernel as kernels
from tests.lab.errors import LabError
from tests.lab.image import CACHE
from tests.lab.kernel import Kernel
from tests.lab.progress import Say, silent
from tests.lab.vm import Vm

NAME = "netdevsim1"
DEVICE = f"/sys/bus/netdevsim/devices/{NAME}"
SOURCES = ("drivers/net/netdevsim", "drivers/ptp/ptp_mock.c")
# netdevsim needs a mock clock, which Debian's kernels do not contain either: it becomes part of the module.
MAKEFILE = "\nnetdevsim-objs += ptp_mock.o\nccflags-y += -DCONFIG_PTP_1588_CLOCK_MOCK=1\n"
# BTF would require the kernel's whole debug information.
CONFIG = ("CONFIG_NETDEVSIM=m", "CONFIG_DEBUG_INFO_BTF_MODULES=")
_PORTS = f"""
import json, os
names = os.listdir("{DEVICE}/net")
print(json.dumps({{name: open(f"/sys/class/net/{{name}}/phys_port_name").read().strip() for name in names}}))
"""


class Netdevsim:
    """A device with that many VFs, which exists inside the `with` block."""

    def __init__(self, vm: Vm, vfs: int) -> None:
        self._vm = vm
        self._vfs = vfs

    def __enter__(self) -> Self:
        _load(self._vm)
        self._write("/sys/bus/netdevsim/new_device", "1 1")
        self.set_vfs(self._vfs)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._write("/sys/bus/netdevsim/del_device", "1")

    def set_vfs(self, number: int) -> None:
        """Sets the number of VFs, which then have no settings."""
        self._write(f"{DEVICE}/sriov_numvfs", "0")
        self._write(f"/sys/kernel/debug/netdevsim/{NAME}/max_vfs", str(max(number, 4)))
        self._write(f"{DEVICE}/sriov_numvfs", str(number))

    def switchdev(self) -> None:
        """Makes the embedded switch visible, so that each VF gets a representor."""
        self._vm.run("devlink", "dev", "eswitch", "set", f"netdevsim/{NAME}", "mode", "switchdev")

    def port_names(self) -> dict[str, str]:
        """phys_port_name of each of its network devices, by interface name."""
        names: dict[str, str] = json.loads(self._vm.python(_PORTS).out)
        return names

    @property
    def pf(self) -> str:
        """Interface name of the PF."""
        return next(name for name, port in self.port_names().items() if port == "p1")

    def _write(self, path: str, text: str) -> None:
        self._vm.run("bash", "-c", 'printf %s "$1" >"$2"', "write", text, path)


def _load(vm: Vm) -> None:
    if vm.run("test", "-d", "/sys/bus/netdevsim", check=False).rc == 0:
        return
    for module in modules(kernels.kernel(CACHE, silent), CACHE):
        vm.put(f"/run/lab/{module.name}", module.read_bytes())
        vm.run("insmod", f"/run/lab/{module.name}")


def modules(kernel: Kernel, cache: Path, say: Say = silent) -> list[Path]:
    """The files of netdevsim and its dependencies, in the order of loading; builds those that are not in the cache."""
    folder = cache / "netdevsim" / kernel.release
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            say("building netdevsim")
            with tempfile.TemporaryDirectory(dir=folder.parent) as work:
                made = Path(work) / "made"
                made.mkdir()
                _unpacked_psample(kernel, made / "psample.ko")
                _build(kernel, Path(work), made / "netdevsim.ko")
                made.rename(folder)
    return [folder / "psample.ko", folder / "netdevsim.ko"]


def _unpacked_psample(kernel: Kernel, to: Path) -> None:
    (path,) = kernel.module_files("psample")
    with to.open("wb") as out:
        subprocess.run(["xz", "-dc", str(path)], stdout=out, check=True)


def _build(kernel: Kernel, work: Path, to: Path) -> None:
    _fetch(kernel, work)
    source = next((work / "usr/src").glob("linux-source-*.tar.xz"))
    tree = source.name.removesuffix(".tar.xz")
    _run("tar", "-C", str(work), "-xJf", str(source), *(f"{tree}/{path}" for path in SOURCES))
    module = work / tree / SOURCES[0]
    shutil.copy(work / tree / SOURCES[1], module)
    with (module / "Makefile").open("a") as makefile:
        makefile.write(MAKEFILE)
    headers = work / "usr/src" / f"linux-headers-{kernel.release}"
    # The headers expect to be installed, but here they are only unpacked.
    entry = headers / "Makefile"
    entry.write_text(entry.read_text().replace(" /usr/src/", f" {work}/usr/src/"))
    _run("make", "-C", str(headers), f"M={module}", *CONFIG, "modules")
    _run("strip", "-g", "-o", str(to), str(module / "netdevsim.ko"))


def _fetch(kernel: Kernel, work: Path) -> None:
    """Unpacks the kernel's headers, its build tools and its source, all in the kernel's version."""
    headers = f"linux-headers-{kernel.release}"
    about = _run("apt-cache", "show", "--no-all-versions", headers)
    version = re.search(r"^Version: (\S+)$", about, re.MULTILINE)
    needs = re.findall(r"linux-(?:headers|kbuild)-[^ ,]+", about.partition("\nDepends: ")[2].partition("\n")[0])
    if not version:
        raise LabError(f"apt knows no {headers}", hint="make the cache fetch the current kernel: rm -r .cache/lab")
    source = "linux-source-" + ".".join(kernel.release.split(".")[:2])
    options = ("-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root")
    names = [f"{name}={version[1]}" for name in (headers, *needs, source)]
    _run("apt-get", "download", *options, *names, cwd=work)
    for package in work.glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(work))


def _run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise LabError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    print(*modules(kernels.kernel(CACHE, print), CACHE, print), sep="\n")

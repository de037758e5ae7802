"""Checks that the machine is as the tests expect. QEMU's VFs can look well and not work, so this comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.lab.errors import LabError
from tests.lab.topology import Pf, pfs
from tests.lab.vm import Vm

# Messages of the kernel after a driver has crashed or damage was noticed; `quiet` does not hide them.
_CRASH = re.compile(r"BUG:|\bOops\b|general protection fault|Kernel panic|Unable to handle|soft lockup|hung task")

FOUR_GIB = 1 << 32
# Sets the link up, waits up to 10 s for a carrier, and sets it down again. Prints the carrier.
_CARRIER = """
ip link set "$0" up
for _ in $(seq 200); do
    [ "$(cat "/sys/class/net/$0/carrier")" != 1 ] || break
    sleep 0.05
done
cat "/sys/class/net/$0/carrier"
ip link set "$0" down
"""


def require_health(vm: Vm) -> None:
    """Raises LabError with all problems."""
    found = pfs(vm)
    problems = [] if len(found) == vm.pfs else [f"{len(found)} PFs, not {vm.pfs}"]
    for pf in found:
        problems += _problems(vm, pf)
    if vm.run("test", "-d", "/sys/bus/pci/drivers/vfio-pci", check=False).rc:
        problems.append("the driver vfio-pci is not there")
    if problems:
        raise LabError("the lab is not healthy: " + "; ".join(problems))


def crashes(console: str) -> list[str]:
    """The lines that report a crash of the kernel."""
    return [line.strip() for line in console.splitlines() if _CRASH.search(line)]


def _problems(vm: Vm, pf: Pf) -> Iterator[str]:
    if len(pf.vfs) != vm.vfs:
        yield f"{pf.netdev} has {len(pf.vfs)} VFs, not {vm.vfs}"
    if len({vf.iommu_group for vf in pf.vfs} - {None}) != len(pf.vfs):
        yield f"the VFs of {pf.netdev} have no IOMMU group each"
    for vf in pf.vfs:
        if not 0 < vf.bar0 < FOUR_GIB:
            yield f"BAR 0 of {vf.address} is at {vf.bar0:#x}: only below 4 GiB does QEMU's VF work"
        if vf.driver != "igbvf" or not vf.netdev:
            yield f"{vf.address} has driver {vf.driver} and netdev {vf.netdev}"
    if pf.vfs and pf.vfs[0].netdev and vm.run("bash", "-c", _CARRIER, pf.vfs[0].netdev).out.strip() != "1":
        yield f"{pf.vfs[0].netdev} has no carrier"

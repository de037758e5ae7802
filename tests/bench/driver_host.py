"""`python -m tests.bench.driver_host`: frames per second by the driver host's drivers, beside DPDK's on the same VF.

The lab emulates processor and cards in software. The ratios are those of that machine: DPDK's processes poll, and share
its two emulated CPUs with all else.
"""

from __future__ import annotations

import json

from tests.bench.lab import lab
from tests.lab.image import REPOSITORY
from tests.lab.test_sriov_devices import BIND
from tests.lab.testpmd import put_testpmd
from tests.lab.topology import pfs

SOURCE = "/run/source"
FIRST = "testpmd on the VF"
SECONDS = 600


def run() -> str:
    """Boots the lab, measures, and returns the report."""
    with lab() as vm:
        for package in ("cni", "driverhost", "tests/bench"):
            vm.put_tree(REPOSITORY / package, f"{SOURCE}/{package}")
        vm.run("modprobe", "vfio-pci")
        pf = pfs(vm)[0]
        for number in (0, 1):
            vm.run("ip", "link", "set", pf.netdev, "vf", str(number), "mac", f"02:00:00:00:15:0{number}")
        found = vm.sh("grep -l 0x1041 /sys/bus/pci/devices/*/device").out.split()
        devices = [vf.address for vf in pf.vfs[:2]] + [path.split("/")[-2] for path in found]
        for address in devices:
            vm.run("bash", "-c", BIND, address, "vfio-pci")
        python = vm.python("import sys\nprint(sys.executable)").out.strip()
        program = f"{SOURCE}/tests/bench/driver_host_program.py"
        command = ("env", f"PYTHONPATH={SOURCE}", python, program, *devices, "/run/vhost", *put_testpmd(vm))
        return report(json.loads(vm.run(*command, timeout=SECONDS).out))


def report(rates: dict[str, float]) -> str:
    """A table of the rates, in frames per second, and of their ratios to DPDK's on the VF."""
    lines = [f"{name:45}{rate:12.0f}{rate / rates[FIRST]:10.3f}" for name, rate in rates.items()]
    return "\n".join([f"{'frames of 60 bytes in the lab':45}{'a second':>12}{'ratio':>10}", *lines])


if __name__ == "__main__":
    print(run())

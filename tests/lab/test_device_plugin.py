"""The device plugin's core on a real VF, a real IOMMU, and two cards that share a group. With a kubelet: tests/contract."""

from __future__ import annotations

import json

from tests.lab.attaching import changes, wait_for
from tests.lab.image import REPOSITORY
from tests.lab.test_sriov_devices import driver_of, nics  # noqa: F401 - a fixture

SOURCE = "/run/source"
PROGRAM = REPOSITORY / "tests/lab/device_plugin_guest.py"


def test_a_device_is_bound_given_taken_back_and_its_group_respected(lab, nics):  # noqa: F811
    for package in ("cni", "deviceplugin"):
        lab.vm.put_tree(REPOSITORY / package, f"{SOURCE}/{package}")
    lab.vm.run("modprobe", "vfio-pci")
    vf = lab.vfs[0]
    arguments = [lab.pf.netdev, vf.address, *nics]
    start = f"import sys\nsys.path.insert(0, {SOURCE!r})\nsys.argv[1:] = {arguments!r}\n"
    code = PROGRAM.read_text().replace("import asyncio\n", f"import asyncio\n{start}", 1)
    seen = json.loads(lab.vm.python(code, check=True).out)
    assert seen == {
        "vfs": True,
        "healthy while both have network drivers": [False, False],
        "healthy while the other has none": [True, False],
        "event of the bind": True,
        "driver while held": "vfio-pci",
        "healthy while one is held": [True, False],
        "in use while open": True,
        "in use when closed": False,
        "healthy when it is released": [True, False],
        "driver as found": True,
    }
    wait_for(lambda: driver_of(lab, nics[1]) == "e1000", "the driver's return")
    assert changes(lab) == []

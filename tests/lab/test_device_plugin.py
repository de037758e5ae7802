"""The device plugin's core on real VFs, a real IOMMU, and two cards that share a group.

tests/deviceplugin has the tests with a kubelet.
"""

from __future__ import annotations

import json

import pytest

from tests.lab.image import REPOSITORY
from tests.lab.test_sriov_devices import nics  # noqa: F401 - a fixture
from tests.lab.testpmd import put_testpmd

SOURCE = "/run/source"
PROGRAM = REPOSITORY / "tests/lab/device_plugin_guest.py"
MODULES = ("device_group_guest.py", "vfio_user.py")


@pytest.mark.leaves_traces("the VFs are new ones")
def test_devices_are_bound_used_and_taken_back_with_their_groups_and_vfs_come_and_go(lab, nics):  # noqa: F811
    for package in ("cni", "deviceplugin"):
        lab.vm.put_tree(REPOSITORY / package, f"{SOURCE}/{package}")
    for module in MODULES:
        lab.vm.put(f"{SOURCE}/tests/lab/{module}", (REPOSITORY / "tests/lab" / module).read_text())
    lab.vm.run("modprobe", "vfio-pci")
    arguments = [lab.pf.address, lab.pf.netdev, lab.vfs[0].address, *nics, *put_testpmd(lab.vm)]
    start = f"import sys\nsys.path.insert(0, {SOURCE!r})\nsys.argv[1:] = {arguments!r}\n"
    code = PROGRAM.read_text().replace("import asyncio\n", f"import asyncio\n{start}", 1)
    seen = json.loads(lab.vm.python(code, timeout=300, check=True).out)
    for measured in [name for name in seen if name.startswith("seconds")]:
        print(measured, seen.pop(measured))
    assert seen == {
        "VF while held": ["vfio-pci", [True]],
        "testpmd has the VF as a port": True,
        "a VF that is open and of no pod is unhealthy": True,
        "VF while open": ["vfio-pci", True],
        "a VF that is closed is taken back": True,
        "VF when it is back": [True, [True], True],
        "pair at first": [[True, True], ["e1000", "e1000"]],
        "pair while one is held": [[True, False], ["vfio-pci", "vfio-pci"]],
        "VFIO reads the card": True,
        "the other card is healthy again": True,
        "drivers of the pair at the end": ["e1000", "e1000"],
        "VFs that go are withdrawn": True,
        "VFs that come are offered": True,
        "whole group": {
            "offered": {nics[0]: True},
            "drivers": ["vfio-pci", "vfio-pci"],
            "listed": nics,
            "CDI names and files": [1, 1],
            "VFIO reads": [True, True],
            "released": True,
            "drivers at the end": ["e1000", "e1000"],
            "CDI files at the end": 0,
        },
    }

"""The device plugin's core on real VFs, a real IOMMU, and two cards that share a group.

tests/deviceplugin has the tests with a kubelet.
"""

from __future__ import annotations

import json

import pytest

from tests.lab.attaching import wait_for
from tests.lab.image import REPOSITORY
from tests.lab.test_sriov_devices import driver_of, nics  # noqa: F401 - a fixture

SOURCE = "/run/source"
PROGRAM = REPOSITORY / "tests/lab/device_plugin_guest.py"
USER = REPOSITORY / "tests/lab/vfio_user.py"


@pytest.mark.leaves_traces("the VFs are new ones")
def test_devices_are_bound_used_and_taken_back_with_their_groups_and_vfs_come_and_go(lab, nics):  # noqa: F811
    for package in ("cni", "deviceplugin"):
        lab.vm.put_tree(REPOSITORY / package, f"{SOURCE}/{package}")
    lab.vm.put(f"{SOURCE}/tests/lab/{USER.name}", USER.read_text())
    lab.vm.run("modprobe", "vfio-pci")
    arguments = [lab.pf.address, lab.pf.netdev, lab.vfs[0].address, *nics]
    start = f"import sys\nsys.path.insert(0, {SOURCE!r})\nsys.argv[1:] = {arguments!r}\n"
    code = PROGRAM.read_text().replace("import asyncio\n", f"import asyncio\n{start}", 1)
    seen = json.loads(lab.vm.python(code, timeout=300, check=True).out)
    for what in ("seconds until the group was free", "seconds until the VFs were offered"):
        print(what, seen.pop(what))
    assert seen == {
        "VF while held": ["vfio-pci", [True]],
        "VFIO reads the VF": True,
        "a VF that is open and of no pod is unhealthy": True,
        "VF while open": ["vfio-pci", True],
        "a VF that is closed is taken back": True,
        "VF when it is back": [True, [True], True],
        "pair while both have network drivers": [False, False],
        "an event of the unbind": True,
        "pair while one is held": [True, False],
        "VFIO reads the card": True,
        "the group is free again": True,
        "card when it is back": True,
        "VFs that go are withdrawn": True,
        "VFs that come are offered": True,
    }
    wait_for(lambda: driver_of(lab, nics[1]) == "e1000", "the driver's return")

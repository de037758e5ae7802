"""Which of a PF's network devices is its uplink, according to the drivers' port names in sysfs.

The names of netdevsim were reported by a kernel (`tests/contract/exchanges`); those of other drivers follow from their
sources, with devlink (net/devlink/port.c) or without. `tests/lab/test_netdevsim.py` queries a live netdevsim.
"""

from __future__ import annotations

from itertools import permutations

import pytest

from cni import pci
from cni.host.sysfs import Sysfs
from tests.contract.exchanges import tape

PF = pci.parse("0000:03:00.0")
RECORDED = tape.load("netdevsim-switchdev")
NETDEVSIM = sorted(RECORDED.facts["port_names"].values())

# By driver: the uplink's port name, and those of its representors. None: the driver has no port names (EOPNOTSUPP).
PORTS = {
    "netdevsim, recorded": (NETDEVSIM[0], NETDEVSIM[1:]),
    "mlx5": ("p0", ["pf0vf0", "pf0vf1"]),
    "mlx5, second port": ("p1", ["pf1vf0", "pf1vf1"]),
    "mlx5 with scalable functions": ("p0", ["pf0vf0", "pf0sf88"]),
    "mlx5 on a SmartNIC": ("p0", ["c1pf0", "c1pf0vf0", "pf0sf1"]),
    "mlx5 before 5.0": (None, ["0", "1"]),
    "mlx5 with split ports": ("p0s1", ["pf0vf0", "pf0vf1"]),
    "ice": ("p0", ["pf0vf0", "pf0vf1"]),
    "bnxt": ("p0", ["pf0vf0", "pf0vf1"]),
    "sfc": ("p0", ["p0pf0vf0", "p0pf0vf1"]),
    "no port names": (None, []),
}


def tree(root, ports: dict[str, str | None]) -> Sysfs:
    """A sysfs with these network devices of the PF, by name, with their port names."""
    for name, port in ports.items():
        (root / "bus/pci/devices" / PF / "net" / name).mkdir(parents=True)
        (root / "class/net" / name).mkdir(parents=True)
        if port is not None:
            (root / "class/net" / name / "phys_port_name").write_text(port + "\n")
    return Sysfs(str(root))


@pytest.mark.parametrize("driver", PORTS)
def test_the_uplink_is_found_whatever_the_order_of_names(tmp_path, driver):
    uplink, representors = PORTS[driver]
    orders = list(permutations(["ens1f0np0", "eth10", "eth2", "eth9"], 1 + len(representors)))
    assert len(orders) >= 4
    for number, names in enumerate(orders):
        sysfs = tree(tmp_path / str(number), dict(zip(names, [uplink, *representors], strict=True)))
        assert sysfs.uplink(PF) == names[0]


def test_recorded_representors_of_netdevsim_sort_before_the_uplink():
    """So the first name is the wrong one, also on a real kernel."""
    names = RECORDED.facts["port_names"]
    assert names[min(names)] != "p1"
    assert sorted(names.values()) == ["p1", "pf0vf0", "pf0vf1", "pf0vf2"]


def test_a_pf_whose_uplink_is_elsewhere_has_none(tmp_path):
    assert tree(tmp_path, {"eth0": "pf0vf0", "eth1": "pf0vf1"}).uplink(PF) is None


def test_a_pf_without_network_devices_has_no_uplink(tmp_path):
    assert tree(tmp_path, {}).uplink(PF) is None

"""The recorded exchanges (`tests/contract/exchanges`) are still true: a live netdevsim, and igb, respond alike.

netdevsim's devices are on a bus of their own, without PCI addresses, so the plugin cannot use them: these tests are at
the level of the codec, `RouteSocket` and the files that `Sysfs` reads.

Debian has no netdevsim: it is built from Debian's kernel source, about 170 MB. So this is a part of `make matrix`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni.host.vf_settings import reported
from tests.contract.exchanges import cases, record, tape
from tests.contract.exchanges.cases import Case, Outcome
from tests.contract.exchanges.tape import Recording
from tests.lab.image import REPOSITORY
from tests.lab.matrix import WHOLE
from tests.lab.netdevsim import DEVICE, Netdevsim

pytestmark = pytest.mark.skipif(not WHOLE, reason="netdevsim is built for make matrix only")

SETTINGS = {"netdevsim-legacy": cases.LEGACY, "netdevsim-switchdev": cases.SWITCHDEV, "igb": cases.IGB}
# A sysfs that shows netdevsim's device under a PCI address: the files themselves are the kernel's.
UPLINK = f"""
import os, sys
sys.path.insert(0, {record.GUEST_SOURCE!r})
from cni import pci
from cni.host.sysfs import Sysfs
root, pf = "/run/lab/sysfs", pci.parse("0000:03:00.0")
os.makedirs(f"{{root}}/bus/pci/devices")
os.makedirs(f"{{root}}/class")
os.symlink("{DEVICE}", f"{{root}}/bus/pci/devices/{{pf}}")
os.symlink("/sys/class/net", f"{{root}}/class/net")
print(Sysfs(root).uplink(pf))
"""
TOO_MANY = """
import json, sys
sys.path.insert(0, {source!r})
from cni.host import links
from cni.host.rtnetlink import NetlinkError, RouteSocket
with RouteSocket() as socket:
    try:
        links.by_name(socket, {pf!r}, with_vfs=True)
    except NetlinkError as error:
        print(error.reason)
"""


def meaning(recording: Recording, case: Case, *, macs: bool) -> tuple[Any, ...]:
    """The request and the response, as our codec reads them, without random MAC addresses."""
    with tape.played(recording.exchanges[case.asked]) as socket:
        outcome: Outcome = cases.perform(socket, recording.pf, case)
    vfs = [{**vars(vf), "mac": vf.mac if macs else ""} for vf in outcome.vfs]
    return outcome.refused, outcome.words, vfs


def live(lab: Any, name: str) -> Recording:
    """Exchanges made now. The requests are ours, made in the guest, for the live PF's interface index."""
    return tape.loaded(json.loads(json.dumps(record.RECORDINGS[name](lab.vm))))


@pytest.mark.parametrize("name", SETTINGS)
def test_live_drivers_answer_settings_as_recorded(lab, name):
    recorded, now = tape.load(name), live(lab, name)
    assert now.driver == recorded.driver
    assert list(now.exchanges) == list(recorded.exchanges) == [case.asked for case in SETTINGS[name]]
    for case in SETTINGS[name]:
        known = name != "igb"
        assert meaning(now, case, macs=known) == meaning(recorded, case, macs=known), case.asked
    assert sorted(now.facts.get("port_names", {}).values()) == sorted(recorded.facts.get("port_names", {}).values())


def test_live_netdevsim_reports_many_vfs_as_recorded(lab):
    recorded, now = tape.load("netdevsim-many"), live(lab, "netdevsim-many")
    for number in cases.MANY:
        links = []
        for one in (recorded, now):
            with tape.played(one.exchanges[f"{number} VFs"]) as socket:
                links.append(cases.look(socket, one.pf))
        assert list(reported(links[0])) == list(reported(links[1]))
        assert [vf.mac for vf in reported(links[1])] == [cases.mac_of(vf) for vf in range(number)]
        assert links[1].altnames == (cases.ALTNAME,)


def test_an_answer_about_more_vfs_than_we_can_read_is_an_error_and_not_cut(lab):
    lab.vm.put_tree(REPOSITORY / "cni", f"{record.GUEST_SOURCE}/cni")
    with Netdevsim(lab.vm, 6000) as device:
        told = lab.vm.python(TOO_MANY.format(source=record.GUEST_SOURCE, pf=device.pf)).out
    assert told.startswith("EMSGSIZE"), told
    assert "longer than 1048576 bytes" in told


def test_the_uplink_of_a_live_switchdev_netdevsim_is_found_among_its_representors(lab):
    lab.vm.put_tree(REPOSITORY / "cni", f"{record.GUEST_SOURCE}/cni")
    with Netdevsim(lab.vm, 3) as device:
        device.switchdev()
        names = device.port_names()
        found = lab.vm.python(UPLINK).out.strip()
        lab.vm.run("rm", "-r", "/run/lab/sysfs")
    assert sorted(names.values()) == ["p1", "pf0vf0", "pf0vf1", "pf0vf2"]
    assert names[found] == "p1"

"""Records the exchanges again on the lab's kernel: `python -m tests.contract.exchanges.record`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.contract.exchanges import cases, tape
from tests.lab.image import REPOSITORY
from tests.lab.netdevsim import Netdevsim
from tests.lab.progress import timed
from tests.lab.topology import pfs
from tests.lab.vm import Vm

HERE = Path(__file__).parent
GUEST_SOURCE = "/run/source"
CODE = """
import json, sys
sys.path.insert(0, {source!r})
from cni.host import links
from cni.host.rtnetlink import RouteSocket
from tests.contract.exchanges import cases, tape
with RouteSocket() as socket:
    pf = links.by_name(socket, {pf!r}).index
exchanges = dict()
def ask(asked, question):
    assert asked not in exchanges
    with tape.taped(exchanges.setdefault(asked, [])) as socket:
        question(socket)
{question}
print(json.dumps(dict(pf=pf, exchanges=tape.dumped(exchanges))))
"""
SETTINGS = """
for case in cases.{group}:
    ask(case.asked, lambda socket: cases.perform(socket, pf, case))
"""
LOOK = """
with RouteSocket() as socket:
    cases.mark_all(socket, pf, {number})
ask("{number} VFs", lambda socket: cases.look(socket, pf))
"""


def legacy(vm: Vm) -> dict[str, Any]:
    with Netdevsim(vm, cases.VFS) as device:
        told = _exchanges(vm, device.pf, SETTINGS.format(group="LEGACY"))
        return _recording(vm, "netdevsim", f"settings of {cases.VFS} VFs, one after the other", told)


def switchdev(vm: Vm) -> dict[str, Any]:
    with Netdevsim(vm, cases.VFS) as device:
        device.switchdev()
        told = _exchanges(vm, device.pf, SETTINGS.format(group="SWITCHDEV"))
        about = f"settings of {cases.VFS} VFs in switchdev mode"
        return _recording(vm, "netdevsim", about, told, port_names=device.port_names())


def many(vm: Vm) -> dict[str, Any]:
    """Reads a PF with increasing numbers of VFs."""
    told: dict[str, Any] = {"exchanges": {}}
    with Netdevsim(vm, 0) as device:
        for number in cases.MANY:
            device.set_vfs(number)
            one = _exchanges(vm, device.pf, LOOK.format(number=number))
            told = {"pf": one["pf"], "exchanges": told["exchanges"] | one["exchanges"]}
    return _recording(vm, "netdevsim", "a PF and its VFs, each with a MAC address and a VLAN of its own", told)


def igb(vm: Vm) -> dict[str, Any]:
    told = _exchanges(vm, pfs(vm)[0].netdev, SETTINGS.format(group="IGB"))
    return _recording(vm, "igb", "settings that the driver refuses, on the card that QEMU emulates", told)


RECORDINGS = {"netdevsim-legacy": legacy, "netdevsim-switchdev": switchdev, "netdevsim-many": many, "igb": igb}


def _exchanges(vm: Vm, pf: str, question: str) -> dict[str, Any]:
    vm.put_tree(REPOSITORY / "cni", f"{GUEST_SOURCE}/cni")
    for name in ("cases.py", "tape.py"):
        vm.put(f"{GUEST_SOURCE}/tests/contract/exchanges/{name}", (HERE / name).read_bytes())
    told: dict[str, Any] = json.loads(vm.python(CODE.format(source=GUEST_SOURCE, pf=pf, question=question)).out)
    return told


def _recording(vm: Vm, driver: str, about: str, told: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {"kernel": vm.run("uname", "-r").out.strip(), "driver": driver, "about": about, "facts": facts, **told}


if __name__ == "__main__":
    with Vm(say=timed("record")) as machine:
        for name, record in RECORDINGS.items():
            print(tape.save(name, record(machine)))

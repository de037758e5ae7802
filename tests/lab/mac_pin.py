"""Tests whether PFs have pinned the MAC addresses of their VFs, because no interface of the kernel reports it.

A PF that sets a VF's address pins it: the VF, if it is not trusted, cannot change its own address any more. The
reported address is the same with and without the pin.
"""

from __future__ import annotations

import json

from tests.lab.topology import GUEST_STATE
from tests.lab.vm import Vm

_PROBE = (
    GUEST_STATE.read_text().partition("\nif __name__")[0]
    + """
import re

def pins():
    macs = {
        name: (device, text(f"/sys/class/net/{name}/address"))
        for device, found in network_devices().items()
        if found["physfn"]
        for name in found["netdevs"]
    }
    # One process for all: each VF to another address, and back to its own.
    lines = [f"link set {name} address {mac}" for name, (_, own) in macs.items() for mac in ("02:00:00:00:ee:ee", own)]
    batch = ["ip", "-force", "-batch", "-"]
    said = subprocess.run(batch, input="\\n".join(lines), text=True, capture_output=True, check=False).stderr
    refused = {int(line) for line in re.findall(r"Command failed -:(\\d+)", said)}
    return {device: 2 * number + 1 in refused for number, (device, _) in enumerate(macs.values())}

print(json.dumps(pins()))
"""
)


def pins(vm: Vm) -> dict[str, bool]:
    """For each VF with a network device on the host, by PCI address: whether it is pinned. None may be trusted."""
    found: dict[str, bool] = json.loads(vm.python(_PROBE).out)
    return found

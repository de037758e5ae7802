"""The names of a machine's interfaces in its pod, as Multus gets them; a socket has the same name. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubevirt.machine import Machine, Network

PRIMARY = "eth0"
_ORDINAL = re.compile(r"net[0-9]+")
_HASH_CHARACTERS = 11


def pod_interface(machine: Machine, network: Network) -> str:
    """The name of a network's interface in the pod. The status contains it once Multus has created the interface."""
    for status in machine.status.interfaces:
        if status.name == network.name and status.pod_interface_name:
            return status.pod_interface_name
    if network.resource_claim is not None:
        return hashed(network.name)  # The pod has no such interface; the name only has to be unique.
    if not network.is_secondary:
        return PRIMARY
    if any(_ORDINAL.fullmatch(status.pod_interface_name) for status in machine.status.interfaces):
        return ordinal(machine, network)
    return hashed(network.name)


def hashed(network: str) -> str:
    """The naming scheme since KubeVirt 1.0, in which a name does not depend on the other networks."""
    return f"pod{hashlib.sha256(network.encode()).hexdigest()[:_HASH_CHARACTERS]}"


def ordinal(machine: Machine, network: Network) -> str:
    """The naming scheme of machines that an older KubeVirt started and that have been migrated since."""
    secondary = [each.name for each in machine.spec.networks if each.is_secondary]
    return f"net{secondary.index(network.name) + 1}"

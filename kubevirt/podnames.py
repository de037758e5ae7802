"""The names of a machine's interfaces in its pod: what Multus is given for them, and so what a socket is named after. Pure."""

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
    """The name of a network's interface in the pod. The status knows it, once Multus has made the interface."""
    for status in machine.status.interfaces:
        if status.name == network.name and status.pod_interface_name:
            return status.pod_interface_name
    if network.resource_claim is not None:
        return hashed(network.name)  # Nobody makes it in the pod; the name has to differ from the others.
    if not network.is_secondary:
        return PRIMARY
    if any(_ORDINAL.fullmatch(status.pod_interface_name) for status in machine.status.interfaces):
        return ordinal(machine, network)
    return hashed(network.name)


def hashed(network: str) -> str:
    """As KubeVirt has named them since 1.0: a name does not depend on what other networks there are."""
    return f"pod{hashlib.sha256(network.encode()).hexdigest()[:_HASH_CHARACTERS]}"


def ordinal(machine: Machine, network: Network) -> str:
    """As machines have them that were started by an older KubeVirt and have been migrated since."""
    secondary = [each.name for each in machine.spec.networks if each.is_secondary]
    return f"net{secondary.index(network.name) + 1}"

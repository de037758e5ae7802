"""Domains as KubeVirt writes them, and machines to go with them.

They differ as follows, from KubeVirt 1.5 to 1.9: `plain` is a machine with masquerade; `alone` has no other interface;
`hugepages` has memfd without shared access; `numa` has two cells and pinned CPUs; `hotplug` has CPUs and memory that
can be added; `virtiofs` already has shared memory.

`v1.5` to `v1.9` have what these versions have added, as far as their schema and release notes show it: threads for a
disk's queues, a virtio video card, the link state (1.5); panic device, persistent TPM, passthrough of Hyper-V's
features (1.6); the data store of changed block tracking, root ports for hot-plugging (1.7); passt's own vhost-user
interface, PCIe expander buses (1.8); devices of DRA with iommufd, the policy for reboots (1.9).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "domains"
NAMES = tuple(sorted(path.stem for path in FOLDER.iterdir()))
LATER = ("v1.5", "v1.7", "v1.8", "v1.9")
"""Those with elements that Debian's libvirt 9.0 does not have."""
BINDING = "vhostuser"
MAC = "02:00:00:00:10:01"
DATAPLANE = "pod9d32cad27e2"
"""Multus' name for the network `dataplane`."""


def domain(name: str) -> bytes:
    return (FOLDER / f"{name}.xml").read_bytes()


def bound(name: str = "dataplane", **fields: Any) -> dict[str, Any]:
    """An interface with our binding."""
    return {"name": name, "macAddress": MAC, "binding": {"name": BINDING}, **fields}


def network(name: str = "dataplane", **source: Any) -> dict[str, Any]:
    return {"name": name, **(source or {"multus": {"networkName": f"default/{name}"}})}


def machine(
    *interfaces: dict[str, Any],
    networks: list[dict[str, Any]] | None = None,
    status: list[dict[str, Any]] | None = None,
    devices: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A machine with masquerade and these interfaces, each on a network of Multus unless specified otherwise."""
    each = list(interfaces) or [bound()]
    ours = [network(interface["name"]) for interface in each] if networks is None else networks
    return {
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "router", "namespace": "default", "creationTimestamp": None},
        "spec": {
            "architecture": "amd64",
            "domain": {
                "cpu": {"cores": 2, "sockets": 1, "threads": 1},
                "devices": {"interfaces": [{"name": "default", "masquerade": {}}, *each], **(devices or {})},
                "resources": {},
            },
            "networks": [{"name": "default", "pod": {}}, *ours],
            **spec,
        },
        "status": {"interfaces": status or []},
    }

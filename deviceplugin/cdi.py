"""The file from which a container runtime takes the device nodes of CDI names (Container Device Interface). Pure.

It has the devices that containers hold, and no others: whoever may name a CDI device in a pod's annotations gets what the
files have, whatever the kubelet has given away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deviceplugin.pool import short_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deviceplugin.container import Node

FOLDER = "/var/run/cdi"
"""Where runtimes look for files that do not outlive a boot."""
VERSION = "0.5.0"
"""The first version with `hostPath`, and with names that begin with a digit, as PCI addresses do."""
_VENDOR = "node.barewire"


def file_name(resource: str) -> str:
    """The name of a resource's file."""
    return f"{short_name(resource)}.json"


def is_ours(name: str) -> bool:
    """Whether a file of the folder is one of ours."""
    return name.startswith("barewire-") and name.endswith(".json")


def qualified(resource: str, device: str) -> str:
    """The name of a device that the kubelet passes on."""
    return f"{_kind(resource)}={device}"


def document(resource: str, devices: Mapping[str, Iterable[Node]]) -> dict[str, Any]:
    """The file of a resource; `devices` are by name the device nodes of those that containers hold."""
    return {
        "cdiVersion": VERSION,
        "kind": _kind(resource),
        "devices": [
            {"name": name, "containerEdits": {"deviceNodes": [_node(node) for node in nodes]}}
            for name, nodes in sorted(devices.items())
        ],
    }


def _kind(resource: str) -> str:
    # A kind of its own for each resource: a device that two files of one kind have is given to nobody.
    return f"{_VENDOR}/{short_name(resource)}"


def _node(node: Node) -> dict[str, str]:
    return {"path": node.container, "hostPath": node.host, "permissions": "rw"}

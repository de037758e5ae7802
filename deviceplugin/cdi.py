"""The file from which a container runtime takes the device nodes of CDI names (Container Device Interface). Pure.

It has the devices that containers hold, and no others: whoever may name a CDI device in a pod's annotations gets what the
files have, whatever the kubelet has given away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cni import jsontext
from cni.errors import CniError
from cni.host.folders import DOCUMENT, SUFFIX
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


def may_be_ours(name: str) -> bool:
    """Whether a file of the folder has a name as ours have. Others can have such names as well."""
    return name.startswith("barewire-") and name.endswith(DOCUMENT)


def is_ours(content: bytes) -> bool:
    """Whether a file with this content is one of ours."""
    try:
        kind = jsontext.loads(content)["kind"]
    except (CniError, KeyError, TypeError):
        return False
    return isinstance(kind, str) and kind.startswith(f"{_VENDOR}/barewire-")


def is_temporary(name: str) -> bool:
    """Whether a file of the folder is one of ours that has not got its name yet."""
    return name.startswith(".barewire-") and name.endswith(SUFFIX)


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

"""The file that maps CDI names (Container Device Interface) to device nodes, for container runtimes. Pure.

It contains only the devices that containers hold: a user who may write a pod's annotations can name every device in
the files, whether the kubelet has allocated it or not.
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
"""The directory of CDI files that do not survive a boot."""
VERSION = "0.5.0"
"""The first version with `hostPath`, and with names that begin with a digit, as PCI addresses do."""
_VENDOR = "node.barewire"


def file_name(resource: str) -> str:
    """The name of a resource's file."""
    return f"{short_name(resource)}.json"


def may_be_ours(name: str) -> bool:
    """Whether the name of a file has the form of our names. Files of other programs can have such names too."""
    return name.startswith("barewire-") and name.endswith(DOCUMENT)


def is_ours(content: bytes) -> bool:
    """Whether we wrote a file with this content."""
    try:
        kind = jsontext.loads(content)["kind"]
    except (CniError, KeyError, TypeError):
        return False
    return isinstance(kind, str) and kind.startswith(f"{_VENDOR}/barewire-")


def is_temporary(name: str) -> bool:
    """Whether a file in the directory is our temporary file."""
    return name.startswith(".barewire-") and name.endswith(SUFFIX)


def qualified(resource: str, device: str) -> str:
    """The name of a device that the kubelet passes on."""
    return f"{_kind(resource)}={device}"


def document(resource: str, devices: Mapping[str, Iterable[Node]]) -> dict[str, Any]:
    """The file of a resource. `devices` contains the device nodes of each held device, by its name."""
    return {
        "cdiVersion": VERSION,
        "kind": _kind(resource),
        "devices": [
            {"name": name, "containerEdits": {"deviceNodes": [_node(node) for node in nodes]}}
            for name, nodes in sorted(devices.items())
        ],
    }


def _kind(resource: str) -> str:
    # Each resource has its own kind: runtimes refuse a device that is in two files of the same kind.
    return f"{_VENDOR}/{short_name(resource)}"


def _node(node: Node) -> dict[str, str]:
    return {"path": node.container, "hostPath": node.host, "permissions": "rw"}

"""The rules for the names of containers, networks and interfaces. Pure.

A runtime's names are held to them, and so is every name that comes from elsewhere: from a cluster, a database, another
program's files, or our own. What fails them is no owner, no part of a path and no lock.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

_IDENTIFIER = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_IFNAME_BYTES = 15

LONGEST = 255
"""Bytes of a file's name."""

_SHORTENED = "_"
"""What a file's name begins with in the place of one that would be too long. No network and no container has such a name."""


def is_identifier(text: object) -> TypeGuard[str]:
    """Whether the text may be a container ID or a network name; it is safe as a file name then."""
    return isinstance(text, str) and bool(text) and text[0] not in "_.-" and _IDENTIFIER.issuperset(text)


def is_file_name(text: str) -> bool:
    """Whether the text, put into a path, can only mean something inside its folder."""
    return text not in ("", ".", "..") and "/" not in text and "\0" not in text


def file_name(stem: str, end: str = "", longest: int = LONGEST) -> str:
    """The name with its ending, or, where no file's name may have so many bytes, a hash of it with that ending.

    Kubernetes allows networks' names of 253 characters, and CNI has no limit for them and for container IDs.
    """
    if len(f"{stem}{end}".encode(errors="replace")) <= longest:
        return f"{stem}{end}"
    from hashlib import sha256  # noqa: PLC0415 - hardly a call has such a name

    return f"{_SHORTENED}{sha256(stem.encode(errors='surrogatepass')).hexdigest()}{end}"


def is_shortened(name: str) -> bool:
    """Whether it stands for a longer name."""
    return name.startswith(_SHORTENED)


def is_network_folder(name: str) -> bool:
    """Whether a folder of that name is a network's."""
    return is_identifier(name) or is_shortened(name)


def is_ifname(text: object) -> TypeGuard[str]:
    """Whether the text may be the name of a container's interface; it is safe in a file name then."""
    return isinstance(text, str) and bool(text) and ifname_fault(text) is None


def ifname_fault(text: str) -> tuple[str, str] | None:
    """Why the text is no interface's name, in the words of the Go library, and a hint; None when it is one."""
    if len(text.encode(errors="replace")) > _IFNAME_BYTES:
        return "interface name is too long", "interface name should be less than 16 characters"
    if text in (".", ".."):
        return "interface name is . or ..", ""
    if any(char in "/:" or char.isspace() for char in text):
        return "interface name contains / or : or whitespace characters", ""
    if "%" in text:
        return "interface name contains %", "the kernel takes % for the place of a number"
    if not text.isprintable():
        return "interface name contains unprintable characters", ""
    return None


def attachment_fault(network: object, container_id: object, ifname: object) -> str:
    """Why the names are not those of an attachment; empty when they can be."""
    if not is_identifier(network):
        return f"{shown(network)} is no network's name"
    if not is_identifier(container_id):
        return f"{shown(container_id)} is no container ID"
    if not is_ifname(ifname):
        return f"{shown(ifname)} is no interface's name"
    return ""


def shown(name: object) -> str:
    """For messages: whoever wrote it must neither fill a log nor steer a terminal."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""The rules for the names of containers, networks and interfaces. Pure.

They apply to the names of runtimes, and to every name from other sources: a cluster, a database, files of another
program, or our own files. A name that violates them cannot be an owner, part of a path, or a lock.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

_IDENTIFIER = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_IFNAME_BYTES = 15

LONGEST = 255
"""Maximum bytes of a file name."""

_SHORTENED = "_"
"""Prefix of a file name that replaces one that would be too long. No network and no container has such a name."""


def is_identifier(text: object) -> TypeGuard[str]:
    """Whether the text is a valid container ID or network name; it is then safe as a file name."""
    return isinstance(text, str) and bool(text) and text[0] not in "_.-" and _IDENTIFIER.issuperset(text)


def is_file_name(text: str) -> bool:
    """Whether the text, as a component of a path, cannot leave its directory."""
    return text not in ("", ".", "..") and "/" not in text and "\0" not in text


def file_name(stem: str, end: str = "", longest: int = LONGEST) -> str:
    """The name with its ending, or a hash of it with that ending if the file name would be too long.

    Kubernetes allows network names of 253 characters, and CNI has no limit for them and for container IDs.
    """
    if len(f"{stem}{end}".encode(errors="replace")) <= longest:
        return f"{stem}{end}"
    from hashlib import sha256  # noqa: PLC0415 - hardly a call has such a name

    return f"{_SHORTENED}{sha256(stem.encode(errors='surrogatepass')).hexdigest()}{end}"


def is_shortened(name: str) -> bool:
    """Whether the file name replaces a longer one."""
    return name.startswith(_SHORTENED)


def is_network_folder(name: str) -> bool:
    """Whether a directory with that name belongs to a network."""
    return is_identifier(name) or is_shortened(name)


def is_ifname(text: object) -> TypeGuard[str]:
    """Whether the text is a valid interface name; it is then safe in a file name."""
    return isinstance(text, str) and bool(text) and ifname_fault(text) is None


def ifname_fault(text: str) -> tuple[str, str] | None:
    """The reason why the text is not a valid interface name, with the text of the Go library, and a hint.

    None if it is valid.
    """
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
    """The reason why the names cannot be those of an attachment; empty if they are valid."""
    if not is_identifier(network):
        return f"{shown(network)} is no network's name"
    if not is_identifier(container_id):
        return f"{shown(container_id)} is no container ID"
    if not is_ifname(ifname):
        return f"{shown(ifname)} is no interface's name"
    return ""


def shown(name: object) -> str:
    """The text for messages, which must neither fill a log nor control a terminal."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."

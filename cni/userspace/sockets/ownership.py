"""Owner, permissions, access lists and label of a socket's directory: found, requested, and restored."""

from __future__ import annotations

import errno
import os

from cni.errors import SocketDirUnfit
from cni.host import acl
from cni.userspace.sockets.directory import acl_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NotRequired, TypedDict

    from cni.log import Log
    from cni.userspace.sockets.directory import SocketDirectory

    class FoundDict(TypedDict):
        """The owner and the permissions of a directory, for the record's `found`; `attributes` are hexadecimal.

        Records of earlier versions lack `identity`, which identifies the directory on this host.
        """

        owner: int
        group: int
        mode: int
        attributes: dict[str, str | None]
        identity: NotRequired[str]


_FIELDS = ("owner", "group", "mode", "acl", "selinux_label")
_LABEL = "security.selinux"
_ABSENT = (errno.ENODATA, errno.ENOTSUP, errno.EINVAL)


def is_wanted(directory: SocketDirectory) -> bool:
    """Whether the configuration requests any of them."""
    return any(getattr(directory, name) not in (None, "", ()) for name in _FIELDS)


def agree(one: SocketDirectory, other: SocketDirectory) -> bool:
    """Whether both request the same."""
    return all(getattr(one, name) == getattr(other, name) for name in _FIELDS)


def found(fd: int) -> FoundDict:
    """The state that `give` can change, as JSON values, with the directory's identity. Raises `OSError`."""
    look = os.fstat(fd)
    lists = {name: _attribute(fd, name) for name in (acl.ACCESS, acl.DEFAULT, _LABEL)}
    return {
        "owner": look.st_uid,
        "group": look.st_gid,
        "mode": look.st_mode & 0o7777,
        "attributes": lists,
        "identity": _identity(look),
    }


def is_of(fd: int, document: FoundDict) -> bool:
    """Whether the document describes this directory. Records of earlier versions do not contain its identity."""
    identity = document.get("identity")
    return identity is None or identity == _identity(os.fstat(fd))


def _identity(look: os.stat_result) -> str:
    return f"{look.st_dev}:{look.st_ino}"


def give(fd: int, directory: SocketDirectory, log: Log) -> None:
    """Applies the requested state. Raises `OSError`, and `SocketDirUnfit` for a group that the host lacks."""
    group = _group_id(directory)
    if directory.owner is not None or group is not None:
        os.fchown(fd, -1 if directory.owner is None else directory.owner, -1 if group is None else group)
    if directory.mode is not None:
        os.fchmod(fd, directory.mode)
    if directory.acl:
        acl.extend(fd, [acl_entry(text) for text in directory.acl], directory.mode)
    if directory.selinux_label:
        try:
            os.setxattr(fd, _LABEL, directory.selinux_label.encode() + b"\0")
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL):
                raise
            log.warning(f"{directory.path}: no SELinux label was set: {os.strerror(error.errno)}")


def put_back(fd: int, document: FoundDict) -> None:
    """Restores the state that `found` returned. Raises `OSError`."""
    present = found(fd)
    if (present["owner"], present["group"]) != (document["owner"], document["group"]):
        os.fchown(fd, document["owner"], document["group"])
    for name, text in document["attributes"].items():
        if present["attributes"].get(name) != text:
            _set_attribute(fd, name, text)
    # This comes last: setting or removing a list changes the bits, too.
    if os.fstat(fd).st_mode & 0o7777 != document["mode"]:
        os.fchmod(fd, document["mode"])


def _attribute(fd: int, name: str) -> str | None:
    try:
        return os.getxattr(fd, name).hex()
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None


def _set_attribute(fd: int, name: str, text: str | None) -> None:
    if text is not None:
        os.setxattr(fd, name, bytes.fromhex(text))
        return
    try:
        os.removexattr(fd, name)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def _group_id(directory: SocketDirectory) -> int | None:
    if not directory.group:
        return None
    if directory.group.isdecimal() and directory.group.isascii():
        return int(directory.group)
    import grp  # noqa: PLC0415 - most directories name no group

    try:
        return grp.getgrnam(directory.group).gr_gid
    except KeyError as error:
        raise SocketDirUnfit(
            f"host.vhost.group: there is no group {directory.group}",
            hint="name one of the host's groups, or its number",
        ) from error

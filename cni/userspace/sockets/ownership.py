"""Owner, permissions, access lists and label of a socket's directory: found, requested, and restored."""

from __future__ import annotations

import errno
import os

from cni.errors import SocketDirUnfit
from cni.host import acl
from cni.userspace.sockets.directory import acl_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
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
_ACL_HINT = (
    "use a file system with POSIX ACLs, or run ovs-vswitchd as root; with a socketDirectory that contains no acl, none is "
    "added"
)
_ABSENT = (errno.ENODATA, errno.ENOTSUP, errno.EINVAL)


def is_wanted(directory: SocketDirectory) -> bool:
    """Whether the configuration requests any of them."""
    return any(getattr(directory, name) not in (None, "", ()) for name in _FIELDS)


def agree(one: SocketDirectory, other: SocketDirectory) -> bool:
    """Whether both can have one directory. Defaults agree with everything."""
    return one.by_default or other.by_default or all(getattr(one, name) == getattr(other, name) for name in _FIELDS)


def like(directory: SocketDirectory, other: SocketDirectory) -> SocketDirectory:
    """The directory with the owner and the permissions that the other one requests."""
    return directory.replace(**{name: getattr(other, name) for name in _FIELDS})


def changes(directory: SocketDirectory) -> frozenset[str]:
    """The parts of a state that `give` changes: keys of `FoundDict`, and names of attributes."""
    parts = {
        "owner": directory.owner is not None,
        "group": bool(directory.group),
        "mode": directory.mode is not None or bool(directory.acl),  # A list changes the bits, too.
        acl.ACCESS: bool(directory.acl),
        acl.DEFAULT: bool(directory.acl),
        _LABEL: bool(directory.selinux_label),
    }
    return frozenset(name for name, is_changed in parts.items() if is_changed)


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


def before(now: FoundDict, earlier: FoundDict, changed: Collection[str]) -> FoundDict:
    """The state before changes to these parts: those parts as they were earlier, the others as they are now."""
    lists = {name: text for name, text in earlier["attributes"].items() if name in changed}
    document: FoundDict = {
        "owner": (earlier if "owner" in changed else now)["owner"],
        "group": (earlier if "group" in changed else now)["group"],
        "mode": (earlier if "mode" in changed else now)["mode"],
        "attributes": {**now["attributes"], **lists},
    }
    # Not the present identity: `prepare` refuses a directory that has replaced the earlier one.
    if "identity" in earlier:
        document["identity"] = earlier["identity"]
    return document


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
        _extend(fd, directory, log)
    if directory.selinux_label:
        try:
            os.setxattr(fd, _LABEL, directory.selinux_label.encode() + b"\0")
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL):
                raise
            log.warning(f"{directory.path}: no SELinux label was set: {os.strerror(error.errno)}")


def _extend(fd: int, directory: SocketDirectory, log: Log) -> None:
    try:
        acl.extend(fd, [acl_entry(text) for text in directory.acl], directory.mode)
    except OSError as error:
        named = f"socket directory {directory.path}: cannot add the ACL {', '.join(directory.acl)}"
        reason = os.strerror(error.errno or 0)
        if directory.by_default and error.errno == errno.ENOTSUP:
            # The network does not request it.
            log.warning(f"{named} for ovs-vswitchd, which is not root: {reason}; {_ACL_HINT}")
            return
        raise SocketDirUnfit(f"{named}: {reason}", hint=_ACL_HINT) from error


def put_back(fd: int, document: FoundDict, directory: SocketDirectory, kept: Collection[str] = ()) -> None:
    """Restores the parts of the state that `give` has changed, except those in `kept`. Raises `OSError`.

    An owner, group or label that another program has set since stays: a container runtime labels a volume when it
    starts a container, which is after the ADD.
    """
    present = found(fd)
    parts = changes(directory) - set(kept) - _changed_since(present, directory)
    owner = document["owner"] if "owner" in parts else -1
    group = document["group"] if "group" in parts else -1
    if owner not in (-1, present["owner"]) or group not in (-1, present["group"]):
        os.fchown(fd, owner, group)
    for name, text in document["attributes"].items():
        if name in parts and present["attributes"].get(name) != text:
            _set_attribute(fd, name, text)
    # This comes last: setting or removing a list changes the bits, too.
    if "mode" in parts and os.fstat(fd).st_mode & 0o7777 != document["mode"]:
        os.fchmod(fd, document["mode"])


def _changed_since(present: FoundDict, directory: SocketDirectory) -> set[str]:
    """The parts that are not as `give` has set them."""
    try:
        group = _group_id(directory)
    except SocketDirUnfit:
        group = None  # The group has been removed from the host.
    label = bytes.fromhex(present["attributes"].get(_LABEL) or "").rstrip(b"\0")
    differ = {
        "owner": directory.owner != present["owner"],
        "group": group not in (None, present["group"]),
        _LABEL: label != directory.selinux_label.encode(),
    }
    return {name for name, is_other in differ.items() if is_other}


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

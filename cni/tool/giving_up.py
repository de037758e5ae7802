"""Gives up the removal of an attachment that waits for what is gone for good: a database, a cluster, credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.attachment.record import Key
from cni.attachment.records import LockedRecord
from cni.errors import CniError, DeviceBusy, InvalidConfig, TryAgainLater
from cni.names import attachment_fault

if TYPE_CHECKING:
    from cni.attachment.records import Attachments
    from cni.attachment.removal import Removal


def key_of(text: str) -> Key:
    """The attachment that NETWORK/CONTAINER/INTERFACE names. Raises `InvalidConfig`."""
    names = text.split("/")
    if len(names) != 3 or attachment_fault(*names):
        raise InvalidConfig(
            f"{text!a} names no attachment", hint="name it as barewire gc lists it: NETWORK/CONTAINER/INTERFACE"
        )
    return Key(network=names[0], container_id=names[1], ifname=names[2])


def give_up(attachments: Attachments, removal: Removal, key: Key) -> str:
    """Removes what can be removed, and forgets the rest; returns what happened, or nothing where there is no record.

    Raises `DeviceBusy` for an attachment that is somebody's, and `TryAgainLater` for one that keeps a device from others:
    the next pod would get it as this one has left it.
    """
    with LockedRecord(attachments, key) as record:
        if record is None:
            return ""
        if removal.is_alive(record):
            raise DeviceBusy(f"{key} is attached, and its network namespace is in use", hint="delete its pod")
        failure = ""
        try:
            removal.remove(record)
        except CniError as error:
            failure = error.msg
        kept = attachments.find(key)
        if kept is None:
            return f"{key}: removed"
        if removal.blocks_delete(kept):
            raise TryAgainLater(
                f"{key} cannot be given up while {kept.device} is not home and clean: {failure}",
                hint="the device ends with its PF's VFs (sriov_numvfs) or with the boot, and the record with it",
            )
        attachments.forget(kept)
        return f"{key}: forgotten, without {', '.join(kept.left)}: {failure}"

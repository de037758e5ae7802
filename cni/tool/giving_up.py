"""Abandons the removal of an attachment whose database, cluster or credentials will not come back."""

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
            f"{text!a} is not the name of an attachment",
            hint="take NETWORK/CONTAINER/INTERFACE from the list of `barewire gc`",
        )
    return Key(network=names[0], container_id=names[1], ifname=names[2])


def give_up(attachments: Attachments, removal: Removal, key: Key) -> str:
    """Removes all parts that can be removed, and abandons the rest; returns a report, empty without a record.

    Raises `DeviceBusy` for an attachment in use, and `TryAgainLater` if its device is not clean: the next pod would get
    the device in this state.
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
                f"{key} cannot be abandoned while {kept.device} is not back on the host and clean: {failure}",
                hint="the device ends with its PF's VFs (sriov_numvfs) or with the boot, and the record with it",
            )
        attachments.forget(kept)
        return f"{key}: forgotten, without {', '.join(kept.left)}: {failure}"

"""Removes an attachment. Shared by ADD's rollback, DEL, GC, repair and `barewire gc`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from cni.attachment import device_info
from cni.attachment.delegate import IpamCall
from cni.attachment.record import DEVICE, IPAM
from cni.attachment.records import LockedRecord
from cni.errors import CniError, InvalidConfig, TryAgainLater
from cni.rollback import bound, on_failure, run_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from cni.attachment.ipam import Ipam
    from cni.attachment.record import Key, Record
    from cni.attachment.records import Attachments
    from cni.log import Log

    class Namespaces(Protocol):
        """Shows which network namespaces are in use."""

        def is_inhabited(self, path: str, identity: str) -> bool: ...


DRAIN_SECONDS = 5.0
"""Time limit for pending removals of earlier calls, which an ADD or DEL finishes in passing."""

COLLECT_SECONDS = 60.0
"""Time limit for all removals of a GC, except for a step that has begun. The remaining ones are kept pending."""

DRAIN_RECORDS = 4
"""Limit of their number in one call: permanent failures must not slow down every pod of the node."""


class Removal(ABC):
    """Removes attachments by their records. The subclass of a plugin adds the parts other than addresses."""

    def __init__(self, *, namespaces: Namespaces, attachments: Attachments, ipam: Ipam, log: Log) -> None:
        self._namespaces = namespaces
        self._attachments = attachments
        self._ipam = ipam
        self._log = log
        self._silent: set[str] | None = None
        """Remotes that have not answered in this GC, and are not contacted again; None in other calls."""

    def steps(self, record: Record, deadline: float | None) -> dict[str, Callable[[], None]]:
        """The functions that undo the parts in `left`, in order.

        `deadline` is in monotonic seconds; each step also has its own time limit (see `within`).
        """
        return {IPAM: lambda: self._release(record, deadline)}

    @abstractmethod
    def blocks_delete(self, record: Record, /) -> bool:
        """Whether the remaining parts of the attachment block the deletion of its pod."""

    def is_deferred(self, _record: Record, /) -> bool:
        """Whether the record is not for an attachment, but only a reminder of work to do."""
        return False

    def remote(self, record: Record, /) -> str:
        """The first remote that the removal waits for, for messages; empty if there is none."""
        return next((name for part, name in self.remotes(record).items() if part in record.left), "")

    def remotes(self, record: Record) -> dict[str, str]:
        """The remotes that the parts wait for, in order of importance; parts without a remote are left out."""
        return {IPAM: f"IPAM plugin {record.ipam.get('type')}"} if record.ipam else {}

    def kept(self, record: Record) -> Record:
        """The pending record of an unfinished removal, with the information for the next try."""
        return record

    def remove(self, record: Record, deadline: float | None = None) -> None:
        """Removes the attachment for ADD's rollback and DEL, and keeps a record of the parts that cannot be undone yet.

        `deadline` limits all waits together (None: each has its own limit). The caller holds the device's lock.
        Raises the error that stopped it; the record lists the remaining parts.
        """
        left: set[str] = set(record.left)
        remotes = self.remotes(record)

        def step(name: str, action: Callable[[], None]) -> None:
            if name in left and not (name == IPAM and DEVICE in left and self.is_in_use(record)):
                self._ask(remotes.get(name, ""), action)
                left.discard(name)

        with on_failure(lambda: self._attachments.keep_pending(self.kept(record).replace(left=tuple(sorted(left))))):
            run_all(*[bound(step, name, action) for name, action in self.steps(record, deadline).items()])
        self._attachments.forget(record)

    def _ask(self, remote: str, action: Callable[[], None]) -> None:
        """Runs the step. Raises `TryAgainLater` also if its remote has not answered earlier in this GC."""
        if self._silent is not None and remote in self._silent:
            raise TryAgainLater(f"{remote} has not answered in this call, and is not contacted again")
        try:
            action()
        except TryAgainLater:
            if self._silent is not None and remote:
                self._silent.add(remote)
            raise

    def is_in_use(self, record: Record) -> bool:
        """Whether a pod may still use a device that could not be taken from it, and therefore its addresses."""
        return self._is_inhabited(record)

    def remove_or_keep(self, record: Record, deadline: float | None = None) -> None:
        """Removes the attachment.

        Steps that need not block the pod's deletion may stay pending; later calls retry them.
        """
        try:
            self.remove(record, deadline)
        except CniError as error:
            kept = self._attachments.find(record.key)
            # If the pending record could not be saved, no later call would finish the removal.
            if kept is None or not kept.removing or self.blocks_delete(kept):
                raise
            self._log.warning(f"{error}; still to do: {', '.join(kept.left)}; later calls try again")

    def is_alive(self, record: Record) -> bool:
        """Whether the attachment is in use: from this boot, not being removed, its namespace in use."""
        return not record.removing and self._is_inhabited(record)

    def _is_inhabited(self, record: Record) -> bool:
        is_of_this_boot = record.boot_id == self._attachments.boot_id
        return is_of_this_boot and self._namespaces.is_inhabited(record.netns, record.netns_identity)

    def collect_all(self, keys: Iterable[Key]) -> None:
        """Removes the attachments. Remotes that have not answered are not contacted again; the rest is kept pending."""
        deadline = time.monotonic() + COLLECT_SECONDS
        self._silent = set()
        try:
            run_all(*[bound(self._collect, key, deadline) for key in keys])
        finally:
            self._silent = None

    def _collect(self, key: Key, deadline: float) -> None:
        is_late = time.monotonic() >= deadline
        with LockedRecord(self._attachments, key, 0.0 if is_late else None) as record:
            if record is None:
                return
            if not is_late:
                self.remove_or_keep(record, deadline)
            elif not record.removing:
                self._log.warning(f"the time limit of this GC has passed: later calls remove {key}")
                self._attachments.keep_pending(record)

    def collect_dead(self, key: Key) -> None:
        """Removes the attachment unless it is in use.

        This is checked under the lock: a pod may just have been recreated.
        """
        with LockedRecord(self._attachments, key) as record:
            if record is not None and not self.is_alive(record):
                self._log.warning(f"{key} has {record.device or 'no device'} and is gone: cleaning up")
                self.remove_or_keep(record)

    def drain(self, network: str) -> None:
        """Finishes pending removals of earlier calls and boots. Failures do not affect this call.

        A try with an unreachable remote counts for all records that wait for it, and no other remote is tried in this
        call.
        """
        deadline, silent = time.monotonic() + DRAIN_SECONDS, ""
        try:
            self._attachments.recover()
            self._attachments.sweep(network)
            silent = self._collect_earlier_boots(deadline)
        except CniError as error:
            self._log.warning(f"leftovers of earlier calls stay: {error}")
        for pending in self._attachments.due()[:DRAIN_RECORDS]:
            if time.monotonic() > deadline:
                return
            if silent and self.remote(pending):
                continue
            silent = self._tried(pending, deadline) or silent
            self._pass_over(silent)

    def _collect_earlier_boots(self, deadline: float) -> str:
        """Removes the leftovers of earlier boots, once per boot: many runtimes call neither DEL nor GC for them.

        Returns the remote that did not answer: removals that wait for it are kept pending.
        """
        if self._attachments.has_collected():
            return ""
        silent = ""
        for record in self._attachments.of_earlier_boots():
            if time.monotonic() > deadline:
                return silent  # The next call continues.
            silent = self._tried(record, deadline, waits=not (silent and self.remote(record))) or silent
        self._attachments.collected()
        return silent

    def _tried(self, found: Record, deadline: float, *, waits: bool = True) -> str:
        """Tries the removal, and returns the remote that did not answer, or an empty text.

        With `waits` false it is only kept pending.
        """
        try:
            with LockedRecord(self._attachments, found.key, 0.0) as record:
                # By now, the record may be that of a new ADD of the same attachment, which must not be removed.
                if record is None or not (record.removing or record.boot_id != self._attachments.boot_id):
                    return ""
                if not waits:
                    self._attachments.keep_pending(record)
                    return ""
                try:
                    self.remove(record, deadline)
                except TryAgainLater as error:
                    self._log.warning(f"still pending: {found.key}: {error}")
                    return self.remote(self._attachments.find(found.key) or record)
        except Exception as error:  # noqa: BLE001 - a record that makes trouble must not stop every pod of the node
            self._log.warning(f"still pending: {found.key}: {error}")
        return ""

    def _pass_over(self, silent: str) -> None:
        for other in self._attachments.pending() if silent else ():
            if self.remote(other) == silent:
                self._attachments.tried(other.key)

    def _release(self, record: Record, deadline: float | None) -> None:
        if record.ipam is not None:
            seconds = None if deadline is None else within(deadline, COLLECT_SECONDS)
            self._ipam.release(IpamCall.from_document(record.ipam), seconds=seconds)

    def withdraw_device_info(self, record: Record, part: str) -> None:
        """Removes the device-info file, which belongs to `part` of `left`.

        Multus names the file after the pod: if a new sandbox of the pod has been attached already, it is that sandbox's
        file.
        """
        # /run loses files of earlier boots; a file with this name is the one that Multus wrote for the pod's new
        # sandbox.
        if not record.device_info or record.boot_id != self._attachments.boot_id:
            return
        try:
            path = device_info.checked(record.device_info)
        except InvalidConfig as error:
            self._log.warning(f"the record of {record.key} is damaged, nothing is removed: {error}")
            return
        others = self._attachments.others_with(record.key, path)
        if not any(part in other.left for other in others):
            device_info.remove(path)


def is_on_the_side(deadline: float | None) -> bool:
    """Whether a removal only has the time of work for another pod's call."""
    return deadline is not None and deadline - time.monotonic() <= DRAIN_SECONDS


def within(deadline: float | None, seconds: float) -> float:
    """A step's time limit in seconds, or half of the remaining time if that is less, because other steps follow."""
    return seconds if deadline is None else max(min(seconds, (deadline - time.monotonic()) / 2), 0.0)

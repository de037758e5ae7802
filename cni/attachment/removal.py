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
        """Tells whose network namespaces are still somebody's."""

        def is_inhabited(self, path: str, identity: str) -> bool: ...


DRAIN_SECONDS = 5.0
"""Bound for finishing what earlier calls had to leave pending; it is work on the side of an ADD or DEL."""

COLLECT_SECONDS = 60.0
"""Bound for all removals of a GC together, but for a step that has begun; what it does not reach is kept pending."""

DRAIN_RECORDS = 4
"""Bound for their number in one call: what fails each time must not slow down every pod of the node."""


class Removal(ABC):
    """Undoes attachments by their records. A plugin's subclass says what there is to undo beside the addresses."""

    def __init__(self, *, namespaces: Namespaces, attachments: Attachments, ipam: Ipam, log: Log) -> None:
        self._namespaces = namespaces
        self._attachments = attachments
        self._ipam = ipam
        self._log = log
        self._silent: set[str] | None = None
        """What has not answered in this GC, and is not asked again; None in a call that asks each time."""

    def steps(self, record: Record, deadline: float | None) -> dict[str, Callable[[], None]]:
        """What undoes each part that a record's `left` can name, in the order in which it is done.

        `deadline` is in monotonic seconds; each step has its own bound, too (see `within`).
        """
        return {IPAM: lambda: self._release(record, deadline)}

    @abstractmethod
    def blocks_delete(self, record: Record, /) -> bool:
        """Whether what is still left of this attachment keeps its pod from going."""

    def is_deferred(self, _record: Record, /) -> bool:
        """Whether the record tells of no attachment, but only of something to look after."""
        return False

    def remote(self, record: Record, /) -> str:
        """What the removal waits for first outside of this plugin and the kernel, for people; empty for nothing."""
        return next((name for part, name in self.remotes(record).items() if part in record.left), "")

    def remotes(self, record: Record) -> dict[str, str]:
        """What undoing each part waits for, the one to name first before others; not the parts that wait for nothing."""
        return {IPAM: f"IPAM plugin {record.ipam.get('type')}"} if record.ipam else {}

    def kept(self, record: Record) -> Record:
        """The record of a removal that could not finish, as it is to be kept: with what the next try has to know."""
        return record

    def remove(self, record: Record, deadline: float | None = None) -> None:
        """The way back of ADD and DEL: undoes what is left, and keeps the record of what cannot be undone yet.

        `deadline` ends all waits together (None: each has its own bound). Called with the device's lock held.
        Raises what hindered it; the record says what is left.
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
        """Does it, unless that waits for what has not answered in this GC. Raises `TryAgainLater` then, too."""
        if self._silent is not None and remote in self._silent:
            raise TryAgainLater(f"{remote} has not answered in this call, and is not waited for again")
        try:
            action()
        except TryAgainLater:
            if self._silent is not None and remote:
                self._silent.add(remote)
            raise

    def is_in_use(self, record: Record) -> bool:
        """Whether a pod may go on with a device that could not be taken from it, and so with its addresses."""
        return self._is_inhabited(record)

    def remove_or_keep(self, record: Record, deadline: float | None = None) -> None:
        """Removes the attachment. Steps that need not block the pod's deletion may stay pending; later calls retry them."""
        try:
            self.remove(record, deadline)
        except CniError as error:
            kept = self._attachments.find(record.key)
            # When it could not even be kept nobody would ever finish it.
            if kept is None or not kept.removing or self.blocks_delete(kept):
                raise
            self._log.warning(f"{error}; still to do: {', '.join(kept.left)}; later calls try again")

    def is_alive(self, record: Record) -> bool:
        """Whether the attachment is still somebody's: of this boot, not being removed, its namespace inhabited."""
        return not record.removing and self._is_inhabited(record)

    def _is_inhabited(self, record: Record) -> bool:
        is_of_this_boot = record.boot_id == self._attachments.boot_id
        return is_of_this_boot and self._namespaces.is_inhabited(record.netns, record.netns_identity)

    def collect_all(self, keys: Iterable[Key]) -> None:
        """Removes the attachments. No remote that has not answered is waited for again; the rest is kept pending."""
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
                self._log.warning(f"the time of this GC is over: {key} is left to later calls")
                self._attachments.keep_pending(record)

    def collect_dead(self, key: Key) -> None:
        """The same, unless it is somebody's: looked at under the lock, since a pod may just have been made anew."""
        with LockedRecord(self._attachments, key) as record:
            if record is not None and not self.is_alive(record):
                self._log.warning(f"{key} has {record.device or 'no device'} and is gone: cleaning up")
                self.remove_or_keep(record)

    def drain(self, network: str) -> None:
        """Finishes removals that earlier calls, and boots, had to leave. It is work on the side: nothing fails this call.

        One try of what does not answer is that of all that wait for it, and no other one is waited for in this call.
        """
        deadline, silent = time.monotonic() + DRAIN_SECONDS, ""
        try:
            self._attachments.recover()
            self._attachments.sweep(network)
            silent = self._collect_earlier_boots(deadline)
        except CniError as error:
            self._log.warning(f"litter of earlier calls stays: {error}")
        for pending in self._attachments.due()[:DRAIN_RECORDS]:
            if time.monotonic() > deadline:
                return
            if silent and self.remote(pending):
                continue
            silent = self._tried(pending, deadline) or silent
            self._pass_over(silent)

    def _collect_earlier_boots(self, deadline: float) -> str:
        """Removes what earlier boots left, once in a boot: many runtimes call neither DEL nor GC for it.

        Returns what did not answer: what waits for that is kept pending.
        """
        if self._attachments.has_collected():
            return ""
        silent = ""
        for record in self._attachments.of_earlier_boots():
            if time.monotonic() > deadline:
                return silent  # The next call goes on.
            silent = self._tried(record, deadline, waits=not (silent and self.remote(record))) or silent
        self._attachments.collected()
        return silent

    def _tried(self, found: Record, deadline: float, *, waits: bool = True) -> str:
        """Tries the removal; what did not answer, empty for nothing. Not `waits`: it is kept pending without a try."""
        try:
            with LockedRecord(self._attachments, found.key, 0.0) as record:
                # Under the lock it may be another life of the same attachment, which nobody wants removed.
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
        """Removes the file that tells the containers about the device; `part` of `left` is the one that this belongs to.

        Multus names it after the pod: where a new sandbox of the pod has been attached already, the file is that one's.
        """
        # Below /run a file of an earlier boot is gone; one of that name is what Multus wrote for the pod's new sandbox.
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
    """Whether a removal has no more time than work on the side of another pod's call."""
    return deadline is not None and deadline - time.monotonic() <= DRAIN_SECONDS


def within(deadline: float | None, seconds: float) -> float:
    """A step's own bound in seconds, or half of what is left until the deadline if that is less: others follow it."""
    return seconds if deadline is None else max(min(seconds, (deadline - time.monotonic()) / 2), 0.0)

"""DEL, CHECK, GC and STATUS for the plugins that attach something, and the parts of ADD that they share.

The subclass of a plugin implements the specific steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from cni.attachment.delegate import IpamCall
from cni.attachment.record import DEVICE, IPAM, Key, Record
from cni.attachment.records import LockedRecord
from cni.errors import CheckFailed, DelegateFailed, InvalidConfig, IoFailure, LimitedConnectivity, NotAvailable
from cni.protocol.request import NO_LIST
from cni.protocol.result import Result
from cni.rollback import run_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.attachment.ipam import Ipam
    from cni.attachment.records import Attachments
    from cni.attachment.removal import Removal
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.protocol.request import Request

    Steps = list[Callable[[], object]]


class Lifecycle(ABC):
    """One call of a plugin, except its ADD. DEL and the rollback of ADD share `removal`."""

    def __init__(
        self, *, attachments: Attachments, ipam: Ipam, log: Log, removal: Removal, strict_status: bool = False
    ) -> None:
        self._attachments = attachments
        self._ipam = ipam
        self._log = log
        self._removal = removal
        self._strict_status = strict_status

    @abstractmethod
    def ipam_call(self, request: Request) -> IpamCall | None:
        """The call of the configuration's IPAM plugin; None without one, or if its values are invalid."""

    @abstractmethod
    def unrecorded(self, request: Request) -> Steps:
        """DEL without a record: uses the attachment's own marks."""

    @abstractmethod
    def drift(self, request: Request, record: Record) -> list[str]:
        """Every difference between the attachment and its record, one line each."""

    @abstractmethod
    def orphans(self, request: Request, valid: set[tuple[str, str]]) -> Steps:
        """Steps by which GC removes this network's resources that have no record and belong to no valid attachment."""

    @abstractmethod
    def require_node(self, request: Request) -> None:
        """Raises `NotAvailable` if the node itself cannot serve any ADD."""

    @abstractmethod
    def require_network(self, request: Request) -> None:
        """Raises `NotAvailable` or `LimitedConnectivity` if this network lacks something that an ADD needs.

        Contacts no other host, and returns within seconds.
        """

    def delete(self, request: Request) -> None:
        """Removes the attachment by its record; without a record, by its own marks."""
        self._removal.drain(request.network)
        record = self._delete_recorded(request)
        if record is None:
            run_all(*self.unrecorded(request), lambda: self._release_unrecorded(request))
            # A concurrent ADD of this attachment may have saved its record meanwhile.
            self._delete_recorded(request, again=True)
        elif self._removal.is_deferred(record):
            self._release_unrecorded(request)

    def undo(self, request: Request) -> None:
        """Removes the attachment that `add` of this object has made.

        The runtime may have removed it meanwhile, and even repeated the ADD: then the record is not this call's.
        """
        with LockedRecord(self._attachments, Key.of(request)) as record:
            if record is not None and self._attachments.has_written(record.key):
                self._removal.remove_or_keep(record)

    def _delete_recorded(self, request: Request, *, again: bool = False) -> Record | None:
        """The record, if there was one.

        `again`: skips a removal that has just been left pending and does not block the pod.
        """
        with LockedRecord(self._attachments, Key.of(request)) as record:
            if record is not None and not (again and record.removing and not self._removal.blocks_delete(record)):
                self._removal.remove_or_keep(record)
            return record

    def check(self, request: Request) -> None:
        """Compares the attachment with its record. Raises `CheckFailed` with all differences."""
        key = Key.of(request)
        record = self._attachments.find(key)
        if record is None:
            self.check_unrecorded(request)
            return
        if record.removing:
            raise CheckFailed(f"{key} is being removed; still to do: {', '.join(record.left)}", hint="ADD it again")
        problems = self.drift(request, record)
        if problems:
            raise CheckFailed("; ".join(problems))
        self._with_ipam(request, self._ipam.check)

    def check_unrecorded(self, request: Request) -> None:
        """CHECK without a record. Raises `CheckFailed`."""
        raise CheckFailed(
            f"there is no record of {Key.of(request)}", hint="the container was not attached by this plugin"
        )

    def gc(self, request: Request) -> None:
        """Removes this network's attachments that the runtime no longer knows, and resources without a record."""
        listed = request.valid_attachments
        self._removal.drain(request.network)
        if listed is None:
            self._log.warning(NO_LIST)
            return
        valid = set(listed)
        keys = [record.key for record in self._attachments.of_network(request.network)]
        stale = [key for key in keys if (key.container_id, key.ifname) not in valid]
        run_all(
            lambda: self._removal.collect_all(stale),
            *self.orphans(request, valid),
            lambda: self._with_ipam(request, self._ipam.gc),
        )

    def status(self, request: Request) -> None:
        """Raises `NotAvailable` if the node cannot serve any ADD. A problem of this network is a warning in the log.

        When STATUS fails, containerd, CRI-O and the kubelet make the whole node NotReady, and its healthy pods are
        evicted. A problem of one network must not cause this, unless the administrator wants it (`strict_status`).
        """
        try:
            self._attachments.writable()
        except IoFailure as error:
            raise NotAvailable(error.msg, hint=error.hint) from error
        self.require_node(request)
        try:
            self.require_network(request)
        except (NotAvailable, LimitedConnectivity) as error:
            if self._strict_status:
                raise
            self._log.warning(f"STATUS: {error.msg}")
        self._with_ipam(request, self._ipam.status)

    # The shared parts of ADD.

    def new_record(self, request: Request, netns: Netns, *, left: tuple[str, ...] = (), **parts: Any) -> Record:
        """A new record in which every part is still to be undone: device, addresses if there are any, and `left`.

        `parts` are the plugin's own fields.
        """
        call = self.ipam_call(request)
        return Record(
            key=Key.of(request),
            netns=request.netns,
            netns_identity=netns.identity,
            boot_id=self._attachments.boot_id,
            ipam=None if call is None else call.as_document(),
            left=tuple(sorted({DEVICE, *left, *([IPAM] if call else ())})),
            **parts,
        )

    def preload_ipam(self, record: Record) -> None:
        """Lets the IPAM plugin load modules while the kernel or the vswitch works on the device."""
        if record.ipam is not None:
            self._ipam.preload(record.ipam["type"])

    def lease(self, record: Record) -> Result:
        """The addresses of the attachment. Raises `InvalidConfig` if its IPAM plugin returns none."""
        if record.ipam is None:
            return Result()
        leased = self._ipam.lease(IpamCall.from_document(record.ipam))
        if not leased.ips:
            raise InvalidConfig(
                "ipam: the IPAM plugin returned no addresses", hint="for an attachment without addresses omit ipam"
            )
        return leased

    def _release_unrecorded(self, request: Request) -> None:
        try:
            self._with_ipam(request, self._ipam.release)
        except (DelegateFailed, InvalidConfig) as error:
            # Usually no address was leased, because ADD failed with the same configuration.
            self._log.warning(f"IPAM DEL without a record: {error}")

    def _with_ipam(self, request: Request, action: Callable[[IpamCall], None]) -> None:
        call = self.ipam_call(request)
        if call is not None:
            action(call)

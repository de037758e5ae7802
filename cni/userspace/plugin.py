"""The `userspace` plugin: what each CNI command does. ADD and DEL share one way back, `remove`."""

from __future__ import annotations

from cni.attachments import Replay
from cni.delegate import IpamCall
from cni.errors import (
    CheckFailed,
    DelegateFailed,
    DeviceBusy,
    InvalidConfig,
    IoFailure,
    NotAvailable,
    TryAgainLater,
)
from cni.record import Key
from cni.result import Interface, Result
from cni.rollback import on_failure, run_all
from cni.userspace import plan
from cni.userspace.asked import Asked, asked, ipam_call, remote_of, vhost_directory
from cni.userspace.attachment import from_record
from cni.userspace.location import locate
from cni.userspace.publish import entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.attachments import Attachments
    from cni.log import Log
    from cni.ports import Ipam
    from cni.record import Record
    from cni.request import Request
    from cni.userspace.attachment import PortAttachment
    from cni.userspace.removal import Removal
    from cni.userspace.world import World


STATUS_SECONDS = 5.0
"""Bound for the vswitch's sign of life, which takes milliseconds; a runtime asks again and again."""


class UserspacePlugin:
    """One call of the plugin, with the world that it works on."""

    def __init__(self, *, world: World, attachments: Attachments, ipam: Ipam, log: Log, removal: Removal) -> None:
        self._world = world
        self._attachments = attachments
        self._ipam = ipam
        self._log = log
        self._removal = removal

    def add(self, request: Request) -> Result:
        """Makes the port, and tells the pod where its socket is to be."""
        wanted, key = asked(request, self._log), Key.of(request)
        previous, call = request.prev_result() or Result(), ipam_call(request)
        self._removal.drain(request.network)
        # An earlier life of the same container may have left something.
        self._removal.collect_dead(key)
        with self._world.namespaces.netns(request.netns) as netns, self._attachments.locked(plan.port_name(key)):
            self._make_free(plan.port_name(key), key)
            attachment = self._planned(key, wanted)
            self._remove_orphan(attachment)
            record = plan.record(
                attachment,
                key,
                netns=request.netns,
                netns_identity=netns.identity,
                boot_id=self._attachments.boot_id,
                ipam=None if call is None else call.as_document(),
                device_info=wanted.device_info,
            )
            self._attachments.claim(record)
            with on_failure(self._removal.remove, record):
                self._plug(attachment)
                leased = self._lease(record)
                result = previous.extended(_interface(request, attachment), leased)
                self._world.publisher.publish(record, attachment, entry(record, attachment, wanted.conf, result))
                return result

    def delete(self, request: Request) -> None:
        """Undoes what the record tells of; without a record, what the port's own mark tells of."""
        self._removal.drain(request.network)
        with Replay(self._attachments, Key.of(request)) as record:
            if record is not None:
                self._removal.remove_or_keep(record)
                return
        run_all(lambda: self._delete_unrecorded(request), lambda: self._release_unrecorded(request))

    def check(self, request: Request) -> None:
        """Compares with the vswitch and the host all that ADD did. Raises `CheckFailed` with every difference."""
        from cni.userspace.check import drift  # noqa: PLC0415 - ADD and DEL do not pay for it

        key = Key.of(request)
        record = self._attachments.find(key)
        if record is None:
            raise CheckFailed(f"there is no record of {key}", hint="the container was not attached by this plugin")
        vswitch = self._world.vswitch(from_record(record).remote)
        problems = drift(vswitch, self._world.sockets, record, self._log)
        if problems:
            raise CheckFailed("; ".join(problems))
        call = ipam_call(request)
        if call is not None:
            self._ipam.check(call)

    def gc(self, request: Request) -> None:
        """Removes this network's attachments that the runtime does not know any more, and ports without a record."""
        valid = set(request.valid_attachments)
        self._removal.drain(request.network)
        keys = [record.key for record in self._attachments.of_network(request.network)]
        steps: list[Callable[[], None]] = [
            _bound(self._removal.collect, key) for key in keys if (key.container_id, key.ifname) not in valid
        ]
        steps.append(
            lambda: self._removal.clean_orphans(request.network, valid, remote_of(request), vhost_directory(request))
        )
        call = ipam_call(request)
        if call is not None:
            steps.append(lambda: self._ipam.gc(call))
        run_all(*steps)

    def status(self, request: Request) -> None:
        """Whether an ADD can be served: records can be written, ovs-vswitchd answers and can make such ports, and IPAM.

        Raises `NotAvailable`, and `LimitedConnectivity` when the database answers and ovs-vswitchd does not.
        """
        try:
            self._attachments.writable()
        except IoFailure as error:
            raise NotAvailable(error.msg, hint=error.hint) from error
        self._world.vswitch(remote_of(request), seconds=STATUS_SECONDS).status()
        call = ipam_call(request)
        if call is not None:
            self._ipam.status(call)

    # Steps of ADD.

    def _make_free(self, name: str, key: Key) -> None:
        """Refuses a name in use, as two containers can have whose IDs are alike; brings home what its owner left."""
        owner = self._attachments.of_device(name)
        if owner is None:
            return
        if self._removal.is_alive(owner):
            raise DeviceBusy(
                f"port {name} belongs to container {owner.key.container_id} (interface {owner.key.ifname}, network "
                f"{owner.key.network})",
                hint="DEL it first" if owner.key == key else "it is freed by that container's DEL",
            )
        self._log.warning(f"{name} was left by container {owner.key.container_id}, which is gone: cleaning up")
        self._removal.remove(owner)

    def _remove_orphan(self, attachment: PortAttachment) -> None:
        """A port with the attachment's mark, which has no record yet, is what a lost record told of.

        It is also the first look at the vswitch's database: where that does not answer, nothing has been changed.
        """
        vswitch, owner = self._world.vswitch(attachment.remote), attachment.port.owner
        if vswitch.show(owner=owner):
            self._log.warning(f"a port of {owner.container_id} has no record, only its mark: removing it")
            vswitch.unplug(owner)

    def _planned(self, key: Key, wanted: Asked) -> PortAttachment:
        pod = None
        if wanted.pod is not None and (wanted.conf.get("kubeconfig") or wanted.conf.get("annotations")):
            pod = self._world.publisher.pod(wanted.pod, wanted.conf.get("kubeconfig") or "")
        directory, container_dir = locate(key, wanted, pod)
        return plan.plan(key, wanted, directory, container_dir)

    def _plug(self, attachment: PortAttachment) -> None:
        self._world.sockets.prepare(attachment.directory)
        self._world.vswitch(attachment.remote).plug(attachment.port, create_bridge=attachment.create_bridge)
        self._world.sockets.require_seen(attachment.directory, attachment.remote)

    def _lease(self, record: Record) -> Result:
        if record.ipam is None:
            return Result()
        leased = self._ipam.lease(IpamCall.from_document(record.ipam))
        if not leased.ips:
            raise InvalidConfig(
                "ipam: the IPAM plugin returned no addresses", hint="for an attachment without addresses omit ipam"
            )
        return leased

    # Steps of DEL.

    def _delete_unrecorded(self, request: Request) -> None:
        key, remote, vhost = Key.of(request), remote_of(request), vhost_directory(request)
        try:
            self._removal.delete_unrecorded(key, remote, vhost)
        except TryAgainLater as error:
            self._removal.promise(key, remote, vhost)
            self._log.warning(f"{error}; a later call looks whether there is a port of {key}")

    def _release_unrecorded(self, request: Request) -> None:
        call = ipam_call(request)
        try:
            if call is not None:
                self._ipam.release(call)
        except (DelegateFailed, InvalidConfig) as error:
            # Nothing says that an address was ever leased: an ADD that failed over this very configuration, mostly.
            self._log.warning(f"IPAM DEL without a record: {error}")


def _interface(request: Request, attachment: PortAttachment) -> Interface:
    return Interface(
        name=request.ifname,
        mac=attachment.mac,
        mtu=attachment.port.mtu or 0,
        sandbox=request.netns,
        socket_path=attachment.port.path,
    )


def _bound(action: Callable[[Key], Any], key: Key) -> Callable[[], None]:
    return lambda: action(key)

"""The `userspace` plugin: its ADD, and the parts of the other commands that are specific to ports."""

from __future__ import annotations

import os

from cni.attachment.lifecycle import Lifecycle
from cni.attachment.record import POD, Key
from cni.errors import (
    DeviceBusy,
    InterfaceExists,
    InvalidConfig,
    NotAvailable,
    SocketDirUnfit,
    TryAgainLater,
    VswitchRefused,
)
from cni.protocol.result import Interface, Result
from cni.rollback import on_failure
from cni.userspace import allowed, plan
from cni.userspace.attachment import PLUGIN, document, found_of, from_record, wanted_of
from cni.userspace.location import locate
from cni.userspace.publish import entry
from cni.userspace.removal import directory_of
from cni.userspace.request import ParsedRequest, bridge_of, ipam_call, parse_request, remote_of, vhost_directory
from cni.userspace.sockets import ownership
from cni.userspace.sockets.directory import is_decided
from cni.userspace.vswitch.remote import REMOTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attachment.delegate import IpamCall
    from cni.attachment.ipam import Ipam
    from cni.attachment.lifecycle import Steps
    from cni.attachment.record import Record
    from cni.attachment.records import Attachments
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.node.node import NodeConf
    from cni.protocol.request import Request
    from cni.userspace.adapters import Adapters
    from cni.userspace.attachment import PortAttachment
    from cni.userspace.removal import PortRemoval
    from cni.userspace.sockets.directory import SocketDirectory
    from cni.userspace.sockets.ownership import FoundDict


_ADMIT_HINT = (
    "if it is not root, it needs an ACL in the network to connect to the virtual machine "
    '("socketDirectory": {"acl": ["user:ID:rwx"]}); an empty socketDirectory prevents this warning'
)

STATUS_SECONDS = 2.0
"""Time limit for a response of the vswitch, which takes milliseconds; the kubelet calls STATUS every 5 s."""


class UserspacePlugin(Lifecycle):
    """One call of the plugin, with the adapters that it uses."""

    _removal: PortRemoval

    def __init__(
        self,
        *,
        adapters: Adapters,
        attachments: Attachments,
        ipam: Ipam,
        log: Log,
        removal: PortRemoval,
        node: NodeConf,
    ) -> None:
        super().__init__(attachments=attachments, ipam=ipam, log=log, removal=removal, strict_status=node.strict_status)
        self._adapters = adapters
        self._node = node

    def add(self, request: Request) -> Result:
        """Creates the port, and publishes the path of its socket to the pod."""
        wanted, key = parse_request(request, self._node, self._log), Key.of(request)
        previous = request.prev_result() or Result()
        _require_absent(request, previous)
        planned = self._planned(key, wanted)
        self._clear_the_way(key, planned)
        with self._adapters.namespaces.netns(request.netns) as netns, self._attachments.locked(planned.port.name):
            record = self._claimed(request, netns, planned, wanted.device_info)
            attachment = from_record(record)
            with on_failure(self._removal.remove, record):
                self._plug(attachment, found_of(record))
                result = previous.extended(_interface(request, attachment), self.lease(record))
                self._adapters.publisher.publish(record, attachment, entry(record, attachment, wanted.ends, result))
                return result

    def ipam_call(self, request: Request) -> IpamCall | None:
        return ipam_call(request)

    def unrecorded(self, request: Request) -> Steps:
        remote = self._remote(request)
        return [] if remote is None else [lambda: self._delete_unrecorded(request, remote)]

    def drift(self, _request: Request, record: Record) -> list[str]:
        from cni.userspace.check import drift  # noqa: PLC0415 - ADD and DEL do not pay for it

        vswitch = self._adapters.vswitch(from_record(record).remote)
        return drift(vswitch, self._adapters.sockets, record, self._log)

    def orphans(self, request: Request, valid: set[tuple[str, str]]) -> Steps:
        remote, vhost = self._remote(request), vhost_directory(request, self._node)
        if remote is None:
            return []
        return [lambda: self._removal.clean_orphans(request.network, valid, remote, vhost)]

    def require_node(self, request: Request) -> None:
        """See `Lifecycle`: Open vSwitch is installed. If its database is stopped, the directory still exists."""
        missing = _missing_directory(remote_of(request, self._node))
        if missing:
            raise NotAvailable(
                f"{missing} does not exist: Open vSwitch is not installed, or was never started",
                hint="install Open vSwitch with DPDK on the node, or name its database (ovsdb)",
            )

    def require_network(self, request: Request) -> None:
        """See `Lifecycle`: ovs-vswitchd can create ports on the bridge.

        Raises `LimitedConnectivity` if only its database responds. A database on another host is contacted only if the
        administrator wants it: STATUS causes no network traffic.
        """
        bridge, creates = bridge_of(request)
        remote = remote_of(request, self._node)
        if self._strict_status or remote.startswith("unix:"):
            self._adapters.vswitch(remote, seconds=STATUS_SECONDS).status(bridge, create_bridge=creates)

    # Steps of ADD.

    def _clear_the_way(self, key: Key, attachment: PortAttachment) -> None:
        """Removes dead attachments that have what this one needs, and what earlier calls left pending.

        Each removal takes the lock of its own port, so no lock may be held when this is called.
        """
        self._removal.drain(key.network)
        for gone in self._in_the_way(key, attachment):
            self._removal.collect_dead(gone)

    def _in_the_way(self, key: Key, attachment: PortAttachment) -> list[Key]:
        """The attachments that cannot exist beside this one, living or dead.

        They are: an earlier attachment of the same container; the owner of the port's name, since the names of two
        containers can be equal; and the users of the socket, such as an earlier sandbox of the pod whose DEL was lost.
        """
        owner = self._attachments.of_device(attachment.port.name)
        users = [
            one for one in self._removal.in_directory(key, attachment) if wanted_of(one)["socket"] == attachment.socket
        ]
        return [*dict.fromkeys((key, *[one.key for one in (owner, *users) if one is not None]))]

    def _require_free(self, key: Key, name: str) -> None:
        """Refuses a port's name that another attachment has. Called with the port's lock held."""
        owner = self._attachments.of_device(name)
        if owner is None:
            return
        if not self._removal.is_alive(owner):
            raise TryAgainLater(
                f"port {name} is being removed for {owner.key}; still to do: {', '.join(owner.left)}",
                hint="its vswitch or API server does not answer; if that is gone for good: barewire forget",
            )
        raise DeviceBusy(
            f"port {name} belongs to container {owner.key.container_id} (interface {owner.key.ifname}, network "
            f"{owner.key.network})",
            hint="DEL it first" if owner.key == key else "it is freed by that container's DEL",
        )

    def _remove_orphan(self, attachment: PortAttachment) -> None:
        """Removes a port with the attachment's mark and without a record: the record was lost.

        This is also the first access to the vswitch's database. If it does not respond, nothing has been changed.
        """
        vswitch, owner = self._adapters.vswitch(attachment.remote), attachment.port.owner
        left = vswitch.show(owner=owner)
        if left:
            self._log.warning(f"a port of {owner.container_id} has no record, only its mark: removing it")
            vswitch.unplug(owner)
        if any(one.port.socket == attachment.port.socket for one in left):
            self._adapters.sockets.remove(attachment.directory, attachment.socket, attachment.config_file)

    def _claimed(self, request: Request, netns: Netns, planned: PortAttachment, device_info: str) -> Record:
        """Saves the record. From then on DELs see that the directory is used; meanwhile none of them removes it.

        Called with the port's lock held. Raises `DeviceBusy` if the port's name is in use, and `TryAgainLater` if the
        vswitch does not respond: nothing has been changed by then.
        """
        key = Key.of(request)
        self._require_free(key, planned.port.name)
        self._remove_orphan(planned)
        with self._removal.locked_directories():
            attachment, found = self._among_others(key, planned)
            record = self.new_record(
                request,
                netns,
                plugin=PLUGIN,
                device=attachment.port.name,
                found=found or {},
                wanted=document(attachment),
                device_info=device_info,
                left=(POD,),
            )
            self.preload_ipam(record)
            self._attachments.claim(record)
            return record

    def _among_others(self, key: Key, planned: PortAttachment) -> tuple[PortAttachment, FoundDict | None]:
        """The attachment, given the others in its directory, and the state of the directory before the first of them.

        A directory that is removed when it is empty is removed with the last of them. Raises `SocketDirUnfit` if
        another one requires a different owner or different permissions, and if the socket's name is taken.
        """
        sockets, beside = self._adapters.sockets, self._removal.in_directory(key, planned)
        directory = planned.directory.replace(absent=sockets.is_missing(planned.directory), since=sockets.now())
        directory = self._agreed(directory, beside)
        # The vswitch refuses a second port on the socket of a living attachment.
        taken = any(wanted_of(one)["socket"] == planned.socket for one in beside)
        sockets.require_free(directory, "" if taken else planned.socket, planned.config_file)
        found = self._found(directory, beside)
        # Directories that another attachment made are removed with the last attachment that needs them.
        absent = directory.absent or bool(self._removal.making(key, directory.path))
        whole = self._removal.with_parents(key, directory.replace(absent=absent))
        return planned.replace(directory=whole), found

    def _agreed(self, directory: SocketDirectory, beside: list[Record]) -> SocketDirectory:
        """The directory; a default gives way to what the networks of living attachments request for the directory."""
        if not ownership.is_wanted(directory):
            return directory
        for other in beside:
            requested = directory_of(other)
            if requested.by_default or not ownership.is_wanted(requested):
                continue
            if directory.by_default:
                if self._removal.is_alive(other):
                    return ownership.like(directory, requested)
            elif not ownership.agree(directory, requested):
                raise SocketDirUnfit(
                    f"{directory.path} is used by {other.key}, with another owner or other permissions",
                    hint="give both networks the same socketDirectory, or the pod two volumes",
                )
        return directory

    def _found(self, directory: SocketDirectory, beside: list[Record]) -> FoundDict | None:
        """The state of the directory before the first attachment that changes it, in each part of the state."""
        now = self._adapters.sockets.found(directory)
        wanting = [one for one in beside if ownership.is_wanted(directory_of(one))]
        for other in wanting:
            earlier = found_of(other)
            if now and earlier:
                now = ownership.before(now, earlier, ownership.changes(directory_of(other)))
        return now

    def _planned(self, key: Key, wanted: ParsedRequest) -> PortAttachment:
        pod = None
        if wanted.pod is not None and (wanted.conf.get("kubeconfig") or wanted.conf.get("annotations")):
            pod = self._adapters.publisher.pod(wanted.pod, wanted.conf.get("kubeconfig") or "")
        place = locate(key, wanted, pod, self._node)
        directory = self._admitting(place.directory, wanted) if place.admits_vswitch else place.directory
        return plan.plan(key, wanted, directory, place.socket, place.seen)

    def _admitting(self, directory: SocketDirectory, wanted: ParsedRequest) -> SocketDirectory:
        """The directory. Unless configured otherwise, Open vSwitch may connect to new sockets if it is not root."""
        if is_decided(wanted.conf):
            return directory
        try:
            user = self._vswitch_user(wanted.conf.get("ovsdb") or REMOTE)
        except SocketDirUnfit as error:
            self._log.warning(f"{error.msg}; {_ADMIT_HINT}")
            return directory
        return directory if user is None else directory.replace(acl=(f"user:{user}:rwx",), by_default=True)

    def _vswitch_user(self, remote: str) -> int | None:
        folder = os.path.dirname(remote.removeprefix("unix:"))
        if allowed.socket_root(folder, self._node):
            raise SocketDirUnfit(f"the user of ovs-vswitchd is not looked for in {folder}: pods may write to it")
        return self._adapters.sockets.vswitch_user(remote)

    def _plug(self, attachment: PortAttachment, found: FoundDict | None) -> None:
        self._adapters.sockets.prepare(attachment.directory, found)
        self._adapters.vswitch(attachment.remote).plug(attachment.port, create_bridge=attachment.create_bridge)
        self._adapters.sockets.require_visible(attachment.directory, attachment.remote)

    # Steps of DEL.

    def _remote(self, request: Request) -> str | None:
        """The vswitch's database; None if no attachment can have used the configured one."""
        try:
            return remote_of(request, self._node)
        except InvalidConfig as error:
            self._log.warning(f"ports are not looked for: {error}")
            return None

    def _delete_unrecorded(self, request: Request, remote: str) -> None:
        key, vhost = Key.of(request), vhost_directory(request, self._node)
        try:
            self._removal.delete_unrecorded(key, remote, vhost)
        except (TryAgainLater, VswitchRefused) as error:
            missing = _missing_directory(remote)
            if missing:
                # No call can have created a port there, and each failed sandbox would leave another deferred removal.
                self._log.warning(f"{missing} does not exist: no port of {key} is looked for")
                return
            self._removal.defer(key, remote, vhost)
            self._log.warning(f"{error}; a later call looks whether there is a port of {key}")


def _require_absent(request: Request, previous: Result) -> None:
    """Refuses the name of an interface that an earlier plugin of the list created for this pod.

    With two interfaces of one name, a runtime reports the port's address for the other one, and CRI-O's CHECK kills the
    pod.
    """
    if any((one.name, one.sandbox) == (request.ifname, request.netns) for one in previous.interfaces):
        raise InterfaceExists(
            f"prevResult has an interface {request.ifname} in this pod already",
            hint="a port of the vswitch is no network device: give it a network of its own, not a place in another's list",
        )


def _missing_directory(remote: str) -> str:
    """The directory of a database's socket if it is missing: Open vSwitch is not installed. A stopped one leaves it."""
    kind, _, place = remote.partition(":")
    directory = os.path.dirname(place)
    return directory if kind == "unix" and not os.path.isdir(directory) else ""


def _interface(request: Request, attachment: PortAttachment) -> Interface:
    return Interface(
        name=request.ifname,
        mac=attachment.mac,
        mtu=attachment.port.mtu or 0,
        sandbox=request.netns,
        socket_path=attachment.port.path,
    )

"""The plugin `barewire-ipam`: the CNI commands. The differences between backends are in the stores."""

from __future__ import annotations

from cni.errors import CheckFailed, InvalidConfig, NotAvailable
from cni.protocol.request import NO_LIST
from cni.protocol.result import IpConfig, Result
from cni.rollback import bound, run_all
from ipam.address import parse_cidr
from ipam.config.location import LOCAL, lease_location, lease_owner
from ipam.ranges import range_of, unleased

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.log import Log
    from cni.protocol.request import Request
    from cni.protocol.result import Dns
    from ipam.config.location import Defaults
    from ipam.config.request import ParsedRequest
    from ipam.store import Claim, Store
    from ipam.stores import Stores


class IpamPlugin:
    """One call of the plugin."""

    def __init__(self, stores: Stores, log: Log) -> None:
        self._stores = stores
        self._log = log

    def add(self, request: Request) -> Result:
        """Leases an address from each range set, or none at all.

        Addresses that the interface already has are returned again.
        """
        defaults = self._defaults(request)
        parsed = self._parsed(request, defaults)
        # This comes before the lease, because the file may be missing.
        dns = self._name_service(parsed)
        ips = [*self._leased(request, parsed, defaults), *parsed.fixed]
        return parsed.passed_on.replace(ips=tuple(ips), dns=dns)

    def delete(self, request: Request) -> None:
        """Frees the addresses of the interface in the configured store and in all others that this node knows."""
        ours = lease_owner(request)
        run_all(
            *[
                bound(self._traced(store).release, ours)
                for store in self._stores.all(lease_location(request, self._defaults(request)), ours)
            ]
        )

    def undo(self, request: Request) -> None:
        """As `delete`: the leases do not tell one ADD of an interface from another."""
        self.delete(request)

    def check(self, request: Request) -> None:
        """Compares the addresses of prevResult with the leases. Raises `CheckFailed` with every difference."""
        defaults, previous = self._defaults(request), request.prev_result()
        parsed = self._parsed(request, defaults)
        store = self._traced(self._stores.open(lease_location(request, defaults))) if parsed.sets else None
        held = set() if store is None else set(store.addresses(lease_owner(request)))
        problems = [f"no address of {', '.join(map(str, ranges))} is leased" for ranges in unleased(parsed.sets, held)]
        if previous is not None:
            reported = {
                parse_cidr(ip.address, "prevResult")[0] for ip in previous.ips if _is_ours(ip, previous, request)
            }
            fixed = {parse_cidr(ip.address, "ipam.addresses")[0] for ip in parsed.fixed}
            leasable = {
                address for address in reported - fixed if any(range_of(ranges, address) for ranges in parsed.sets)
            }
            problems += [f"{text} is not leased to this interface" for text in sorted(map(str, leasable - held))]
            problems += [f"{text} is leased but missing from prevResult" for text in sorted(map(str, held - reported))]
            problems += _fixed_differences(parsed, previous)
        if problems:
            raise CheckFailed("; ".join(problems))

    def gc(self, request: Request) -> None:
        """Frees the addresses of this node in this network whose attachments the runtime does not list as valid."""
        listed = request.valid_attachments
        if listed is None:
            self._log.warning(NO_LIST)
            return
        valid = set(listed)
        location = lease_location(request, self._defaults(request))
        run_all(*[bound(self._traced(store).gc, valid) for store in self._stores.of_network(location)])

    def status(self, request: Request) -> None:
        """Raises `NotAvailable` when this node cannot serve any ADD because its state cannot be written.

        A full range is only logged as a warning, and a cluster is not contacted: runtimes mark the whole node NotReady
        when STATUS fails, and a range of a cluster is full on all nodes at once. `strict_status` in the node
        configuration makes both an error.
        """
        defaults = self._defaults(request)
        parsed, location = self._parsed(request, defaults), lease_location(request, defaults)
        if not parsed.sets:
            return
        store = self._traced(self._stores.open(location))
        store.require_writable()
        if not self._stores.strict_status and location.backend != LOCAL:
            return
        try:
            store.status(parsed.sets)
        except NotAvailable as error:
            if self._stores.strict_status:
                raise
            self._log.warning(f"STATUS: {error.msg}")

    def _traced(self, store: Store) -> Store:
        return self._log.traced(store, "store")

    def _parsed(self, request: Request, defaults: Defaults) -> ParsedRequest:
        from ipam.config.request import parse_request  # noqa: PLC0415 - DEL and GC look at no ranges

        return parse_request(request, self._log, defaults)

    def _defaults(self, request: Request) -> Defaults:
        policy = self._stores.policy
        try:
            return policy.defaults(request)
        except InvalidConfig as error:
            if request.command not in ("DEL", "GC"):
                raise
            self._log.warning(
                f"{request.command} continues without whereabouts' second configuration file: {error.msg}"
            )
            return policy.defaults()

    def _name_service(self, parsed: ParsedRequest) -> Dns:
        if not parsed.resolv_conf:
            return parsed.passed_on.dns
        from ipam.config.resolvconf import LARGEST, parse  # noqa: PLC0415 - hardly any configuration names a file

        return parse(self._stores.policy.resolv_conf(parsed.resolv_conf, LARGEST))

    def _leased(self, request: Request, parsed: ParsedRequest, defaults: Defaults) -> list[IpConfig]:
        if not parsed.sets:
            return []
        store = self._traced(self._stores.open(lease_location(request, defaults)))
        return [_configured(claim) for claim in store.allocate(lease_owner(request), parsed.sets, parsed.requested)]


def _fixed_differences(parsed: ParsedRequest, previous: Result) -> list[str]:
    reported = {parse_cidr(ip.address, "prevResult")[0]: ip.gateway for ip in previous.ips}
    fixed = {parse_cidr(ip.address, "ipam.addresses")[0]: ip.gateway for ip in parsed.fixed}
    missing = [f"prevResult has no {address}" for address in fixed if address not in reported]
    return missing + [
        f"the gateway of {address} is {gateway}, and prevResult has {reported[address] or 'none'}"
        for address, gateway in fixed.items()
        if gateway and reported.get(address, gateway) != gateway
    ]


def _configured(claim: Claim) -> IpConfig:
    gateway = claim.range.gateway
    return IpConfig(
        address=f"{claim.address}/{claim.range.prefix}",
        gateway="" if gateway is None else str(claim.range.address(gateway)),
    )


def _is_ours(ip: IpConfig, previous: Result, request: Request) -> bool:
    """Whether the address belongs to this interface.

    Other plugins of a chain may report addresses of the same subnet.
    """
    if ip.interface is None or not 0 <= ip.interface < len(previous.interfaces):
        return True
    interface = previous.interfaces[ip.interface]
    return (interface.name, interface.sandbox) == (request.ifname, request.netns)

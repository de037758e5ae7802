"""The command line of `barewire-ipam`, with which an operator inspects and changes leases."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from cni.errors import CniError, InternalError, InvalidConfig, NotAvailable
from cni.node.load import load_node
from cni.value import Value
from ipam.cluster.journal_entry import TOMBSTONE
from ipam.command import inventory, listing
from ipam.command.fsck import Checker, Finding, confirmed
from ipam.command.networks import Folders, Network, configured, discover, entries
from ipam.command.options import parser
from ipam.command.repair import Repair, repaired
from ipam.command.sandboxes import Sandboxes, scan
from ipam.config.location import KUBERNETES
from ipam.config.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.jsontext import JsonObject
    from ipam.command.adopt import Adoption, Move
    from ipam.command.free_node import Freed

FINE, FOUND, USAGE = 0, 1, 2


class Refused(NotAvailable):
    """The command refuses to make the requested change."""


class Host(Value):
    """The command's environment: the node's folders and sandboxes, and the operator at the terminal."""

    folders: Folders = Folders()

    def sandboxes(self) -> Sandboxes:
        return scan(self.folders)

    def has_terminal(self) -> bool:
        return sys.stdin.isatty()

    def agrees(self, question: str) -> bool:
        """Whether the operator answers yes."""
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def command(arguments: list[str], host: Host | None = None) -> int:
    """Runs the command and returns its exit code: 1 for findings, refusals and failures, 2 for wrong usage."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    try:
        code = _COMMANDS[options.command](options, _host(options, host))
    except CniError as error:
        _complain(error)
        return USAGE if isinstance(error, InvalidConfig) else FOUND
    except (BrokenPipeError, KeyboardInterrupt):
        # The reader has closed the pipe. Without this the interpreter would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FOUND
    except Exception as defect:  # noqa: BLE001 - one line with the location in the code
        _complain(_internal(defect))
        return FOUND
    return code


def _list(options: Any, host: Host) -> int:
    locations = listing.listed(inventory.collect(host.folders, _networks(options, host.folders), options.seconds))
    _show(options, {"networks": locations}, listing.as_table(locations))
    return FOUND if any(location["failure"] for location in locations) else FINE


def _show_one(options: Any, host: Host) -> int:
    taken = inventory.collect(host.folders, _networks(options, host.folders), options.seconds)
    matches, sandboxes = listing.matches(taken, options.what), host.sandboxes()
    fields = [listing.match_fields(match, sandboxes) for match in matches]
    _show(options, {"found": fields}, "\n\n".join(map(listing.as_block, fields)) or f"{options.what} is not leased")
    return _failures(taken) or (FINE if matches else FOUND)


def _release(options: Any, host: Host) -> int:
    taken = inventory.collect(host.folders, _networks(options, host.folders), options.seconds)
    matches, sandboxes = listing.matches(taken, options.what), host.sandboxes()
    failed = _failures(taken)
    if not matches:
        _say(f"{options.what} is not leased")
        return FOUND
    if len({match.network.name for match in matches}) > 1 or len({match.owner.container_id for match in matches}) > 1:
        names = ", ".join(sorted({str(match.network) for match in matches}))
        raise Refused(f"{options.what} is in several networks: {names}", hint="choose one with --network")
    for match in matches:
        _require_released(match, sandboxes, force=options.force)
        _say(listing.as_block(listing.match_fields(match, sandboxes)))
    _require_agreement(options, host, "release this?")
    repair = Repair(host.folders, _warn, seconds=options.seconds)
    for match in matches:
        repair.release(match.network, match.owner, match.addresses, match.node)
        _say(f"released: {', '.join(map(str, match.addresses)) or 'the addresses in the journal'}")
    return failed


def _forget(options: Any, host: Host) -> int:
    networks = [options.network] if options.network else None
    kept = [
        entry for entry in entries(host.folders, networks) if not isinstance(entry, str) and entry.phase == TOMBSTONE
    ]
    tombstones = [entry for entry in kept if not options.what or listing.is_named(options.what, entry.owner)]
    if not tombstones:
        _say("there is no tombstone" + (f" of {options.what}" if options.what else ""))
        return FOUND if options.what else FINE
    for entry in tombstones:
        _say(listing.tombstone(entry))
    _require_agreement(
        options, host, f"give up {len(tombstones)}? Addresses in clusters that cannot be reached stay leased there"
    )
    repair = Repair(host.folders, _warn, seconds=options.seconds)
    released = sum(repair.forget(entry) for entry in tombstones)
    _say(f"{released} freed after all, {len(tombstones) - released} forgotten")
    return FINE


def _fsck(options: Any, host: Host) -> int:
    networks = _networks(options, host.folders)

    def findings() -> list[Finding]:
        taken = inventory.collect(host.folders, networks, options.seconds)
        return Checker(host.folders, taken, host.sandboxes(), options.older_than).findings()

    found = findings()
    # Calls in progress look inconsistent in one scan, but not in two.
    found = confirmed(found, findings()) if found else []
    left = [(finding, "") for finding in found]
    if options.repair:
        left = repaired(Repair(host.folders, _warn, seconds=options.seconds), found)
    _report(options, found, left)
    return FOUND if left else FINE


def _report(options: Any, findings: list[Finding], left: list[tuple[Finding, str]]) -> None:
    remaining = {id(finding): why for finding, why in left}  # A finding contains dicts, so it has no hash.
    results, lines = [], []
    for finding in findings:
        outcome = remaining.get(id(finding), "repaired") if options.repair else ""
        results.append({**listing.finding_fields(finding), **({"outcome": outcome} if options.repair else {})})
        lines.append(f"{finding}" + (f": {outcome}" if outcome else ""))
    if not findings:
        lines.append("no inconsistencies")
    elif options.repair:
        lines.append(f"{len(findings) - len(left)} of {len(findings)} repaired")
    else:
        lines.append(f"{len(findings)} found; nothing was changed: run it again with --repair")
    _show(options, {"findings": results}, "\n".join(lines))


def _adopt(options: Any, host: Host) -> int:
    if not options.config:
        raise InvalidConfig("adopt needs the configuration to which it moves the leases", hint="name it with --config")
    confs = configured(options.config, host.folders.policy)
    networks = [network for network in confs if options.network in (None, "", network.name)]
    moves = _moves(options, host, networks)
    for _adoption, move in moves:
        _say(str(move))
    if not moves:
        _say("all leases of " + ", ".join(network.name for network in networks) + " are where they are configured")
        return FINE
    _require_agreement(options, host, f"move the leases of {len(moves)} interfaces?")
    failed = 0
    for adoption, move in moves:
        try:
            adoption.take_over(move)
        except CniError as error:
            failed += 1
            _complain(error)
    _say(f"{len(moves) - failed} of {len(moves)} interfaces moved")
    return FOUND if failed else FINE


def _moves(options: Any, host: Host, networks: list[Network]) -> list[tuple[Adoption, Move]]:
    """The leases to be moved into the networks' configured locations, from the node's own and from `--from`."""
    from ipam.command.adopt import Adoption  # noqa: PLC0415 - listing does not need TLS

    former = configured(options.former, host.folders.policy) if options.former else []
    if any(network.backend != KUBERNETES for network in former):
        raise InvalidConfig(
            "--from is for a network with backend kubernetes", hint="other leases are found in the journal"
        )
    moves: list[tuple[Adoption, Move]] = []
    for network in networks:
        adoption = Adoption(host.folders, network, _warn, options.seconds, abandon=options.abandon)
        moves += [(adoption, move) for move in adoption.found()]
        moves += [(adoption, move) for old in former if old.name == network.name for move in adoption.of_pods(old)]
    return moves


def _free_node(options: Any, host: Host) -> int:
    if options.former:
        return _free_former(options, host)
    from ipam.command.free_node import DeadNode  # noqa: PLC0415 - listing does not need TLS

    node = DeadNode(
        host.folders, _networks(options, host.folders), options.name, options.seconds, kubeconfig=options.kubeconfig
    )
    if not node.has_clusters:
        raise InvalidConfig("no network here is in a cluster", hint="name one with --config")
    node.require_dead()
    leases = node.leases()
    node.require_known(leases)
    bound, gone = [lease for lease in leases if not lease.gone], [lease for lease in leases if lease.gone]
    freed = bound + gone if options.gone_pods else bound
    _list_freed(options, bound, gone)
    if not freed:
        return FINE
    condition = f"Only if {options.name} is powered off, or none of its pods runs"
    if options.gone_pods and gone:
        condition += ", and none of the pods that do not exist any more runs anywhere"
    _require_agreement(options, host, f"free {len(freed)} addresses? {condition}")
    node.require_dead()
    count = sum(1 for _ in node.free(gone_pods=options.gone_pods))
    _say(f"{count} freed")
    return FINE


def _free_former(options: Any, host: Host) -> int:
    from ipam.command.former_machine import FormerMachines  # noqa: PLC0415 - listing does not need TLS

    former = FormerMachines(host.folders, _networks(options, host.folders), options.name, options.seconds)
    if not former.has_clusters:
        raise InvalidConfig("no network here is in etcd", hint="name one with --config")
    former.require_here()
    leases = former.leases()
    for machine in sorted(former.alive):
        _warn(f"machine {machine} has the name {options.name} and is alive: its leases are not freed")
    for freed in leases:
        _say(f"{freed}  machine {freed.lease.machine}")
    if not leases:
        _say(f"no former machine of {options.name} has leases")
        return FOUND if former.alive else FINE
    _require_agreement(options, host, f"free {len(leases)} addresses? Only if these machines do not run any more")
    count = sum(1 for _ in former.free())
    _say(f"{count} freed")
    return FOUND if former.alive else FINE


def _reconcile(options: Any, host: Host) -> int:
    from ipam.command.reconcile import Reconciliation  # noqa: PLC0415 - listing does not need TLS

    networks = _networks(options, host.folders)
    pools = Reconciliation(
        host.folders,
        networks,
        host.sandboxes,
        grace=options.older_than,
        seconds=options.seconds,
        kubeconfig=options.kubeconfig,
    )
    if not pools.has_pools:
        raise InvalidConfig("no network here is in Kubernetes", hint="name one with --config")
    scan = pools.scan()
    for verdict in scan.unclear:
        _say(f"kept: {verdict}")
    for verdict in scan.lost:
        _say(str(verdict))
    if scan.lost:
        _require_agreement(options, host, f"free {len(scan.lost)} address{'es' * (len(scan.lost) > 1)}?")
        _say(f"{sum(1 for _ in pools.free(scan.lost))} freed")
    elif not scan.unclear:
        _say("no lease is known to be unused")
    return FOUND if scan.unclear else FINE


def _list_freed(options: Any, bound: list[Freed], gone: list[Freed]) -> None:
    """Prints the leases, those of pods that are gone separately, because they may be of any node."""
    for lease in bound:
        _say(str(lease))
    if not bound:
        _say(f"{options.name} has no addresses")
    if gone and options.gone_pods:
        _say("of pods that do not exist any more, on any node:")
        for lease in gone:
            _say(str(lease))
    elif gone:
        _say(f"{len(gone)} more are of pods that do not exist any more, on any node: --gone-pods lists and frees them")


def _host(options: Any, host: Host | None) -> Host:
    found = host or Host(folders=Folders(policy=Policy(node=load_node())))
    if options.data_dir:
        found = found.replace(folders=found.folders.replace(data=os.path.abspath(options.data_dir)))
    if getattr(options, "kubeconfig", ""):
        # The operator names it, so it is trusted like the node configuration.
        options.kubeconfig = os.path.abspath(options.kubeconfig)
        policy = found.folders.policy.with_kubeconfig(options.kubeconfig)
        found = found.replace(folders=found.folders.replace(policy=policy))
    return found


def _networks(options: Any, folders: Folders) -> list[Network]:
    networks = discover(folders)
    if options.config:
        confs = configured(options.config, folders.policy)
        names = {network.name for network in confs}
        stores = [(network.name, network.store) for network in confs]
        networks = confs + [
            network for network in networks if network.name in names and (network.name, network.store) not in stores
        ]
    if options.network:
        networks = [network for network in networks if network.name == options.network]
        if not networks:
            raise InvalidConfig(f"no network {options.network} is known here", hint="name it with --config")
    return networks


def _require_released(match: listing.Match, sandboxes: Sandboxes, *, force: bool) -> None:
    """Raises `Refused` for addresses that are in use, or whose use only another node can determine."""
    if force:
        return
    uses = sandboxes.uses(match.owner.container_id, match.owner.ifname, match.addresses)
    texts = ", ".join(map(str, match.addresses))
    if uses:
        raise Refused(f"{texts} is in use: {', '.join(uses)}", hint="delete its pod, or use --force")
    if match.network.cluster_conf is not None and match.entry is None and match.node != match.network.node:
        whose = f"of node {match.node}" if match.node else "of an unknown node"
        raise Refused(f"{texts} is {whose}: its use cannot be determined here", hint="check there, or use --force")


def _require_agreement(options: Any, host: Host, question: str) -> None:
    if options.yes:
        return
    if not host.has_terminal():
        raise Refused("nothing was changed: there is no terminal for a confirmation", hint="use --yes")
    if not host.agrees(question):
        raise Refused("nothing was changed")


def _failures(taken: inventory.Inventory) -> int:
    """Warns of locations that could not be read."""
    failed = [location for location in taken.locations if location.failure]
    for location in failed:
        _warn(f"{location.network} cannot be reached: {location.failure}")
    return FOUND if failed else FINE


def _show(options: Any, fields: JsonObject, text: str) -> None:
    if options.json:
        print(json.dumps(fields, indent=2))
    else:
        _say(text)


def _say(text: str) -> None:
    print(listing.printable(text))


def _warn(text: str) -> None:
    print(f"barewire-ipam: {listing.printable(text)}", file=sys.stderr)


def _internal(defect: BaseException) -> InternalError:
    frame = defect.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    location = (
        f"{os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}" if frame else "an unknown location"
    )
    return InternalError(f"internal error: {type(defect).__name__}: {defect}", hint=f"at {location}; this is a defect")


def _complain(error: CniError) -> None:
    hint = " ".join(error.details.split())
    _warn(" ".join(error.msg.split()) + (f" ({hint})" if hint else ""))


_COMMANDS: dict[str, Callable[[Any, Host], int]] = {
    "list": _list,
    "show": _show_one,
    "release": _release,
    "forget": _forget,
    "fsck": _fsck,
    "free-node": _free_node,
    "adopt": _adopt,
    "reconcile": _reconcile,
}

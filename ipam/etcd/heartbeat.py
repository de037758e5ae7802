"""A node's sign of life in etcd: `<prefix>/alive/<node>`, which etcd removes unless it is renewed.

`<prefix>/alive/<node>/<machine>` is that of one machine, if several may have had the name.

Other nodes rely on it to learn whether the node still requests addresses. It is the only key that expires; leases never
do. A node writes it before it takes an address. Transactions that free a dead node's leases require that the sign does
not exist, so they can never free an address that was taken since.
"""

from __future__ import annotations

import os
import time
import zlib

from cni import jsontext
from cni.errors import CniError, InvalidConfig, NotAvailable, TryAgainLater
from cni.host.files import make_directory
from cni.host.folders import changed
from ipam.cluster.identity import Replaced
from ipam.cluster.journal_entry import TOMBSTONE
from ipam.etcd.cluster import Etcd, keys_of
from ipam.etcd.gateway import Gateway, servers, to_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cni.host.trusted import Roots
    from ipam.cluster.journal_entry import Entry
    from ipam.etcd.keys import Keys
    from ipam.store import Claim, ClusterConf, Lease, Owner

    Entries = Callable[[], Iterable[Entry]]

LASTS, RENEWED = 900, 60.0
"""Seconds after which a sign expires, and during which it is not renewed."""


class Alive(NotAvailable):
    """The node whose addresses were to be freed is alive."""


def open_living_etcd(
    cluster_conf: ClusterConf, network: str, seconds: float, certificates: Roots, run: str, entries: Entries
) -> LivingEtcd:
    """Like `ipam.etcd.cluster.open_etcd`, with signs of life.

    `run` is a directory for the times of signs, which may be deleted at any time. `entries` returns the entries of the
    node's journal; it is called when a sign is due.
    """
    keys = keys_of(cluster_conf, network)
    gateway = Gateway(servers(cluster_conf, certificates), seconds)
    identity = f"{cluster_conf.get('endpoints')} {keys.prefix} {keys.node}"
    return LivingEtcd(gateway, keys, seconds, f"{run}/alive-{zlib.crc32(identity.encode()):08x}", entries)


def names(keys: Keys, entries: Iterable[Entry]) -> list[str]:
    """The node's name, and its former names in entries below the prefix."""
    former = [
        entry.node for entry in entries if entry.phase != TOMBSTONE and _prefix_of(entry.cluster_conf) == keys.prefix
    ]
    return sorted({keys.node, *former})


def _prefix_of(cluster_conf: ClusterConf) -> str:
    """The prefix of the entry's cluster; empty if it has none."""
    try:
        return keys_of(cluster_conf, "any").prefix if cluster_conf.get("kind") == "etcd" else ""
    except InvalidConfig:
        return ""


def sign_of(keys: Keys) -> bytes:
    """The key of the node's sign, or of one machine of that name if `keys` name it."""
    machine = f"/{keys.machine}" if keys.machine else ""
    return f"{keys.prefix}/alive/{keys.node}{machine}".encode()


def seconds_left(gateway: Gateway, keys: Keys) -> int | None:
    """Seconds until the node's sign expires; None if there is none."""
    entries = gateway.ask("/v3/kv/range", {"key": to_base64(sign_of(keys))}).get("kvs", [])
    if not entries:
        return None
    answer = gateway.ask("/v3/lease/timetolive", {"ID": entries[0].get("lease", "0")})
    seconds = str(answer.get("TTL") or 0)
    return int(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) < 10 else 0


class LivingEtcd(Etcd):
    """The `Cluster` for the node's own calls, each of which renews the signs, at most once a minute.

    A renamed node still has leases under its old name, and `free-node` goes by names.
    """

    def __init__(self, gateway: Gateway, keys: Keys, seconds: float, mark: str, entries: Entries) -> None:
        super().__init__(gateway, keys, seconds)
        self._mark = mark
        self._entries = entries

    def take(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
        # Both share the time limit of one call.
        with self._gateway.until(time.monotonic() + self._seconds):
            self._live()
            try:
                return super().take(claims, owner)
            except Replaced:
                _untouch(self._mark)  # The sign may be lost as well.
                raise

    def leases_of_node(self) -> Iterator[Lease]:
        with self._gateway.until(time.monotonic() + self._seconds):
            self._live()
        return super().leases_of_node()

    def reach(self) -> None:
        try:
            self._live()
        except TryAgainLater as error:
            raise NotAvailable(error.msg, hint=error.hint) from error
        super().reach()

    def _given_back(self, claims: tuple[Claim, ...], owner: Owner, deadline: float) -> None:
        super()._given_back(claims, owner, deadline)
        try:
            self._live()
        except CniError:
            return  # The release itself is done, and needs no protection by a sign.

    def _live(self) -> None:
        """Renews the signs if they are due. Raises the gateway's errors."""
        if 0 <= time.time() - changed(self._mark) < RENEWED:
            return
        granted = self._gateway.ask("/v3/lease/grant", {"TTL": str(LASTS)})
        node_names = names(self._keys, self._entries())
        ours = [self._keys.replace(node=name, machine="") for name in node_names]
        # Another machine of this name leaves the same sign, so each machine also has its own.
        for keys in [*ours, *([self._keys] if self._keys.machine else [])]:
            value = jsontext.dumps({"node": keys.node, "time": int(time.time())}).encode()
            sign = {"key": to_base64(sign_of(keys)), "value": to_base64(value), "lease": str(granted.get("ID", "0"))}
            self._gateway.ask("/v3/kv/put", sign)
        _touch(self._mark)


def _untouch(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def _touch(path: str) -> None:
    """Records the time of the sign. If that fails, the next call renews the sign again."""
    try:
        make_directory(os.path.dirname(path))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))
        os.utime(path)
    except (CniError, OSError):
        return

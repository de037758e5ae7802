"""Makes a node's calls on etcd in a process: `program.py <folder> <node> <cluster_conf> <command> ...`. Prints JSON.

add <container>        the addresses, or the error's code
del <container>
gc <valid container>...
work <first number> <log>   ADD and DEL of its own containers, endlessly; see Work
"""

from __future__ import annotations

import os
import random
import sys
import time

from cni import jsontext
from cni.errors import AddressesExhausted, CniError, TryAgainLater
from ipam.address import parse
from ipam.cluster.store import Journal, Journaled
from ipam.ranges import Range
from ipam.store import Owner
from tests.trusting import opened_etcd

NETWORK, IFNAME = "net", "net1"
AT_ONCE = 6
"""The most containers that a worker has at the same time."""


def pool(subnet: str, prefix: int, first: str, last: str) -> Range:
    ends = parse(first, "first").number, parse(last, "last").number
    return Range(subnet=parse(subnet, "subnet"), prefix=prefix, first=ends[0], last=ends[1])


SETS = (
    (pool("10.9.0.0", 27, "10.9.0.1", "10.9.0.30"),),
    (pool("fd00:9::", 120, "fd00:9::1", "fd00:9::60"),),
)
LARGE = ((pool("10.9.0.0", 16, "10.9.0.1", "10.9.255.254"),), (pool("fd00:9::", 64, "fd00:9::1", "fd00:9::ffff:0"),))


def store(folder: str, node: str, cluster_conf: str, seconds: float = 10.0) -> Journaled:
    journal = Journal(f"{folder}/{node}/journal", f"{folder}/{node}/run", warn=lambda _text: None)
    return Journaled(journal, node, NETWORK, jsontext.loads(cluster_conf.encode()), opened_etcd, seconds=seconds)


def owner(name: str) -> Owner:
    return Owner(network=NETWORK, container_id=name, ifname=IFNAME, pod=f"default/{name}", pod_uid=f"uid-{name}")


def add(one: Journaled, name: str, size: str = "") -> list[str]:
    sets = LARGE if size else SETS
    return [str(claim.address) for claim in one.allocate(owner(name), sets, (None, None))]


class Work:
    """Logs each ADD after it has returned, and each DEL before it is called. A line is one write."""

    def __init__(self, one: Journaled, node: str, number: str, log: str) -> None:
        self._store = one
        self._node = node
        self._number = number
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._has: list[str] = []
        self._chance = random.Random(number)

    def go(self) -> None:
        turn = 0
        while True:
            turn += 1
            try:
                if len(self._has) < self._chance.randint(0, AT_ONCE):
                    self._add(f"{self._node}-{self._number}-{turn}")
                elif self._has:
                    self._delete(self._has.pop(self._chance.randrange(len(self._has))))
            except AddressesExhausted:
                self._note("full", "")
            except TryAgainLater:
                self._note("later", "")

    def _add(self, name: str) -> None:
        try:
            found = add(self._store, name)
        except TryAgainLater:
            self._store.release(owner(name))  # as a runtime does
            raise
        self._note("has", name, *found)
        self._has.append(name)

    def _delete(self, name: str) -> None:
        self._note("leaves", name)
        self._store.release(owner(name))

    def _note(self, *words: str) -> None:
        line = jsontext.dumps([time.monotonic(), *words])
        os.write(self._log, f"{line}\n".encode())


def main(folder: str, node: str, cluster_conf: str, command: str, *arguments: str) -> object:
    if command == "work":
        # The time limit is short: a test waits for the call that is interrupted by etcd's death.
        Work(store(folder, node, cluster_conf, 3.0), node, *arguments).go()
    one = store(folder, node, cluster_conf)
    try:
        if command == "add":
            return add(one, *arguments)
        if command == "del":
            one.release(owner(*arguments))
        else:
            one.gc({(name, IFNAME) for name in arguments})
    except CniError as error:
        return {"code": error.code, "msg": error.msg}
    return None


if __name__ == "__main__":
    print(jsontext.dumps(main(*sys.argv[1:])))

"""Settings that a pod can change on its device are read and restored, on a veth of the real kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.place import Place

REPOSITORY = Path(__file__).parents[2]
LOOK = """
import json, sys
from cni.host import links, tuning
from cni.host.rtnetlink import RouteSocket
socket = RouteSocket()
quick = "quick" in sys.argv
link = links.by_name(socket, "nic")
failures = tuning.put_back(socket, link, json.loads(sys.argv[1])) if len(sys.argv) > 1 and not quick else []
print(json.dumps([tuning.read(socket, link, quick=quick), failures]))
"""


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    made.ip("link", "add", "nic", "numrxqueues", "4", "numtxqueues", "4", "type", "veth", "peer", "name", "other")
    yield made
    made.close()


def looked(place: Place, *put_back: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Reads, or restores, the settings in the namespace, with its sysfs."""
    done = inside(place, sys.executable, "-c", LOOK, *map(json.dumps, put_back))
    found: Any = json.loads(done)
    return found[0], found[1]


def inside(place: Place, *argv: str) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", place.name, *argv], check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ).stdout


CHANGES = {
    "ethtool -K nic tso off gso off gro on": ["features"],
    "ethtool -L nic rx 1": ["channels", "queues/rx-1/rps_cpus", "queues/rx-1/rps_flow_cnt"],
    "ip link set nic mode dormant": ["link mode"],
    "ip link set nic gso_max_size 4096 gso_max_segs 7": ["gso_max_segs", "gso_max_size", "gso_ipv4_max_size"],
    "ip link set nic gro_max_size 4096": ["gro_max_size", "gro_ipv4_max_size"],
    "echo 7000 >/sys/class/net/nic/gro_flush_timeout": ["gro_flush_timeout"],
    "echo 3 >/sys/class/net/nic/napi_defer_hard_irqs": ["napi_defer_hard_irqs"],
    "echo 1 >/sys/class/net/nic/queues/rx-1/rps_cpus": ["queues/rx-1/rps_cpus"],
    "echo 64 >/sys/class/net/nic/queues/rx-0/rps_flow_cnt": ["queues/rx-0/rps_flow_cnt"],
}


def test_what_a_pod_changes_is_seen_and_put_back(place):
    found, _ = looked(place)
    for change, names in CHANGES.items():
        inside(place, "sh", "-c", change)
        present, _ = looked(place)
        different = {name: value for name, value in found.items() if present.get(name) != value}
        assert set(different) & set(names), change
        # A kernel may have one limit for both families, and a queue's files disappear with it.
        assert all(name in names or name.startswith("queues/") for name in different), change
        assert looked(place, different) == (found, []), change


def test_what_cannot_be_put_back_is_named(place):
    found, failures = looked(place, {"channels": "08000600ffff0000", "gro_flush_timeout": "no number"})
    assert [failure.partition(":")[0] for failure in failures] == ["channels", "gro_flush_timeout"]
    assert found == looked(place)[0]


def test_what_another_version_recorded_or_a_damaged_record_says_keeps_nothing_else_from_being_put_back(place):
    found, _ = looked(place)
    damaged = {"link mode": "dormant", "protodown": "-1", "gso_max_segs": "9" * 20, "channels": "zz", "features": "00"}
    wanted = {"coalesce": "00", **damaged, "napi_defer_hard_irqs": "2"}
    present, failures = looked(place, wanted)
    assert {failure.partition(":")[0] for failure in failures} >= {"coalesce", *damaged} - {"features"}
    assert present == {**found, "napi_defer_hard_irqs": "2"}


def test_a_quick_look_reads_only_the_first_queue_where_that_has_no_rps(place):
    def quick() -> dict[str, str]:
        done: dict[str, str] = json.loads(inside(place, sys.executable, "-c", LOOK, "quick"))[0]
        return done

    assert quick() == looked(place)[0]
    inside(place, "sh", "-c", "echo 1 >/sys/class/net/nic/queues/rx-0/rps_cpus")
    inside(place, "sh", "-c", "echo 64 >/sys/class/net/nic/queues/rx-1/rps_flow_cnt")
    assert quick() == looked(place)[0]


def test_an_xdp_program_is_seen(place):
    assert looked(place)[0]["xdp"] == "0"
    inside(place, sys.executable, "-c", "from tests.tamper import attach_xdp; attach_xdp('nic')")
    assert looked(place)[0]["xdp"] != "0"


def test_promiscuity_counts_those_beside_the_flag(place):
    inside(place, "sh", "-c", "ip link set nic promisc on")
    assert looked(place)[0]["promiscuity"] == "0"
    inside(place, "sh", "-c", "ip link add br0 type bridge; ip link set nic up master br0")
    assert looked(place)[0]["promiscuity"] != "0"

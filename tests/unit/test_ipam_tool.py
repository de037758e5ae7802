"""The command `barewire-ipam`: its lists, its questions before changes, and its findings. No root."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cni.attachment.record import IPAM, Key, Record
from ipam.address import Address, parse
from ipam.cluster.journal_entry import HELD, INTENT, TOMBSTONE, Entry
from ipam.cluster.store import Journal
from ipam.command import fsck, listing
from ipam.command.fsck import Checker, Finding
from ipam.command.inventory import Inventory, LocationLeases, capacity
from ipam.command.main import Host, command
from ipam.command.networks import Folders, Network, configured, discover
from ipam.command.sandboxes import Sandboxes
from ipam.store import Lease, Owner, claim_on
from tests.contract.ipam_cluster_contract import range_of
from tests.trusting import POLICY

if TYPE_CHECKING:
    from cni.attachment.delegate import IpamCallDict
    from ipam.store import ClusterConf

NOBODY = Sandboxes(attached={}, namespaces={})
DOCUMENT: ClusterConf = {"kind": "etcd", "endpoints": ["http://10.0.0.1:2379"], "node": "here"}
CLUSTER = Network(name="net", backend="etcd", cluster_conf=DOCUMENT, shared="net")
LOCAL = Network(name="net", backend="local", directory="/nowhere/net")
CONF = {
    "cniVersion": "1.0.0",
    "name": "net",
    "type": "sriov",
    "ipam": {"type": "barewire-ipam", "subnet": "10.9.0.0/29", "exclude": ["10.9.0.6"]},
}


class FakeHost(Host):
    """`alive` is the kernel's report; `answer` is the operator's response, None without a terminal."""

    alive: Sandboxes = NOBODY
    answer: bool | None = None

    def sandboxes(self) -> Sandboxes:
        return self.alive

    def has_terminal(self) -> bool:
        return self.answer is not None

    def agrees(self, question: str) -> bool:
        return bool(self.answer)


@pytest.fixture
def folders(tmp_path) -> Folders:
    found = Folders(
        data=str(tmp_path / "nets"), state=str(tmp_path / "state"), run=str(tmp_path / "run"), results=(), policy=POLICY
    )
    for path in (found.data, found.state, found.run):
        os.mkdir(path, 0o700)
    return found


@pytest.fixture
def host(folders) -> FakeHost:
    return FakeHost(folders=folders)


def written(folder: Path, content: object) -> str:
    path = folder / "net.conf"
    path.write_text(json.dumps(content))
    return str(path)


def lease_file(folders: Folders, address: str, content: str = "a\r\nnet1", network: str = "net") -> Path:
    folder = Path(folders.data, network)
    folder.mkdir(exist_ok=True)
    path = folder / address
    path.write_bytes(content.encode())
    return path


def owner(name: str = "a", ifname: str = "net1", network: str = "net") -> Owner:
    return Owner(network=network, container_id=name, ifname=ifname)


def address(text: str) -> Address:
    return parse(text, "test")


def lease(text: str, name: str = "a", node: str = "here") -> Lease:
    return Lease(address=address(text), owner=owner(name), node=node)


def entry(*texts: str, name: str = "a", phase: str = HELD, cluster_conf: ClusterConf | None = None) -> Entry:
    claims = tuple(claim_on(address(text)) for text in texts)
    told = DOCUMENT if cluster_conf is None else cluster_conf
    return Entry(owner=owner(name), phase=phase, claims=claims, cluster_conf=told, shared="net", node="here")


def alive(*names: str, **places: tuple[str, ...]) -> Sandboxes:
    seen = {address(text.replace("_", ".").removeprefix("at.")): where for text, where in places.items()}
    return Sandboxes(attached={(name, "net1"): f"record of net/{name}/net1" for name in names}, namespaces=seen)


def judged(location: LocationLeases, *entries: Entry, seen: Sandboxes = NOBODY) -> list[str]:
    """The kinds of the findings; every file is old."""
    return [one.kind for one in findings(location, *entries, seen=seen)]


def findings(*parts: LocationLeases | Entry, seen: Sandboxes = NOBODY) -> list[Finding]:
    locations = tuple(one for one in parts if isinstance(one, LocationLeases))
    entries = tuple(one for one in parts if isinstance(one, Entry))
    inventory = Inventory(locations=locations, entries=entries, damaged=())
    return Checker(Folders(state="/nowhere"), inventory, seen).findings()


def said(capsys) -> Any:
    return json.loads(capsys.readouterr().out)


# Listing


def test_a_list_reports_who_has_what(host, folders, capsys):
    lease_file(folders, "10.9.0.2")
    lease_file(folders, "10.9.0.3", "b\r\nnet2")
    assert command(["list", "--json"], host) == 0
    (one,) = said(capsys)["networks"]
    assert [(lease["address"], lease["container"], lease["interface"]) for lease in one["leases"]] == [
        ("10.9.0.2", "a", "net1"),
        ("10.9.0.3", "b", "net2"),
    ]


def test_a_range_counts_what_can_be_leased_of_it(host, folders, tmp_path, capsys):
    lease_file(folders, "10.9.0.2")
    section = {**CONF["ipam"], "dataDir": folders.data}  # type: ignore[dict-item]
    path = written(tmp_path, {**CONF, "ipam": section})
    assert command(["list", "--config", path, "--json"], host) == 0
    (one,) = said(capsys)["networks"]
    # Without subnet, broadcast, gateway and the excluded address.
    assert one["ranges"] == [{"range": "10.9.0.1-10.9.0.6", "used": 1, "size": 4, "configured": True}]
    assert command(["list", "--config", path], host) == 0
    assert "10.9.0.1-10.9.0.6: 1 of 4 in use (25%)" in capsys.readouterr().out


def test_a_range_too_large_to_count_is_measured():
    whole = range_of("fd00::", 64, "fd00::1", "fd00::ffff:ffff:ffff:ffff", gateway=parse("fd00::1", "").number)
    assert capacity(whole) == 2**64 - 2


def test_the_networks_of_records_the_journal_and_directories_are_known(folders):
    lease_file(folders, "10.8.0.2", network="old")
    Path(folders.journal, "net").mkdir(parents=True)
    Path(folders.journal, "net", "a:net1.json").write_bytes(entry("10.9.0.2").encoded())
    call: IpamCallDict = {"type": "barewire-ipam", "stdin": json.dumps({**CONF, "name": "recorded"})}
    record = Record(
        key=Key(network="recorded", container_id="a", ifname="net1"),
        plugin="sriov",
        device="",
        netns="",
        netns_identity="",
        boot_id="",
        left=(IPAM,),
        found={},
        wanted={},
        ipam=call,
    )
    Path(folders.state, "recorded").mkdir()
    Path(folders.state, "recorded", "a:net1.json").write_bytes(record.encoded())
    found = {one.name: one for one in discover(folders)}
    assert sorted(found) == ["net", "old", "recorded"]
    assert found["old"].directory == f"{folders.data}/old"
    assert (found["net"].cluster_conf, found["net"].shared) == (DOCUMENT, "net")
    assert str(found["recorded"].sets[0][0]) == "10.9.0.1-10.9.0.6"


def test_a_list_of_plugins_is_a_configuration(tmp_path):
    plugin = {key: CONF[key] for key in ("type", "ipam")}
    path = written(tmp_path, {"cniVersion": "1.0.0", "name": "listed", "plugins": [plugin, {"type": "tuning"}]})
    assert [one.name for one in configured(path)] == ["listed"]


def test_names_do_not_steer_the_terminal(host, folders, capsys):
    lease_file(folders, "10.9.0.2", "a\x1b[2J\r\nnet1")
    assert command(["list"], host) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_show_finds_an_address_a_container_and_its_interface(host, folders, capsys):
    lease_file(folders, "10.9.0.2")
    lease_file(folders, "10.9.0.3", "a\r\nnet2")
    for what, addresses in (
        ("10.9.0.2", [["10.9.0.2"]]),
        ("a", [["10.9.0.2"], ["10.9.0.3"]]),
        ("a/net2", [["10.9.0.3"]]),
    ):
        assert command(["show", what, "--json"], host) == 0
        assert [one["addresses"] for one in said(capsys)["found"]] == addresses


@pytest.mark.parametrize("what", ("10.9.0.9", "b", "a/net9", ""))
def test_show_of_a_free_address_says_so(host, folders, capsys, what):
    lease_file(folders, "10.9.0.2")
    assert command(["show", what], host) == 1
    assert f"{what} is not leased" in capsys.readouterr().out


def test_show_reports_what_keeps_an_owner_alive(host, folders, capsys):
    lease_file(folders, "10.9.0.2")
    seen = alive("a", at_10_9_0_2=("/run/netns/x",))
    assert command(["show", "a", "--json"], host.replace(alive=seen)) == 0
    assert said(capsys)["found"][0]["inUse"] == ["record of net/a/net1", "10.9.0.2 in /run/netns/x"]


# Releasing


def test_a_release_is_done_with_consent(host, folders):
    path = lease_file(folders, "10.9.0.2")
    assert command(["release", "10.9.0.2"], host.replace(answer=False)) == 1
    assert path.exists()
    assert command(["release", "10.9.0.2"], host.replace(answer=True)) == 0
    assert not path.exists()


def test_a_release_without_a_terminal_is_refused(host, folders, capsys):
    path = lease_file(folders, "10.9.0.2")
    assert command(["release", "10.9.0.2"], host) == 1
    assert "use --yes" in capsys.readouterr().err
    assert path.exists()
    assert command(["release", "10.9.0.2", "--yes"], host) == 0
    assert not path.exists()


def test_a_release_takes_the_interface_that_is_named_only(host, folders):
    first, second = lease_file(folders, "10.9.0.2"), lease_file(folders, "10.9.0.3", "a\r\nnet2")
    assert command(["release", "a/net2", "--yes"], host) == 0
    assert first.exists()
    assert not second.exists()


def test_what_has_a_record_is_not_released(host, folders, capsys):
    path = lease_file(folders, "10.9.0.2")
    assert command(["release", "10.9.0.2", "--yes"], host.replace(alive=alive("a"))) == 1
    assert "in use: record of net/a/net1" in capsys.readouterr().err
    assert path.exists()


def test_an_address_of_two_networks_is_released_in_the_one_that_is_named(host, folders, capsys):
    first, second = lease_file(folders, "10.9.0.2"), lease_file(folders, "10.9.0.2", network="other")
    assert command(["release", "10.9.0.2", "--yes"], host) == 1
    assert "--network" in capsys.readouterr().err
    assert command(["release", "10.9.0.2", "--yes", "--network", "other"], host) == 0
    assert first.exists()
    assert not second.exists()


# Usage


GONE: ClusterConf = {"kind": "etcd", "endpoints": ["http://127.0.0.1:1"], "node": "here"}
LOST: ClusterConf = {**GONE, "caFile": "/nowhere/ca.pem"}
UNKNOWN: ClusterConf = {"kind": "zookeeper", "node": "here"}


def buried(folders: Folders, **cluster_confs: ClusterConf) -> list[str]:
    """Tombstones by the containers' names; returns the journal's files."""
    journal = Journal(folders.journal, folders.run)
    for name, cluster_conf in cluster_confs.items():
        journal.save_tombstone(entry("10.9.0.1", name=name, cluster_conf=cluster_conf))
    return [one.container_id for one in journal.tombstones()]


def test_tombstones_whose_cluster_or_credentials_are_gone_are_given_up(host, folders, capsys):
    assert sorted(buried(folders, a=GONE, b=LOST, c=UNKNOWN)) == ["a", "b", "c"]
    assert command(["release", "a", "--force", "--yes", "--seconds", "0.2"], host) == 1
    assert "barewire-ipam forget" in capsys.readouterr().err
    assert command(["forget", "--seconds", "0.2"], host) == 1
    assert len(buried(folders)) == 3
    assert command(["forget", "b/net1", "--yes", "--seconds", "0.2"], host) == 0
    assert sorted(buried(folders)) == ["a", "c"]
    assert command(["forget", "--yes", "--seconds", "0.2"], host) == 0
    assert "0 freed after all, 2 forgotten" in capsys.readouterr().out
    assert [name for _, _, names in os.walk(folders.state) for name in names] == []
    assert command(["forget"], host) == 0


def test_of_what_is_held_nothing_is_forgotten(host, folders, capsys):
    Journal(folders.journal, folders.run).save(entry("10.9.0.1", cluster_conf=GONE))
    assert command(["forget", "a", "--yes", "--seconds", "0.2"], host) == 1
    assert "there is no tombstone of a" in capsys.readouterr().out
    assert Path(folders.journal, "net", "a:net1.json").exists()


@pytest.mark.parametrize(
    "arguments",
    (
        [],
        ["unknown"],
        ["show"],
        ["list", "--config", "/nowhere"],
        ["list", "--network", "unknown"],
        ["fsck", "--older-than", "x"],
        ["free-node", "x"],
        ["free-node", "x", "--force"],
    ),
)
def test_wrong_usage_is_code_2_and_no_traceback(host, capsys, arguments):
    assert command(arguments, host) == 2
    error = capsys.readouterr().err
    assert error
    assert "Traceback" not in error


def test_help_is_no_error(host, capsys):
    assert command(["--help"], host) == 0
    assert "free-node" in capsys.readouterr().out


def test_a_defect_is_one_line_with_its_place(host, folders, capsys):
    class Broken(FakeHost):
        def sandboxes(self) -> Sandboxes:
            raise ZeroDivisionError("oops")

    assert command(["fsck"], Broken(folders=folders)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ZeroDivisionError: oops" in error
    assert "test_ipam_tool.py:" in error


@pytest.mark.parametrize("content", ("{", "[]", '{"name": "x"}', '{"name": "../x", "ipam": {"type": "barewire-ipam"}}'))
def test_a_configuration_that_is_none_is_reported(host, tmp_path, capsys, content):
    path = tmp_path / "net.conf"
    path.write_text(content)
    assert command(["list", "--config", str(path)], host) == 2
    assert "Traceback" not in capsys.readouterr().err


# Findings


def test_nothing_is_odd_about_what_is_in_use():
    location = LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2"),))
    assert judged(location, entry("10.9.0.2"), seen=alive("a")) == []
    assert judged(location, entry("10.9.0.2"), seen=alive(at_10_9_0_2=("/run/netns/x",))) == []


def test_a_leak_is_what_has_no_living_owner():
    assert judged(LocationLeases(network=LOCAL, leases=(lease("10.9.0.2"),))) == [fsck.LEAK]
    assert judged(LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2"),)), entry("10.9.0.2")) == [fsck.LEAK]
    assert judged(LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2"),))) == [fsck.LEAK]


def test_of_another_address_of_its_owner_it_is_known_that_it_lives():
    location = LocationLeases(network=LOCAL, leases=(lease("10.9.0.2"), lease("fd00::2")))
    assert judged(location, seen=alive(at_10_9_0_2=("/run/netns/x",))) == []


def test_a_file_without_an_owner_is_a_leak():
    location = LocationLeases(network=LOCAL, leases=(Lease(address=address("10.9.0.2"), owner=owner("", "")),))
    assert judged(location, seen=alive("a")) == [fsck.LEAK]


def test_what_has_another_nodes_name_is_not_judged():
    assert judged(LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2", node="there"),))) == []
    assert judged(LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2", node=""),))) == []


def test_a_lease_of_another_network_of_the_place_is_not_judged():
    one = lease("10.9.0.2").replace(owner=owner(network="other"))
    assert judged(LocationLeases(network=CLUSTER, leases=(one,))) == []


def test_lease_and_journal_that_do_not_agree_are_reported():
    location = LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2"),))
    assert judged(location, seen=alive("a")) == [fsck.UNJOURNALED]
    assert judged(LocationLeases(network=CLUSTER), entry("10.9.0.2"), seen=alive("a")) == [fsck.UNLEASED]
    assert judged(location, entry("10.9.0.3"), seen=alive("a")) == [fsck.UNLEASED, fsck.UNJOURNALED]


def test_an_intent_of_a_living_owner_is_its_own_business_and_a_dead_ones_a_leak():
    location = LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2"),))
    assert judged(location, entry("10.9.0.3", phase=INTENT), seen=alive("a")) == []
    assert judged(location, entry("10.9.0.3", phase=INTENT)) == [fsck.LEAK]


def test_a_tombstone_waits_and_is_no_leak():
    location = LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2"),))
    assert judged(location, entry("10.9.0.2", phase=TOMBSTONE)) == [fsck.WAITING]


def test_of_a_cluster_that_is_not_reached_nothing_is_judged_but_tombstones():
    location = LocationLeases(network=CLUSTER, failure="it is down")
    entries = (entry("10.9.0.2"), entry("10.9.0.3", name="b", phase=TOMBSTONE))
    assert judged(location, *entries) == [fsck.UNREACHED, fsck.WAITING]


def test_two_owners_of_an_address_are_a_duplicate_wherever_they_stand():
    seen = alive("a", "b")
    local, cluster = (LocationLeases(network=one, leases=(lease("10.9.0.2"),)) for one in (LOCAL, CLUSTER))
    assert [one.kind for one in findings(local, cluster, entry("10.9.0.2"), seen=seen)] == []
    rival = cluster.replace(leases=(lease("10.9.0.2", "b"),))
    assert fsck.DUPLICATE in [one.kind for one in findings(local, rival, seen=seen)]
    assert fsck.DUPLICATE in judged(cluster, entry("10.9.0.2", name="b"), seen=seen)
    elsewhere = local.replace(network=LOCAL.replace(name="other"), leases=(lease("10.9.0.2", "b"),))
    assert [one.kind for one in findings(elsewhere, cluster, entry("10.9.0.2"), seen=seen)] == []


def test_an_intent_is_no_second_owner():
    location = LocationLeases(network=CLUSTER, leases=(lease("10.9.0.2"),))
    entries = (entry("10.9.0.2"), entry("10.9.0.2", name="b", phase=INTENT))
    assert judged(location, *entries, seen=alive("a", "b")) == []


def test_only_what_two_looks_find_is_found():
    one, two = (Finding(kind=fsck.LEAK, text=text) for text in ("one", "two"))
    assert fsck.confirmed([one, two], [two]) == [two]


def test_what_is_found_is_reported_as_json_and_as_code_1(host, folders, capsys):
    path = lease_file(folders, "10.9.0.2")
    assert command(["fsck", "--json", "--older-than", "0"], host) == 1
    (one,) = said(capsys)["findings"]
    assert (one["kind"], one["network"], one["addresses"], one["container"]) == ("leak", "net", ["10.9.0.2"], "a")
    assert path.exists()
    assert command(["fsck", "--json", "--older-than", "0", "--repair"], host) == 0
    assert said(capsys)["findings"][0]["outcome"] == "repaired"
    assert not path.exists()
    assert command(["fsck", "--json"], host) == 0
    assert said(capsys) == {"findings": []}


def test_a_lease_that_changed_hands_since_it_was_judged_is_left(host, folders, capsys, monkeypatch):
    path = lease_file(folders, "10.9.0.2")
    judge = Checker.findings

    def findings_and_a_change(self: Checker) -> list[Finding]:
        found = judge(self)
        path.write_bytes(b"b\r\nnet1")
        return [one.replace(owner=owner(), text="as first seen") for one in found]

    monkeypatch.setattr(Checker, "findings", findings_and_a_change)
    assert command(["fsck", "--older-than", "0", "--repair"], host) == 1
    assert "changed meanwhile" in capsys.readouterr().out
    assert path.read_bytes() == b"b\r\nnet1"


def test_a_finding_has_a_json_form_without_an_owner():
    told = listing.finding_fields(Finding(kind=fsck.DAMAGED, text="x cannot be read"))
    assert told == {"kind": "damaged", "text": "x cannot be read", "network": "", "addresses": []}

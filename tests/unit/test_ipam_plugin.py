"""The commands of `barewire-ipam` on a directory of host-local's form, and within another plugin's process."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from cni.attachment.delegate import IpamCall
from cni.errors import (
    AddressesExhausted,
    CheckFailed,
    CniError,
    DelegateFailed,
    InternalError,
    InvalidConfig,
    NotAvailable,
    TryAgainLater,
)
from cni.log import Log
from cni.node.node import AddressPolicy, EtcdAccess, NodeConf
from cni.paths import is_below
from cni.protocol.request import parse, parse_environment
from ipam import stores
from ipam.cluster.journal_entry import Entry
from ipam.cluster.store import Journal
from ipam.config.location import lease_location
from ipam.config.policy import RESOLV_CONFS, Policy
from ipam.config.request import parse_request
from ipam.embedded import EmbeddedIpam
from ipam.plugin import IpamPlugin
from ipam.store import Owner
from ipam.stores import Stores
from tests.recording_log import RecordingLog
from tests.trusting import POLICY, node as trusting_node

if TYPE_CHECKING:
    from ipam.store import ClusterConf

DUAL = {"ranges": [[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd00::/64"}]], "routes": [{"dst": "0.0.0.0/0"}]}


class Node:
    """Calls the plugin on folders of the test."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "run").mkdir(mode=0o700)
        self.log = RecordingLog()
        self.plugin = self.with_conf(POLICY.node)

    def with_conf(self, conf):
        journal, run = str(self.folder / "journal"), str(self.folder / "run")
        policy = POLICY.replace(node=conf)
        return IpamPlugin(Stores(self.log, policy=policy, journal=journal, run=run), self.log)

    def request(self, section, command="ADD", container="c1", ifname="net1", version="1.1.0", **more):
        env = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": "/n", "CNI_IFNAME": ifname, "CNI_PATH": "/x",
        }  # fmt: skip
        section = {"type": "barewire-ipam", "dataDir": str(self.folder / "data"), **section}
        config = {"cniVersion": version, "name": "net", "type": "sriov", "ipam": section, **more}
        return parse(parse_environment(env), json.dumps(config).encode())

    def add(self, section, container="c1", ifname="net1", **more):
        return self.plugin.add(self.request(section, container=container, ifname=ifname, **more))

    def files(self):
        folder = self.folder / "data" / "net"
        return sorted(name for name in os.listdir(folder) if name[0].isdigit() or name.startswith("fd"))


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def ips(result):
    return [(ip.address, ip.gateway) for ip in result.ips]


def previous(section_result):
    return {"cniVersion": "1.1.0", "ips": [{"address": ip.address} for ip in section_result.ips]}


def test_an_add_gives_an_address_of_each_set_and_a_repeated_one_the_same(node):
    first = node.add(DUAL)
    assert ips(first) == [("10.0.0.2/29", "10.0.0.1"), ("fd00::2/64", "fd00::1")]
    assert node.add(DUAL) == first
    assert ips(node.add(DUAL, ifname="net2"))[0] == ("10.0.0.3/29", "10.0.0.1")
    assert first.routes[0].dst == "0.0.0.0/0"


def test_del_frees_with_a_configuration_whose_ranges_are_broken_and_twice(node):
    node.add(DUAL)
    node.add(DUAL, ifname="net2")
    broken = {"ranges": [[{"subnet": "nonsense"}]]}
    for _ in range(2):
        node.plugin.delete(node.request(broken, "DEL"))
        assert node.files() == ["10.0.0.3", "fd00::3"]


def test_an_add_that_cannot_have_all_has_none(node):
    section = {"ranges": [[{"subnet": "10.0.0.0/29"}], [{"subnet": "10.1.0.0/30"}]]}
    node.add(section)
    with pytest.raises(AddressesExhausted, match=r"10\.1\.0\.1-10\.1\.0\.2"):
        node.add(section, container="c2")
    assert node.files() == ["10.0.0.2", "10.1.0.2"]


FULL = {"ranges": [[{"subnet": "10.1.0.0/30"}]]}


def test_status_of_a_full_range_is_a_warning_because_an_error_would_make_the_node_not_ready(node):
    node.add(FULL)
    node.plugin.status(node.request(FULL, "STATUS"))
    assert [text for text in node.log.messages if "10.1.0.1-10.1.0.2" in text]


def test_status_of_a_full_range_is_an_error_where_the_administrator_wants_it(node):
    strict = node.with_conf(trusting_node(strict_status=True))
    strict.status(node.request(FULL, "STATUS"))
    node.add(FULL)
    with pytest.raises(NotAvailable, match=r"10\.1\.0\.1-10\.1\.0\.2"):
        strict.status(node.request(FULL, "STATUS"))


@pytest.mark.parametrize("strict", [False, True])
def test_status_fails_where_the_node_cannot_write_its_leases(node, strict):
    (node.folder / "data").write_text("in the way")
    with pytest.raises(InvalidConfig, match="data is not a directory"):
        node.with_conf(trusting_node(strict_status=strict)).status(node.request(FULL, "STATUS"))


AWAY = {"subnet": "10.1.0.0/30", "backend": "etcd", "etcd": {"endpoints": ["http://127.0.0.1:1"]}}


def test_status_contacts_no_cluster_unless_the_administrator_wants_it(node, monkeypatch):
    contacted = []

    def open_cluster(cluster_conf, *_more, **_how):
        contacted.append(cluster_conf)
        raise TryAgainLater("away")

    monkeypatch.setattr(stores, "open_living_cluster", open_cluster)
    node.plugin.status(node.request(AWAY, "STATUS"))
    assert contacted == []
    with pytest.raises(TryAgainLater):
        node.with_conf(trusting_node(strict_status=True)).status(node.request(AWAY, "STATUS"))
    assert len(contacted) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_status_fails_where_the_node_cannot_write_its_journal(node, strict):
    (node.folder / "journal").write_text("in the way")
    with pytest.raises(NotAvailable, match="journal"):
        node.with_conf(trusting_node(strict_status=strict)).status(node.request(AWAY, "STATUS"))


def test_check_compares_prev_result_with_the_leases(node):
    result = node.add(DUAL)
    node.plugin.check(node.request(DUAL, "CHECK", prevResult=previous(result)))
    other = node.add(DUAL, container="c2")
    with pytest.raises(CheckFailed) as caught:
        node.plugin.check(node.request(DUAL, "CHECK", prevResult=previous(other)))
    assert "10.0.0.3 is not leased to this interface" in caught.value.msg
    assert "fd00::2 is leased but missing from prevResult" in caught.value.msg
    node.plugin.delete(node.request(DUAL, "DEL"))
    with pytest.raises(CheckFailed, match="no address of 10"):
        node.plugin.check(node.request(DUAL, "CHECK", prevResult=previous(result)))


WHEREABOUTS = {"range": "10.9.0.0/29", "backend": "local"}


@pytest.mark.parametrize("address", ["10.9.0.0", "10.9.0.7"])
def test_check_passes_for_an_address_that_an_older_version_leased_and_today_s_range_leaves_out(node, address):
    result = node.add({"subnet": "10.9.0.0/29", "rangeStart": address, "rangeEnd": address})
    assert [ip.address for ip in result.ips] == [f"{address}/29"]
    node.plugin.check(node.request(WHEREABOUTS, "CHECK", prevResult=previous(result)))
    node.plugin.delete(node.request(WHEREABOUTS, "DEL"))
    with pytest.raises(CheckFailed, match=r"no address of 10\.9\.0\.1-10\.9\.0\.6 is leased"):
        node.plugin.check(node.request(WHEREABOUTS, "CHECK", prevResult=previous(result)))


def test_check_misses_the_address_of_each_set_of_a_subnet_that_two_sets_share(node):
    halves = [
        [{"subnet": "10.9.0.0/28", "rangeEnd": "10.9.0.6"}],
        [{"subnet": "10.9.0.0/28", "rangeStart": "10.9.0.9"}],
    ]
    for first in (halves[0], [{"subnet": "10.9.0.0/28", "rangeStart": "10.9.0.7", "rangeEnd": "10.9.0.7"}]):
        node.add({"ranges": [first]})
        with pytest.raises(CheckFailed, match=r"^no address of \S+ is leased$"):
            node.plugin.check(node.request({"ranges": halves}, "CHECK"))
        node.plugin.delete(node.request({"ranges": halves}, "DEL"))


def test_check_of_a_fixed_address_that_is_missing_fails(node):
    section = {"addresses": [{"address": "10.5.0.9/24"}]}
    result = node.add(section)
    node.plugin.check(node.request(section, "CHECK", prevResult=previous(result)))
    with pytest.raises(CheckFailed, match=r"prevResult has no 10\.5\.0\.9"):
        node.plugin.check(node.request(section, "CHECK", prevResult={"cniVersion": "1.1.0"}))


def test_check_of_a_fixed_address_whose_gateway_differs_fails(node):
    section = {"addresses": [{"address": "10.5.0.9/24", "gateway": "10.5.0.1"}]}
    result = {"cniVersion": "1.1.0", "ips": [{"address": "10.5.0.9/24", "gateway": "10.5.0.1"}]}
    node.plugin.check(node.request(section, "CHECK", prevResult=result))
    result["ips"] = [{"address": "10.5.0.9/24"}]
    with pytest.raises(CheckFailed, match=r"the gateway of 10\.5\.0\.9 is 10\.5\.0\.1, and prevResult has none"):
        node.plugin.check(node.request(section, "CHECK", prevResult=result))


def test_status_does_not_ask_for_addresses_that_only_the_runtime_can_tell(node):
    node.plugin.status(node.request({}, "STATUS"))
    with pytest.raises(InvalidConfig, match="no IP ranges"):
        node.add({})


@pytest.mark.parametrize("broken", [{"ranges": 5}, {"backend": "etdc"}, {"backend": "etcd"}])
def test_gc_works_with_a_configuration_that_add_refuses(node, broken):
    node.add(DUAL)
    node.plugin.gc(node.request(broken, "GC", **{"cni.dev/valid-attachments": []}))
    assert node.files() == []


def test_after_a_change_of_the_backend_gc_frees_what_the_journal_has(node):
    journal = Journal(str(node.folder / "journal"), str(node.folder / "run"))
    owner = Owner(network="net", container_id="c1", ifname="net1")
    name = os.uname().nodename
    away: ClusterConf = {"kind": "etcd", "endpoints": ["http://127.0.0.1:1"], "prefix": "/p", "node": name}
    journal.save(Entry(owner=owner, phase="held", claims=None, cluster_conf=away, shared="net", node=name))
    node.plugin.gc(node.request(DUAL, "GC", **{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}]}))
    assert [entry.phase for entry in journal.of_network("net")] == ["held"]
    for _ in range(2):
        # The other cluster may be gone for good, so the GC of a working network must not fail because of it.
        node.plugin.gc(node.request(DUAL, "GC", **{"cni.dev/valid-attachments": []}))
        assert [entry.phase for entry in journal.of_network("net")] == ["tombstone"]
    assert any("net/c1/net1 could not be released yet" in text for text in node.log.messages)


IMPOSSIBLE = [
    {"network_name": "net_a", "range": "10.131.0.0/24"},
    {"network_name": "n" * 245, "range": "10.131.0.0/24"},
    {"range": "::1:0/112"},
]


@pytest.mark.parametrize("section", IMPOSSIBLE)
def test_200_failed_sandboxes_of_a_configuration_that_can_never_work_leave_nothing(node, section):
    section = {"backend": "kubernetes", "kubernetes": {"kubeconfig": "/nowhere"}, **section}
    for number in range(200):
        with pytest.raises(InvalidConfig, match="network_name"):
            node.add(section, container=f"c{number}")
        node.plugin.delete(node.request(section, "DEL", container=f"c{number}"))
    node.plugin.gc(node.request(section, "GC", **{"cni.dev/valid-attachments": []}))
    assert [name for _, _, names in os.walk(node.folder) for name in names] == []


def test_check_leaves_fixed_addresses_and_those_of_other_interfaces_alone(node):
    section = {"subnet": "10.0.0.0/29", "addresses": [{"address": "10.0.0.3/29"}]}
    result = node.add(section)
    assert [ip.address for ip in result.ips] == ["10.0.0.2/29", "10.0.0.3/29"]
    assert [ip.address for ip in node.add(section, container="c2").ips] == ["10.0.0.4/29", "10.0.0.3/29"]
    others = {
        "cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}],
        "ips": [{"address": "10.0.0.6/29", "interface": 0}, *({"address": ip.address, "interface": 1} for ip in result.ips)],
    }  # fmt: skip
    node.plugin.check(node.request(section, "CHECK", prevResult=others))


def test_a_repeated_add_that_asks_for_another_address_gives_the_first_one_back(node):
    node.add({"subnet": "10.0.0.0/29"})
    again = node.add({"subnet": "10.0.0.0/29"}, runtimeConfig={"ips": ["10.0.0.5"]})
    assert ips(again) == [("10.0.0.5/29", "10.0.0.1")]
    assert node.files() == ["10.0.0.5"]
    node.add({"subnet": "10.1.0.0/29"})
    assert node.files() == ["10.1.0.2"]
    node.plugin.delete(node.request({"subnet": "10.1.0.0/29"}, "DEL"))
    assert node.files() == []


def test_a_file_without_an_interface_is_not_given_to_two(node):
    (node.folder / "data" / "net").mkdir(parents=True)
    (node.folder / "data" / "net" / "10.0.0.3").write_text("c1")
    for _ in range(2):
        found = [ips(node.add({"subnet": "10.0.0.0/29"}, ifname=ifname))[0][0] for ifname in ("net1", "net2")]
        assert found == ["10.0.0.3/29", "10.0.0.2/29"]
    assert (node.folder / "data" / "net" / "10.0.0.3").read_bytes() == b"c1\r\nnet1"


def test_a_directory_that_leads_nowhere_ends_in_one_error(node, tmp_path):
    (tmp_path / "data").symlink_to(tmp_path / "unmounted")
    with pytest.raises(InvalidConfig, match=r"leads by a symbolic link to .*/unmounted, which does not exist"):
        node.add({"subnet": "10.0.0.0/29"})


def test_gc_frees_on_the_node_also_when_a_clusters_backend_is_configured_by_now(node):
    node.add({"subnet": "10.0.0.0/29"})
    elsewhere = {"subnet": "10.0.0.0/29", "backend": "etcd", "etcd": {"endpoints": ["http://127.0.0.1:1"]}}
    with pytest.raises(TryAgainLater):
        node.plugin.gc(node.request(elsewhere, "GC", **{"cni.dev/valid-attachments": []}))
    assert node.files() == []


def test_gc_frees_what_the_runtime_does_not_know(node):
    node.add(DUAL)
    node.add(DUAL, container="c2")
    valid = [{"containerID": "c2", "ifname": "net1"}]
    node.plugin.gc(node.request(DUAL, "GC", **{"cni.dev/valid-attachments": valid}))
    assert node.files() == ["10.0.0.3", "fd00::3"]


def test_name_service_comes_from_the_file_and_a_missing_one_is_reported_before_anything_is_leased(node, tmp_path):
    conf = tmp_path / "resolv.conf"
    section = {**DUAL, "resolvConf": str(conf)}
    with pytest.raises(InvalidConfig, match="does not exist"):
        node.add(section)
    assert not (tmp_path / "data").exists()
    conf.write_text("# ours\nnameserver 10.0.0.53\nnameserver 10.0.0.54\ndomain a.b\nsearch a.b c.d\noptions ndots:5\n")
    dns = node.add(section).dns
    assert (dns.nameservers, dns.domain) == (("10.0.0.53", "10.0.0.54"), "a.b")
    assert (dns.search, dns.options) == (("a.b", "c.d"), ("ndots:5",))


def test_after_a_change_of_the_backend_del_frees_where_the_address_is(node):
    node.add(DUAL)
    elsewhere = {**DUAL, "backend": "etcd", "etcd": {"endpoints": ["http://127.0.0.1:1"]}}
    node.plugin.delete(node.request(elsewhere, "DEL"))
    assert node.files() == []


# Within another plugin.


@pytest.fixture
def ipam(node, monkeypatch):
    def open_stores(log, **more):
        return Stores(
            log, journal=str(node.folder / "journal"), run=str(node.folder / "run"), **{**more, "policy": POLICY}
        )

    monkeypatch.setattr(stores, "Stores", open_stores)
    return EmbeddedIpam({}, NodeConf())


def test_our_own_type_needs_no_executable(node, ipam):
    call = IpamCall.of(node.request(DUAL))
    leased = ipam.lease(call)
    assert ips(leased) == [("10.0.0.2/29", "10.0.0.1"), ("fd00::2/64", "fd00::1")]
    with pytest.raises(CniError) as caught:
        ipam.check(IpamCall.of(node.request(DUAL, container="c2")))
    assert caught.value.code == CheckFailed.code
    ipam.status(call)
    ipam.release(call)
    assert node.files() == []
    gc = IpamCall.of(node.request(DUAL, "GC", **{"cni.dev/valid-attachments": []}))
    ipam.lease(call)
    ipam.gc(gc)
    assert node.files() == []


def test_its_errors_keep_their_codes_and_words_and_nothing_stays(node, ipam):
    section = {"subnet": "10.0.0.0/30"}
    ipam.lease(IpamCall.of(node.request(section)))
    call = IpamCall.of(node.request(section, container="c2"))
    with pytest.raises(DelegateFailed) as caught:
        ipam.lease(call)
    assert caught.value.code == AddressesExhausted.code
    assert "10.0.0.1-10.0.0.2" in caught.value.msg
    ipam.release(call)
    assert node.files() == ["10.0.0.2"]


def test_a_defect_after_leasing_leaves_nothing_and_is_reported_as_one(node, ipam, monkeypatch):
    def broken(*_arguments):
        raise ValueError("no result")

    monkeypatch.setattr("cni.protocol.result.encode", broken)
    call = IpamCall.of(node.request(DUAL))
    with pytest.raises(InternalError, match="ValueError: no result"):
        ipam.lease(call)
    assert node.files() == []


def test_what_is_locked_is_reported_as_something_that_passes(node, ipam, monkeypatch):
    def locked(*_arguments):
        raise TryAgainLater("locked")

    monkeypatch.setattr(IpamPlugin, "status", locked)
    with pytest.raises(NotAvailable):
        ipam.status(IpamCall.of(node.request(DUAL)))


def test_other_types_are_delegated(node, ipam):
    with pytest.raises(DelegateFailed, match="none-such was not found"):
        ipam.lease(IpamCall.of(node.request({"type": "none-such"})))


def test_gc_without_a_list_warns_and_frees_nothing(node):
    node.add(DUAL)
    before = node.files()
    node.plugin.gc(node.request(DUAL, "GC"))
    assert node.files() == before
    assert [text for text in node.log.messages if "valid-attachments is missing" in text]


# Values that the node's administrator has not permitted.


def strict(node, **addresses):
    """The same plugin with a node configuration that permits nothing else."""
    policy = Policy(node=NodeConf(addresses=AddressPolicy(**addresses)), start="/")
    log = RecordingLog()
    stores = Stores(log, policy=policy, journal=str(node.folder / "journal"), run=str(node.folder / "run"))
    return IpamPlugin(stores, log), log.messages


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("/etc/{name}", "is not below /var/lib/cni, /run"),
        ("/var/lib/cni-{name}", "is not below"),
        ("/run/systemd/{name}", "belongs to another program"),
        ("/run/udev", "belongs to another program"),
        ("/var/run/openvswitch", "belongs to another program"),
        ("/var/lib/cni/barewire", "belongs to another program"),
        ("/tmp/{name}", "others may write to /tmp"),
    ],
)
def test_a_data_directory_elsewhere_is_refused_and_nothing_is_made(node, tmp_path, data, words):
    plugin, warnings = strict(node)
    folder = data.format(name=f"bw{os.getpid()}")
    before = os.path.exists(folder)
    for command in ("ADD", "CHECK", "STATUS"):
        call = {"ADD": plugin.add, "CHECK": plugin.check, "STATUS": plugin.status}[command]
        with pytest.raises(InvalidConfig, match=words) as raised:
            call(node.request({**DUAL, "dataDir": folder}, command))
        assert raised.value.msg.startswith("ipam.dataDir: ")
    for command in ("DEL", "GC"):
        more: dict[str, Any] = {"cni.dev/valid-attachments": []} if command == "GC" else {}
        call = plugin.delete if command == "DEL" else plugin.gc
        call(node.request({**DUAL, "dataDir": folder}, command, **more))
        assert "no address is released" in warnings.pop()
    assert os.path.exists(folder) == before
    assert not os.path.exists(f"{folder}/net")


def test_a_network_named_like_another_program_s_directory_gets_no_directory(node):
    plugin, _warnings = strict(node)
    request = node.request({**DUAL, "dataDir": "/run"})
    for name in ("nologin", "systemd", "barewire"):
        with pytest.raises(InvalidConfig, match="belongs to another program"):
            plugin.add(request.replace(network=name))


@pytest.mark.parametrize("path", ("/etc/shadow", "/dev/watchdog", "/dev/null", "/proc/kmsg", "/var/lib/x/resolv.conf"))
def test_a_name_service_is_read_from_places_of_name_services_only(node, path):
    plugin, _warnings = strict(node)
    with pytest.raises(InvalidConfig, match=r"ipam\.resolvConf: "):
        plugin.add(node.request({**DUAL, "resolvConf": path, "dataDir": "/var/lib/cni/networks"}))


@pytest.mark.parametrize(
    "target",
    ("/run/systemd/resolve/stub-resolv.conf", "/run/NetworkManager/resolv.conf", "/run/netconfig/resolv.conf"),
)
def test_the_files_to_which_distributions_link_resolv_conf_are_in_the_places_of_name_services(target):
    assert is_below(target, RESOLV_CONFS)


def test_the_host_s_own_name_service_is_read():
    assert Policy().resolv_conf("/etc/resolv.conf", 1 << 16)


def test_networks_that_name_no_backend_use_the_node_s():
    request = parse(
        parse_environment(
            {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "e", "CNI_PATH": "/x"}
        ),
        json.dumps(
            {"cniVersion": "1.0.0", "name": "net", "type": "t", "ipam": {"type": "b", "range": "10.0.0.0/24"}}
        ).encode(),
    )
    etcd = EtcdAccess(endpoints=("https://10.0.0.1:2379",), prefix="/ours", ca_file="/c")
    policy = Policy(node=NodeConf(addresses=AddressPolicy(backend="etcd", etcd=etcd)))
    found = lease_location(request, policy.defaults())
    assert found.backend == "etcd"
    assert found.cluster_conf == {
        "kind": "etcd", "endpoints": ["https://10.0.0.1:2379"], "prefix": "/ours", "caFile": "/c",
    }  # fmt: skip
    assert parse_request(request, Log({}), policy.defaults()).sets
    with pytest.raises(InvalidConfig, match=r"ipam\.backend"):
        parse_request(request, Log({}))
    own = request.replace(
        config={
            **request.config,
            "ipam": {**request.config["ipam"], "backend": "etcd", "etcd": {"endpoints": ["https://10.9.9.9:1"]}},
        }
    )
    assert (lease_location(own, policy.defaults()).cluster_conf or {})["endpoints"] == ["https://10.9.9.9:1"]
    assert parse_request(own, Log({}), policy.defaults()).sets
    closed = Policy(node=NodeConf(addresses=AddressPolicy(etcd=etcd, network_etcd=False))).defaults()
    with pytest.raises(InvalidConfig, match=r"ipam\.etcd: the node configuration does not permit an etcd"):
        parse_request(own, Log({}), closed)
    assert lease_location(own, closed).cluster_conf is None

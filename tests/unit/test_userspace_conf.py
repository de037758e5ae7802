"""The configuration of `userspace`: table, model and rules, and the resulting plan."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cni.attachment.record import DEVICE, Key, Record, decode
from cni.config.validation import canonical, parse
from cni.errors import InvalidConfig, SocketDirUnfit, UnsupportedField
from cni.userspace.attachment import PLUGIN, PortAttachment, document, from_record
from cni.userspace.conf import UserspaceConf
from cni.userspace.conf_table import REQUIRED, TABLE
from cni.userspace.plan import container_name, is_port_name, made_mac, plan, port_name, socket_name
from cni.userspace.request import ParsedRequest
from cni.userspace.rules import cross_check
from cni.userspace.sockets.directory import SocketDirectory, acl_entry, kubelet_volumes
from cni.userspace.vswitch.model import Rate

HOST = {"engine": "ovs-dpdk"}
SWAPPED = {**HOST, "iftype": "vhostuser"}
"""Keys that userspace-cni requires."""
KEY = Key(network="net", container_id="0123456789abcdef", ifname="net1")
DIRECTORY = SocketDirectory(root="/run/x", path="/run/x/pod", mount="/run/barewire/vhost/0123456789ab-net1")

GOOD = [
    {},
    {"host": {**HOST, "vhost": {}}},
    {"host": {**HOST, "bridge": {"bridgeName": "br-dpdk0"}}},
    {"host": {**SWAPPED, "vhost": {"mode": "client"}}},
    {"host": {**HOST, "netType": "bridge", "vhost": {"mode": "client", "group": "hugetlbfs", "socketfile": "a.sock"}}},
    {"host": {**HOST, "bridge": {"bridgeName": "br-dpdk0", "vlanId": 5, "bridgeId": 7}, "memif": {"role": "master"}}},
    {"container": {"engine": "ovs-dpdk", "vhost": {"mode": "server"}, "netType": "interface"}},
    {"vlan": 5, "vlanMode": "native-tagged", "trunks": [0, 6, 4094]},
    {"trunks": [6], "vlanMode": "trunk"},
    {"host": {**HOST, "bridge": {"vlanId": 0}}},
    {"vlan": 5, "host": {**HOST, "bridge": {"vlanId": 0}}},
    {"mtu": 9702},
    {"bandwidth": {"ingressRate": 1000, "ingressBurst": 1000, "egressRate": 0}, "txSteering": "HASH", "txRetries": 32},
    {"ovsdb": "tcp:[::1]:6640", "sharedDir": "/run/x", "vhostDir": "/run/y", "kubeletRoot": "/data/kubelet"},
    {"socketDirectory": {"owner": 107, "group": 107, "mode": "0770", "acl": ["user:107:rwx", "group:5:r-x"]}},
    {"deviceID": "anything", "runtimeConfig": {"mac": "02:00:00:00:00:01", "else": 1}},
]
BAD = [
    ({"host": {}}, "host.engine"),
    ({"host": None}, "host"),
    ({"host": {**HOST, "engine": "vpp"}}, "host.engine"),
    ({"host": {**HOST, "iftype": "memif"}}, "host.iftype"),
    ({"host": {**HOST, "netType": "vlan"}}, "host.netType"),
    ({"host": {**HOST, "vhost": {"mode": "server"}}}, "host.vhost.mode"),
    ({"host": {**HOST, "vhost": {"mode": "Client"}}}, "host.vhost.mode"),
    ({"host": SWAPPED}, "host.vhost.mode"),
    ({"host": {**SWAPPED, "vhost": {}}}, "host.vhost.mode"),
    ({"host": {**SWAPPED, "vhost": {"mode": ""}}}, "host.vhost.mode"),
    ({"host": {**SWAPPED, "vhost": {"group": "hugetlbfs"}}}, "host.vhost.mode"),
    ({"host": {**HOST, "vhost": {"socketfile": "a/b"}}}, "host.vhost.socketfile"),
    ({"host": {**HOST, "vhost": {"socketfile": ".."}}}, "host.vhost.socketfile"),
    ({"host": {**HOST, "vhost": {"socketfile": "br0.mgmt"}}}, "host.vhost.socketfile"),
    ({"host": {**HOST, "vhost": {"socketfile": "db.sock"}}}, "host.vhost.socketfile"),
    ({"host": {**HOST, "bridge": {"bridgeName": "sixteen-letters-"}}}, "host.bridge.bridgeName"),
    ({"host": {**HOST, "bridge": {"vlanId": 4095}}}, "host.bridge.vlanId"),
    ({"container": {"vhost": {"mode": "client"}}}, "container.vhost.mode"),
    ({"vlan": 5, "host": {**HOST, "bridge": {"vlanId": 6}}}, "host.bridge.vlanId"),
    ({"vlan": 4095}, "vlan"),
    ({"vlanMode": "access"}, "vlanMode"),
    ({"vlan": 5, "trunks": [6]}, "vlanMode"),
    ({"vlan": 5, "vlanMode": "access", "trunks": [6]}, "trunks"),
    ({"trunks": [6, 5000]}, "trunks[1]"),
    ({"trunks": 6}, "trunks"),
    ({"bandwidth": {"ingressBurst": 5000}}, "bandwidth.ingressBurst"),
    ({"bandwidth": {"egressRate": 999}}, "bandwidth.egressRate"),
    ({"runtimeConfig": {"bandwidth": {"egressRate": 999}}}, "runtimeConfig.bandwidth.egressRate"),
    ({"txRetries": 33}, "txRetries"),
    ({"mtu": 67}, "mtu"),
    ({"mtu": 9703}, "mtu"),
    ({"ovsdb": "ssl:host:6640"}, "ovsdb"),
    ({"sharedDir": "/run/../etc"}, "sharedDir"),
    ({"vhostDir": "run/x"}, "vhostDir"),
    ({"volume": "Not_A_Volume"}, "volume"),
    ({"socketDirectory": {"acl": ["user:root:rwx"]}}, "socketDirectory.acl"),
    ({"socketDirectory": {"mode": "rwx"}}, "socketDirectory.mode"),
]


def reported(config):
    with pytest.raises(InvalidConfig) as caught:
        parse(TABLE, REQUIRED, {"host": HOST, **config}, cross_check)
    return {problem.split(": ")[0] for problem in caught.value.msg.split("; ")}


def planned(config, key=KEY, directory=DIRECTORY, mac=None):
    conf = parse(TABLE, REQUIRED, {"host": HOST, **config}, cross_check).values
    request = ParsedRequest(
        conf=conf, mac=mac, pod=None, pod_uid="uid", device_info="", kubelet_root="/k", vhost_directory="/run/v"
    )
    return plan(key, request, directory, socket_name(key, conf, "attachment"), "/in/pod")


@pytest.mark.parametrize("config", GOOD)
def test_table_and_model_take_what_is_right(config):
    parse(TABLE, REQUIRED, {"host": HOST, **config}, cross_check)
    UserspaceConf.model_validate(canonical(TABLE, {"host": HOST, **config}))


@pytest.mark.parametrize(("config", "path"), BAD)
def test_table_and_model_refuse_what_is_wrong_and_the_path_is_named(config, path):
    assert path in reported(config)
    with pytest.raises(ValidationError):
        UserspaceConf.model_validate(canonical(TABLE, {"host": HOST, **config}))


def test_a_configuration_of_userspace_cni_that_lets_the_vswitch_listen_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidConfig, match=r'write "vhost": \{"mode": "client"\}') as caught:
        parse(TABLE, REQUIRED, {"host": SWAPPED}, cross_check)
    assert caught.value.msg.startswith("host.vhost.mode: missing")


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"host": {**HOST, "vhots": {}}}, "host.vhots: unknown key, did you mean host.vhost?"),
        ({"host": {**HOST, "vhost": {"socketFiles": "a"}}}, "did you mean host.vhost.socketfile?"),
        ({"bandwidth": {"ingres_rate": 5000}}, "did you mean bandwidth.ingressRate?"),
    ],
)
def test_a_misspelt_key_of_a_section_is_refused_and_the_known_one_is_named(config, path):
    with pytest.raises(InvalidConfig) as caught:
        parse(TABLE, REQUIRED, {"host": HOST, **config}, cross_check)
    assert path in caught.value.msg


def test_other_unknown_keys_of_a_section_are_warned_about_or_refused_when_strict():
    config = {"host": {**HOST, "colour": 5}}
    assert "host.colour" in parse(TABLE, REQUIRED, config, cross_check).warnings[0]
    with pytest.raises(UnsupportedField, match=r"host\.colour: unknown key with value 5"):
        parse(TABLE, REQUIRED, {**config, "strictConfig": True}, cross_check)


def test_names_are_those_of_userspace_cni_for_hashes_and_do_not_clash_for_other_ids():
    assert port_name(KEY) == "0123456789ab-net1"
    assert container_name("web-frontend-1") != container_name("web-frontend-2")
    assert len(container_name("a")) == len(container_name("web-frontend-1")) == 12


def test_a_ports_name_is_distinguished_from_other_names():
    assert is_port_name(port_name(KEY))
    assert not any(
        map(is_port_name, ("theirs", "0123456789ab-", "0123456789ab", "0123456789xy-net1", "sockets-are-net1"))
    )


def test_the_old_location_of_the_vlan_is_applied():
    assert planned({"host": {**HOST, "bridge": {"vlanId": 7}}}).port.tag == 7
    assert planned({"host": {**HOST, "bridge": {"vlanId": 0}}}).port.tag is None


def test_bandwidth_is_turned_to_ovs_directions_and_units_and_the_runtime_beats_the_configuration():
    limits = {"ingressRate": 8_000_000, "ingressBurst": 16_000, "egressRate": 2_000_999}
    port = planned({"bandwidth": limits}).port
    assert port.to_pod == Rate(kbit=8000, burst_kbit=16)
    assert port.from_pod == Rate(kbit=2000)
    port = planned({"bandwidth": limits, "runtimeConfig": {"bandwidth": {"egressRate": 5000}}}).port
    assert (port.to_pod, port.from_pod) == (None, Rate(kbit=5))


def test_an_address_that_was_not_requested_is_unicast_local_and_the_same_each_time():
    mac = planned({}).mac
    assert mac == made_mac(KEY)
    assert int(mac[:2], 16) & 3 == 2
    assert made_mac(KEY.replace(ifname="net2")) != mac
    assert planned({}, mac="02:00:00:00:00:09").mac == "02:00:00:00:00:09"


def test_the_path_that_ovs_gets_has_at_most_107_bytes():
    planned({}, directory=DIRECTORY.replace(mount="/run/" + "x" * (107 - 5 - 18)))
    with pytest.raises(SocketDirUnfit, match="more than 107"):
        planned({}, directory=DIRECTORY.replace(mount="/run/" + "x" * (107 - 5 - 17)))


def test_an_attachment_survives_its_record():
    config = {
        "vlan": 5,
        "vlanMode": "native-tagged",
        "trunks": [9],
        "bandwidth": {"ingressRate": 5000},
        "createBridge": True,
    }
    attachment = planned(config, directory=DIRECTORY.replace(acl=("user:1:rwx",), mode=0o770))
    saved = Record(
        key=KEY,
        plugin=PLUGIN,
        device=attachment.port.name,
        netns="/n",
        netns_identity="1:2",
        boot_id="b",
        left=(DEVICE,),
        found={},
        wanted=document(attachment),
    )
    assert from_record(saved) == attachment
    assert from_record(decode(saved.encoded(), "the record")) == attachment
    assert document(from_record(saved)) == saved.wanted
    assert set(saved.wanted) == set(PortAttachment.kinds())


def test_a_uid_is_no_path():
    assert kubelet_volumes("/k/", "ab-1") == "/k/pods/ab-1/volumes/kubernetes.io~empty-dir"
    for wrong in ("..", "a/b", "", "a" * 65, "a\n"):
        with pytest.raises(Exception, match="is not the UID of a pod"):
            kubelet_volumes("/k", wrong)


def test_acl_entries_are_numbers_and_permissions():
    assert acl_entry("user:107:rw-") == ("user", 107, 6)
    for wrong in ("user:root:rwx", "other:1:rwx", "user:1:xwr", "user:1:rw", "user:-1:rwx", "user:1"):
        with pytest.raises(ValueError, match=r"is not|does not end"):
            acl_entry(wrong)

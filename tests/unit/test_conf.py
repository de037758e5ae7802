"""Configurations of `sriov`: all problems at once, keys in any case, misspelt keys, and agreement with the model."""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from cni.config import unknown_keys
from cni.config.validation import canonical, canonical_mac, parse
from cni.errors import InvalidConfig, UnsupportedField
from cni.jsontext import shown
from cni.protocol.cni_args import wanted_mac
from cni.sriov.conf import SriovConf
from cni.sriov.conf_table import REQUIRED, TABLE
from cni.sriov.rules import cross_check
from tests.soak import EXAMPLES

VF = "0000:01:10.0"
MAC = "02:00:00:00:00:42"


def no_rules(_conf, _refused):
    return []


def parsed(**config):
    return parse(TABLE, REQUIRED, {"deviceID": VF, **config}, cross_check)


def refusal(**config):
    with pytest.raises(InvalidConfig) as caught:
        parsed(**config)
    return caught.value.msg


# Values.


def test_a_valid_configuration_gives_its_values():
    config = {
        "deviceID": "01:10.0",
        "vlan": 100,
        "vlanQoS": 7,
        "vlanProto": "802.1AD",
        "mac": "02-00-00-00-00-42",
        "mtu": 1500,
        "spoofchk": "off",
        "min_tx_rate": 0,
        "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"},
        "strictConfig": False,
    }
    found = parsed(**config)
    assert found.values == {**config, "deviceID": VF, "vlanProto": "802.1ad", "mac": MAC}
    assert found.warnings == ()


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"deviceID": "eth0"}, "deviceID: 'eth0' is not a PCI address such as 0000:af:06.0"),
    ({"deviceID": 5}, "deviceID: 5 is not a string"),
    ({"deviceID": None}, "deviceID: missing: name a VF, or its PF as master"),
    ({"deviceID": ""}, "deviceID: missing: name a VF, or its PF as master"),
    ({"vf": -1, "master": "eth0"}, "vf: -1 is not in 0..65535"),
    ({"pfOnly": True, "vlan": 5}, "vlan: is for VFs, and with pfOnly there is none"),
    ({"pfOnly": True, "trust": "on"}, "trust: is for VFs, and with pfOnly there is none"),
    ({"driver": "nvme"}, 'driver: "nvme" is no network driver of VFs, nor one that gives devices to user space'),
    (
        {"dpdk": {"kernel_driver": "../x"}},
        'dpdk.kernel_driver: "../x" is no network driver of VFs, nor one that gives devices to user space',
    ),
    (
        {"dpdk": {"dpdk_tool": "/bin/sh"}},
        "dpdk.dpdk_tool: no programs are run from a configuration, the driver is bound without one",
    ),
    (
        {"driver": "vfio-pci", "dpdk": {"dpdk_driver": "vfio-pci"}},
        "dpdk.dpdk_driver: is the old name of driver, give one of them",
    ),
    ({"promisc": "on", "trust": "off"}, "promisc: needs trust: on"),
    ({"allmulticast": "on", "trust": "off"}, "allmulticast: needs trust: on"),
    ({"promisc": True}, 'promisc: true is not one of "on", "off"'),
    ({"vlan": 4095}, "vlan: 4095 is not in 0..4094"),
    ({"vlan": -1}, "vlan: -1 is not in 0..4094"),
    ({"vlan": "100"}, 'vlan: "100" is not an integer'),
    ({"vlan": 100.0}, "vlan: 100.0 is not an integer"),
    ({"vlan": True}, "vlan: true is not an integer"),
    ({"vlanQoS": 8, "vlan": 1}, "vlanQoS: 8 is not in 0..7"),
    ({"vlanProto": "802.1x", "vlan": 1}, 'vlanProto: "802.1x" is not one of "802.1q", "802.1ad"'),
    ({"mac": "x"}, 'mac: "x" is not a MAC address'),
    ({"mac": 5}, "mac: 5 is not a MAC address"),
    ({"mtu": 67}, "mtu: 67 is not in 68..65535"),
    ({"mtu": 65536}, "mtu: 65536 is not in 68..65535"),
    ({"spoofchk": True}, 'spoofchk: true is not one of "on", "off"'),
    ({"trust": "ON"}, 'trust: "ON" is not one of "on", "off"'),
    ({"link_state": "up"}, 'link_state: "up" is not one of "auto", "enable", "disable"'),
    ({"max_tx_rate": -1}, "max_tx_rate: -1 is not in 0..4294967295"),
    ({"ipam": "host-local"}, 'ipam: "host-local" is not an object'),
    ({"ipam": False}, "ipam: false is not an object"),
    ({"ipam": {"subnet": "10.0.0.0/24"}}, "ipam.type: missing"),
    ({"ipam": {"type": "../sh"}}, 'ipam.type: "../sh" is not the name of a plugin'),
    ({"ipam": {"type": "/bin/sh"}}, 'ipam.type: "/bin/sh" is not the name of a plugin'),
    ({"ipam": {"type": ".."}}, 'ipam.type: ".." is not the name of a plugin'),
    ({"ipam": {"type": "a\0"}}, 'ipam.type: "a\0" is not the name of a plugin'),
    ({"ipam": {"type": "sriov"}}, 'ipam.type: "sriov" attaches interfaces and gives no addresses'),
    ({"ipam": [{"type": "static"}]}, 'ipam: [{"type": "static"}] is not an object'),
    ({"ipam": {"type": 5}}, "ipam.type: 5 is not the name of a plugin"),
    ({"logLevel": 5}, "logLevel: 5 is not a string"),
    ({"strictConfig": "yes"}, 'strictConfig: "yes" is not true or false'),
    ({"strictConfig": 1}, "strictConfig: 1 is not true or false"),
    ({"runtimeConfig": []}, "runtimeConfig: [] is not an object"),
    ({"runtimeConfig": {"mac": "x"}}, 'runtimeConfig.mac: "x" is not a MAC address'),
    ({"args": {"cni": {"mac": "x"}}}, 'args.cni.mac: "x" is not a MAC address'),
    ({"args": {"cni": 5}}, "args.cni: 5 is not an object"),
]


@pytest.mark.parametrize(("config", "msg"), PROBLEMS)
def test_a_problem_is_reported_with_its_path(config, msg):
    assert refusal(**config) == msg


def test_the_number_of_a_vf_needs_its_pf():
    assert refusal(vf=0, deviceID=None) == "deviceID: missing: name a VF, or its PF as master; vf: needs master"


def test_all_problems_are_reported_at_once():
    config: dict[str, Any] = {"max-tx-rate": 5}
    for problem, _ in reversed(PROBLEMS):
        config |= problem
    told = refusal(**config).split("; ")
    assert [line.split(": ")[0] for line in told] == sorted(
        "args.cni.mac deviceID dpdk.kernel_driver driver ipam link_state logLevel mac max-tx-rate max_tx_rate"
        " mtu runtimeConfig spoofchk strictConfig trust vf vlan vlanProto vlanQoS".split()
    )


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"vlanQoS": 1}, ["vlanQoS: needs vlan"]),
        ({"vlanQoS": 0}, ["vlanQoS: needs vlan"]),
        ({"vlanProto": "802.1q"}, ["vlanProto: needs vlan"]),
        ({"vlanQoS": 1, "vlanProto": "802.1ad"}, ["vlanProto: needs vlan", "vlanQoS: needs vlan"]),
        ({"vlan": 0, "vlanQoS": 3}, ["vlanQoS: 3 needs a vlan other than 0"]),
        ({"vlan": 0, "vlanProto": "802.1ad"}, ["vlanProto: 802.1ad needs a vlan other than 0"]),
        ({"min_tx_rate": 10, "max_tx_rate": 9}, ["min_tx_rate: 10 is more than max_tx_rate 9"]),
        (
            {"vlan": None, "vlanQoS": 1, "min_tx_rate": 2, "max_tx_rate": 1},
            ["min_tx_rate: 2 is more than max_tx_rate 1", "vlanQoS: needs vlan"],
        ),
    ],
)
def test_fields_that_contradict_each_other_are_all_reported(config, told):
    assert refusal(**config).split("; ") == told


@pytest.mark.parametrize(
    "config",
    [
        {"vlan": 0},
        {"vlan": 0, "vlanQoS": 0, "vlanProto": "802.1q"},
        {"vlan": 1, "vlanQoS": 0},
        {"min_tx_rate": 10},
        {"min_tx_rate": 10, "max_tx_rate": 0},
        {"min_tx_rate": 10, "max_tx_rate": 10},
    ],
)
def test_fields_that_go_together_are_taken(config):
    assert parsed(**config).values == {"deviceID": VF, **config}


TEXTUAL = {"string", "choice", "folded", "mac", "pci"}
"""Kinds of keys whose value is text."""


@pytest.mark.parametrize("key", sorted(set(TABLE) - {"deviceID"}))
def test_null_is_absent(key):
    assert parsed(**{key: None}).values == {"deviceID": VF}


@pytest.mark.parametrize("key", sorted(key for key in set(TABLE) - {"deviceID"} if TABLE[key][0] in TEXTUAL))
def test_empty_text_of_a_textual_key_is_absent(key):
    assert parsed(**{key: ""}).values == {"deviceID": VF}


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("vlan", "is not an integer"),
        ("vlanQoS", "is not an integer"),
        ("mtu", "is not an integer"),
        ("max_tx_rate", "is not an integer"),
        ("strictConfig", "is not true or false"),
        ("ipam", "is not an object"),
        ("runtimeConfig", "is not an object"),
        ("args", "is not an object"),
    ],
)
def test_empty_text_of_another_key_is_a_problem_as_in_go(key, told):
    assert refusal(**{key: ""}) == f'{key}: "" {told}'


@pytest.mark.parametrize("absent", [None, ""])
def test_null_and_empty_text_are_absent_below_too(absent):
    found = parsed(runtimeConfig={"mac": absent}, args={"cni": {"mac": absent}}, ipam={"type": ""})
    assert wanted_mac(found.values, {}) is None
    assert found.values["ipam"] == {}


def test_empty_text_in_the_place_of_a_section_is_a_problem_below_too():
    assert refusal(args={"cni": ""}) == 'args.cni: "" is not an object'


@pytest.mark.parametrize(("value", "told"), [("", 'size: "" is not an integer'), (None, "size: missing")])
def test_empty_text_is_no_missing_number(value, told):
    with pytest.raises(InvalidConfig) as caught:
        parse({"size": ("integer", 0, 9)}, ("size",), {"size": value}, no_rules)
    assert caught.value.msg == told


# Keys.


def test_a_key_in_any_case_is_the_known_key():
    assert parsed(VLAN=5, vlanqos=3, DNS={}, RuntimeConfig={"MAC": MAC}).values == {
        "deviceID": VF,
        "vlan": 5,
        "vlanQoS": 3,
        "dns": {},
        "runtimeConfig": {"mac": MAC},
    }


@pytest.mark.parametrize(
    "config", [{"vlan": 5, "VLAN": 6}, {"VLAN": 6, "vlan": 5}, {"Vlan": 7, "vlan": 5, "VLAN": "x"}]
)
def test_the_exact_key_wins_over_other_cases(config):
    assert parsed(**config).values["vlan"] == 5


def test_an_exact_key_that_is_null_hides_the_other_cases():
    assert "vlan" not in parsed(vlan=None, VLAN=6).values


def test_a_problem_below_a_key_in_another_case_is_reported_under_the_known_key():
    assert (
        refusal(VLAN="x", ARGS={"CNI": {"Mac": 1}})
        == 'args.cni.mac: 1 is not a MAC address; vlan: "x" is not an integer'
    )


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max-tx-rate", "max_tx_rate"),
        ("maxTxRate", "max_tx_rate"),
        ("Vlan_QoS", "vlanQoS"),
        ("vlan-qos", "vlanQoS"),
        ("vlanProtol", "vlanProto"),
        ("trsut", "trust"),
        ("tust", "trust"),
        ("trusts", "trust"),
        ("spoofcheck", "spoofchk"),
        ("spoof_chk", "spoofchk"),
        ("spofchk", "spoofchk"),
        ("linkState", "link_state"),
        ("vlans", "vlan"),
        ("device_id", "deviceID"),
        ("log_level", "logLevel"),
        ("iapm", "ipam"),
        ("strictconf", "strictConfig"),
        ("vlan_id", "vlan"),
        ("vlanID", "vlan"),
        ("vlanId", "vlan"),
        ("mac_addr", "mac"),
        ("macAddress", "mac"),
        ("mac-address", "mac"),
    ],
)
def test_a_misspelt_key_is_refused_and_the_known_one_is_named(key, meant):
    assert refusal(**{key: 1}) == f"{key}: unknown key, did you mean {meant}?"


@pytest.mark.parametrize(
    "key", ["trunk", "bandwidth", "isGateway", "macs", "mtus", "ipv4", "rdma", "plugins", "", "ÄÖÜ"]
)
def test_an_unknown_key_of_other_plugins_is_ignored_with_a_warning_that_suggests_nothing(key):
    found = parsed(**{key: {"x": 1}})
    assert found.values == {"deviceID": VF}
    assert found.warnings == (f"{key}: unknown key, ignored",)


@pytest.mark.parametrize(("key", "meant"), [("ifname", "if0name"), ("capabilites", "capabilities")])
def test_a_misspelt_key_that_would_have_no_effect_is_only_warned_about(key, meant):
    assert TABLE[meant] == ("any",)
    assert parsed(**{key: 1}).warnings == (f"{key}: unknown key, ignored, did you mean {meant}?",)


@pytest.mark.parametrize("key", ["rateTxMax", "tx_rate_max", "max-rate-tx"])
def test_a_key_with_the_words_of_a_known_one_in_another_order_is_misspelt(key):
    assert refusal(**{key: 1}) == f"{key}: unknown key, did you mean max_tx_rate?"


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "k8s.v1.cni.cncf.io/vlan", "x/vlan"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_namespaced_key_belongs_to_others(key, strict):
    assert parsed(**{key: 1, "strictConfig": strict}).warnings == ()


def test_other_keys_below_open_sections_belong_to_others():
    found = parsed(
        runtimeConfig={"ips": ["10.0.0.2/24"], "macc": 1}, args={"x": 1, "cni": {"ips": []}}, strictConfig=True
    )
    assert found.warnings == ()
    assert found.values["runtimeConfig"] == {"ips": ["10.0.0.2/24"], "macc": 1}


def test_strict_config_refuses_every_unknown_key_with_its_value():
    with pytest.raises(UnsupportedField) as caught:
        parsed(strictConfig=True, trunk=[1, 2], spoofcheck="on")
    assert caught.value.code == 2
    assert caught.value.msg == (
        'trunk: unknown key with value [1, 2]; spoofcheck: unknown key with value "on", did you mean spoofchk?'
    )


def test_a_strict_configuration_with_known_keys_only_is_taken():
    assert parsed(strictConfig=True, vlan=1, VlanQoS=2).values["vlanQoS"] == 2


def test_problems_of_values_are_reported_together_with_those_of_strictness():
    assert refusal(strictConfig=True, vlan="x", trunk=1, trsut="on") == (
        'trsut: unknown key, did you mean trust?; trunk: unknown key; vlan: "x" is not an integer'
    )


def test_a_legacy_spelling_is_an_unknown_key_where_the_table_has_no_such_key():
    found = parse({"size": ("integer", 0, 9)}, (), {"vlan_id": 5}, no_rules)
    assert found.warnings == ("vlan_id: unknown key, ignored",)


# Thousands of unknown keys.

MANY = {f"something{number}": number for number in range(10_000)}


def test_many_unknown_keys_cost_little_and_are_warned_about_in_one_line():
    before = time.process_time()
    found = parsed(**MANY)
    assert time.process_time() - before < 0.5
    assert len(found.warnings) == 21
    assert found.warnings[0] == "something0: unknown key, ignored"
    assert found.warnings[-1] == "9980 more keys: unknown, ignored"


def test_a_misspelt_key_behind_many_unknown_ones_is_refused():
    assert refusal(**MANY, **{"max-tx-rate": 5}) == "max-tx-rate: unknown key, did you mean max_tx_rate?"


def test_strict_config_reports_the_number_of_the_keys_that_it_does_not_name():
    with pytest.raises(UnsupportedField) as caught:
        parsed(strictConfig=True, **MANY)
    assert caught.value.msg.endswith("; 9980 more keys: unknown")
    told = refusal(strictConfig=True, vlan="x", **MANY).split("; ")
    assert told[0] == "9980 more keys: unknown"
    assert len(told) == 22


@pytest.mark.parametrize(
    ("left", "right", "slips"),
    [("", "", 0), ("abc", "", 3), ("abcd", "abdc", 1), ("ca", "abc", 3), ("kitten", "sitting", 3)],
)
def test_slips_are_letters_more_less_other_or_swapped(left, right, slips):
    assert unknown_keys._distance(left, right) == unknown_keys._distance(right, left) == slips


# MAC addresses.


@pytest.mark.parametrize("text", [MAC, "02-00-00-00-00-42", "0200.0000.0042", MAC.upper()])
def test_macs_are_taken_in_the_forms_that_go_takes(text):
    assert canonical_mac(text) == MAC


def test_a_mac_is_written_in_lower_case():
    assert canonical_mac("0A-BC-DE-F0-12-34") == "0a:bc:de:f0:12:34"


@pytest.mark.parametrize(
    "text",
    ["", "x", "02:00:00:00:00", "02:00:00:00:00:42:00", "02:00:00:00:00:4g", "2:0:0:0:0:42", "02:00:00:00:00:042", "020000000042",
     "02:00-00:00:00:42", " 02:00:00:00:00:42", "02:00:00:00:00:42\n", "02:00:00:00:00:+2", "٠٢:00:00:00:00:42",
     "02:00:00:00:00:00:00:42", None, 5, ["02"]],
)  # fmt: skip
def test_anything_else_is_no_mac(text):
    with pytest.raises(ValueError, match="is not a MAC address"):
        canonical_mac(text)


@pytest.mark.parametrize("text", ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "0300.0000.0001"])
def test_an_address_that_no_interface_can_have_is_refused(text):
    with pytest.raises(ValueError, match="is not a unicast MAC address"):
        canonical_mac(text)


SOURCES: list[tuple[str, dict[str, Any]]] = [
    ("runtimeConfig", {"runtimeConfig": {"mac": "02:00:00:00:00:01"}}),
    ("args.cni", {"args": {"cni": {"mac": "02:00:00:00:00:02"}}}),
    ("CNI_ARGS", {}),
    ("mac", {"mac": "02:00:00:00:00:04"}),
]
ARGUMENTS = {"MAC": "02-00-00-00-00-03"}


@pytest.mark.parametrize("first", range(4), ids=[name for name, _ in SOURCES])
def test_the_first_source_that_has_a_mac_beats_the_later_ones(first):
    config: dict[str, Any] = {}
    for _, part in SOURCES[first:]:
        config |= part
    arguments = ARGUMENTS if first <= 2 else {}
    assert wanted_mac(parsed(**config).values, arguments) == f"02:00:00:00:00:0{first + 1}"


def test_no_source_is_no_mac():
    assert wanted_mac(parsed(runtimeConfig={}, args={}).values, {"MAC": ""}) is None


def test_a_malformed_mac_in_cni_args_is_reported():
    with pytest.raises(InvalidConfig, match='CNI_ARGS MAC: "x" is not a MAC address') as caught:
        wanted_mac({}, {"MAC": "x"})
    assert caught.value.code == 7


# A rule for which `sriov` has no key.


def test_a_list_of_strings_is_checked_as_a_whole():
    table = {"names": ("strings",)}
    assert parse(table, (), {"names": ["a"]}, no_rules).values == {"names": ["a"]}
    for wrong in ("a", ["a", 5], {"a": 1}):
        with pytest.raises(InvalidConfig, match=r"names: .* is not a list of strings"):
            parse(table, (), {"names": wrong}, no_rules)


def test_a_number_that_json_cannot_write_is_reported_and_no_failure_of_ours():
    """1e999 is valid JSON, and is read as infinity."""
    with pytest.raises(InvalidConfig, match="inf"):
        parse({"mtu": ("integer", 0, 9)}, (), {"mtu": float("inf")}, no_rules)
    assert shown([float("-inf")]) == "[-inf]"


# The table and the model accept the same documents.

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5000)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_characters=";"), max_size=8)
    | st.sampled_from(
        ["on", "off", "auto", "enable", "802.1q", "802.1AD", VF, "01:10.0", MAC, "0200.0000.0042", "ff:ff:ff:ff:ff:ff"]
    )
)
WRONG = ATOMS | st.lists(ATOMS, max_size=2) | st.dictionaries(st.sampled_from(["type", "mac", "a"]), ATOMS, max_size=2)
RIGHT = {
    "string": st.text(max_size=5),
    "pci": st.sampled_from([VF, "AF:00.1"]),
    "mac": st.sampled_from([MAC, "02-00-00-00-00-42"]),
    "boolean": st.booleans(),
    "any": WRONG,
    "ipam": st.sampled_from([{}, {"type": "host-local"}, {"type": "a", "subnet": 5}]),
}


def right(rule):
    kind, *arguments = rule
    if kind == "integer":
        return st.integers(*arguments) | st.sampled_from(arguments)
    if kind in ("choice", "folded"):
        return st.sampled_from(arguments[0])
    return document(arguments[0]) if kind == "open" else RIGHT[kind]


@functools.cache
def in_any_case(key):
    return st.sampled_from([key, key, key.upper(), key.lower(), key.swapcase()])


def document(table, *, wrong=0):
    """A document with some of the table's keys, of which up to `wrong` have arbitrary values."""
    # Strategies are made once, because that takes longer than drawing from them.
    some = st.lists(st.sampled_from(sorted(table)), unique=True, max_size=8)
    valid = {key: right(rule) for key, rule in table.items()}

    @st.composite
    def drawn(draw):
        keys = draw(some)
        astray = keys[: draw(st.integers(0, wrong))]
        return {draw(in_any_case(key)): draw(WRONG if key in astray else valid[key]) for key in keys}

    return drawn()


def paths_of_table(config):
    try:
        values = parse(TABLE, REQUIRED, config, cross_check).values
    except InvalidConfig as error:
        return {problem.split(": ")[0] for problem in error.msg.split("; ")}, None
    return set(), values


def paths_of_model(config):
    try:
        model = SriovConf.model_validate(canonical(TABLE, config))
    except ValidationError as error:
        return {path for problem in error.errors() for path in paths_of(problem)}, None
    return set(), model.model_dump(exclude_none=True)


def paths_of(problem):
    """The paths in an error of pydantic: for rules about several fields in its text, below `ipam` in both, otherwise in
    `loc`.
    """
    path, text = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
    if not path:
        return [part.split(": ")[0] for part in text.split("; ")]
    return [f"{path}.type"] if path == "ipam" and text.startswith("type: ") else [path]


def compare(config):
    by_table, values = paths_of_table(config)
    by_model, dump = paths_of_model(config)
    # The model checks rules between fields only if each field is valid.
    assert by_model <= by_table
    assert bool(by_model) == bool(by_table)
    if values is not None:
        plain = [key for key, rule in TABLE.items() if rule[0] != "open"]
        assert {key: values[key] for key in plain if key in values} == {key: dump[key] for key in plain if key in dump}
        assert wanted_mac(values, {}) == wanted_mac(dump, {})


@pytest.mark.parametrize("config", [config for config, _ in PROBLEMS])
def test_the_model_finds_the_same_problem_in_the_same_place(config):
    compare({"deviceID": VF, **config})
    assert paths_of_model({"deviceID": VF, **config})[0]


@settings(max_examples=3 * EXAMPLES)
@given(document(TABLE), st.sampled_from([{}, {"deviceID": VF}]))
def test_model_and_table_agree_on_documents_with_valid_fields(config, device):
    compare({**device, **config})


@settings(max_examples=3 * EXAMPLES)
@given(st.sampled_from(sorted(TABLE)), WRONG)
def test_model_and_table_agree_on_a_single_field(key, value):
    compare({"deviceID": VF, "vlan": 1, key: value})


@settings(max_examples=3 * EXAMPLES)
@given(document(TABLE, wrong=4), st.sampled_from([{}, {"deviceID": VF}]))
def test_model_and_table_agree_on_documents_with_several_wrong_fields(config, device):
    compare({**device, **config})

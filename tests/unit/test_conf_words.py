"""Messages about configurations, for every table: they quote the author's JSON, and suggest no wrong keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from cni.config.unknown_keys import _distance, _plain, _words
from cni.config.validation import parse
from cni.errors import CniError
from cni.log import Log
from cni.node.conf_table import TABLE as NODE
from cni.node.parse import parse_node
from cni.node.rules import cross_check as node_rules
from cni.protocol.request import parse as parse_call, parse_environment
from cni.sriov.conf_table import TABLE as SRIOV
from cni.sriov.rules import cross_check as sriov_rules
from cni.userspace.conf_table import TABLE as USERSPACE
from cni.userspace.rules import cross_check as userspace_rules
from ipam.config.conf_table import TABLE as IPAM
from ipam.config.request import parse_request
from ipam.config.rules import cross_check as ipam_rules
from tests.soak import EXAMPLES

Table = dict[str, tuple[Any, ...]]
TABLES: dict[str, tuple[Table, Callable[..., Any]]] = {
    "node": (NODE, node_rules),
    "sriov": (SRIOV, sriov_rules),
    "userspace": (USERSPACE, userspace_rules),
    "ipam": (IPAM, ipam_rules),
}
WRONG: tuple[Any, ...] = (
    {"subnet": "10.0.0.0/8"},
    [None, True],
    True,
    [{"a": None}],
    [["x"]],
    1.5,
    [False],
    {"a": ["b"]},
    "",
)
PYTHON = re.compile(r"\b(None|True|False)\b|\{'|\['")

PEERS = (
    "kubernetes rdma mode plugins datastore_type vlan_trunk datastore sleep_for_race pool resources bonds links "
    "state keepalive plugin driverName delegates isGateway ipMasq promiscMode uplink"
).split()
"""Keys of other plugins, none of which is a misspelling of one of our keys."""


def paths(table: Table, *above: str) -> Iterator[tuple[str, ...]]:
    for key, rule in table.items():
        yield (*above, key)
        if len(rule) > 1 and isinstance(rule[1], dict):
            yield from paths(rule[1], *above, key)


def with_value(table: Table, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A document with that value there, below the required sections and lists of sections."""
    key, *rest = path
    if not rest:
        return {key: value}
    kind, inner = table[key][:2]
    below = with_value(inner, tuple(rest), value)
    return {key: {"sections": [below], "section-lists": [[below]]}.get(kind, below)}


def said(action: Callable[[], object]) -> str:
    try:
        action()
    except CniError as error:
        return f"{error.msg} {error.details}"
    return ""


@pytest.mark.parametrize("kind", TABLES)
def test_a_wrong_value_is_shown_as_its_author_wrote_it_and_not_as_python(kind: str) -> None:
    table, rules = TABLES[kind]
    for path in paths(table):
        for value in WRONG:
            document = with_value(table, path, value)
            text = said(lambda document=document: parse(table, (), document, rules))  # type: ignore[misc]
            assert not PYTHON.search(text), (path, value, text)


@pytest.mark.parametrize(
    "section", [{"ranges": [value]} for value in WRONG] + [{"ipRanges": [value]} for value in WRONG]
)
def test_a_wrong_range_is_shown_so_too(section: dict[str, Any]) -> None:
    conf = {"cniVersion": "1.0.0", "name": "n", "type": "barewire-ipam", "ipam": {"type": "barewire-ipam", **section}}
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "i", "CNI_PATH": "/p"}
    request = parse_call(parse_environment(env), json.dumps(conf).encode())
    text = said(lambda: parse_request(request, Log({}, level="panic")))
    assert text
    assert not PYTHON.search(text), text


@pytest.mark.parametrize("key", ["cniVersion", "name", "prevResult"])
@pytest.mark.parametrize("value", [*WRONG[:-1], {"interfaces": [{"name": {"a": True}}]}, {"dns": {"search": [None]}}])
def test_the_keys_of_the_protocol_are_shown_so_too(key: str, value: Any) -> None:
    conf = {"cniVersion": "1.0.0", "name": "n", "type": "x", key: value}
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "i", "CNI_PATH": "/p"}
    text = said(lambda: parse_call(parse_environment(env), json.dumps(conf).encode()).prev_result())
    assert not PYTHON.search(text), text


@pytest.mark.parametrize("value", WRONG[:-1])
def test_the_document_of_the_node_is_shown_so_too(value: Any) -> None:
    assert not PYTHON.search(said(lambda: parse_node(json.dumps(value).encode())))


def suggestions(table: Table, rules: Callable[..., Any], document: dict[str, Any]) -> list[tuple[str, str]]:
    """Each unknown key, and the key that was suggested for it."""
    text = said(lambda: parse(table, (), document, rules, strict=True))
    return re.findall(r"(\S+): unknown key[^;]*?, did you mean ([\w.]+)\?", text)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("key", PEERS)
def test_a_key_of_another_plugin_brings_no_suggestion(kind: str, key: str) -> None:
    table, _rules = TABLES[kind]
    sections = [table, *(rule[1] for rule in table.values() if len(rule) > 1 and isinstance(rule[1], dict))]
    for section in sections:
        if key not in section:
            assert suggestions(section, lambda *_values: [], {key: 1}) == []


@pytest.mark.parametrize("kind", TABLES)
@settings(max_examples=2 * EXAMPLES)
@given(st.text("abcdefghijklmnopqrstuvwxyzDIMN_-", min_size=1, max_size=12))
def test_a_suggestion_is_a_slip_away_whatever_was_written(kind: str, key: str) -> None:
    table, _rules = TABLES[kind]
    for written, meant in suggestions(table, lambda *_values: [], {key: 1}):
        near = _distance(_plain(written), _plain(meant)) <= 2
        assert near or _words(written) == _words(meant) or _plain(written) in ("vlanid", "macaddr", "macaddress")


@pytest.mark.parametrize(
    ("kind", "path"), [("ipam", ("ipam", "logFile")), ("ipam", ("ipam", "logLevel")), ("sriov", ("ifname",))]
)
def test_a_misspelling_of_a_key_without_effect_is_a_warning(kind: str, path: tuple[str, ...]) -> None:
    table, _rules = TABLES[kind]
    document: Any = "x"
    for key in reversed(path):
        document = {key: document}
    found = parse(table, (), document, lambda *_values: [])
    assert any(".".join(path) in warning for warning in found.warnings)

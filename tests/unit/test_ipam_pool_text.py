"""A pool that is not decoded gives the same answers as the decoded one."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from cni.errors import InvalidConfig
from cni.kube.answers import document
from ipam.kubernetes import whereabouts
from ipam.kubernetes.pool_text import PoolText
from tests.contract.ipam_cluster_contract import V4, claim, owner, texts

A = owner("a")
NAMES = st.sampled_from(["a", "b", "default/a", "default/b", "freed:default/a", "net1", "net2", "", "x\\u0061", '"a"'])
ENTRIES = st.fixed_dictionaries({}, optional={"id": NAMES, "podref": NAMES, "ifname": NAMES})
OFFSETS = st.sampled_from(["1", "5", "6", "05", "256", "-1", "x", ""])
POOLS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries({}, optional={"uid": st.text(), "name": NAMES, "5": NAMES}),
        "spec": st.fixed_dictionaries(
            {"range": st.just("10.9.0.0/24")},
            optional={"allocations": st.dictionaries(OFFSETS, ENTRIES | st.none() | NAMES) | st.none()},
        ),
    }
)
STYLES: tuple[dict[str, Any], ...] = (
    {},
    {"separators": (",", ":")},
    {"indent": 1},
    {"ensure_ascii": False},
    {"sort_keys": True},
)


def escaped(text: str) -> str:
    """The same value, with escapes that no JSON encoder needs."""
    return text.replace("/", "\\/").replace('"a"', '"\\u0061"').replace('"5"', '"\\u0035"')


@given(POOLS, st.sampled_from(STYLES), st.booleans())
def test_the_answers_are_those_of_the_decoded_pool(pool, style, is_escaped):
    text = json.dumps(pool, **style)
    content = (escaped(text) if is_escaped else text).encode()
    found = whereabouts.all_allocations(json.loads(content))
    claims = (claim("10.9.0.5"), claim("10.9.0.6"))
    expected = {key: found[key] for key in ("5", "6") if isinstance(found.get(key), dict)}
    assert PoolText(content).entries_at(claims) == expected
    assert PoolText(content).leases_of_pod(A) == whereabouts.leases_of_pod(json.loads(content), A)
    used = PoolText(content).used(V4, [V4.subnet.number + 9])
    assert [number for number in range(12) if V4.subnet.number + number in used] == sorted(
        {9} | {number for number in range(12) if str(number) in found}
    )
    assert PoolText(content).uid == json.loads(content)["metadata"].get("uid", "")


@pytest.mark.parametrize("content", (b"", b"{", b"[]", b"null", b"\xff", b'{"metadata":[]}', b'{"metadata":{"uid":1}}'))
def test_content_that_is_no_pool_has_no_entries_and_is_refused_where_a_pod_is_searched_for(content):
    pool = PoolText(content)
    assert (pool.uid, pool.entries_at((claim("10.9.0.5"),)), pool.has("5")) == ("", {}, False)
    with contextlib.nullcontext() if content == b"" else pytest.raises(InvalidConfig):
        assert pool.leases_of_pod(A) == []


def test_only_a_pool_with_a_name_that_is_searched_for_is_decoded(monkeypatch):
    pool = whereabouts.pool("10.9.0.0-24", "10.9.0.0/24")
    pool["metadata"]["uid"] = "the-uid"
    pool["spec"]["allocations"] = {"5": {"id": "c", "podref": "default/a", "ifname": "net1"}}
    decoded: list[bytes] = []

    def counted(content: bytes) -> dict[str, Any]:
        decoded.append(content)
        return document(content)

    monkeypatch.setattr("ipam.kubernetes.pool_text.document", counted)
    found = PoolText(json.dumps(pool).encode())
    assert (found.uid, found.leases_of_pod(owner("b")), found.has("7")) == ("the-uid", [], False)
    assert decoded == []
    assert texts(found.leases_of_pod(A)) == ["10.9.0.5"]
    assert found.has("5")
    assert len(decoded) == 1

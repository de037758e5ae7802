"""Leases in a real etcd."""

from __future__ import annotations

import http.server
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest

from cni.errors import InvalidConfig, NotAvailable, TryAgainLater
from ipam.etcd.cluster import Etcd, open_etcd
from ipam.etcd.gateway import servers
from ipam.etcd.paging import PAGE
from ipam.store import Claim
from tests.contract.ipam_cluster_contract import CONTRACT, NETWORK, Backend, claim, everything, owner, range_of
from tests.etcd.filling import fill
from tests.etcd.proxy import Proxy
from tests.etcd.server import EtcdServer, free_port, three_members
from tests.kube.authority import certificates
from tests.trusting import ROOTS

LATEST = 5.0
"""Seconds after which a call with a limit of half a second has certainly exceeded it, even on a busy machine."""

SECONDS = 20.0
_NUMBER = itertools.count()


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture(scope="module")
def secure() -> Iterator[EtcdServer]:
    with EtcdServer(secure=True) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A part of etcd that no other test uses."""
    return f"/test/{next(_NUMBER)}"


def opened(server: EtcdServer, prefix: str, node: str, seconds: float = SECONDS, **how) -> Etcd:
    return open_etcd(server.cluster_conf(prefix=prefix, node=node, **how), NETWORK, seconds, ROOTS)


@pytest.mark.parametrize("name", CONTRACT)
def test_etcd_keeps_the_contract(etcd, prefix, name):
    CONTRACT[name](Backend(partial(opened, etcd, prefix)))


@pytest.mark.parametrize("name", ["an_address_has_one_owner", "all_of_an_owner_is_given_back", "a_gap_is_found"])
def test_etcd_keeps_the_contract_over_tls(secure, prefix, name):
    CONTRACT[name](Backend(partial(opened, secure, prefix)))


# The content of etcd


def test_keys_and_values_are_as_documented(etcd, prefix):
    cluster = opened(etcd, prefix, "node-a", machine="1d")
    cluster.take((claim("10.9.0.5"), claim("fd00:9::5")), owner("c0ffee"))
    assert {(lease.node, lease.machine) for lease in cluster.leases_of_node()} == {("node-a", "1d")}
    lease = {"container": "c0ffee", "ifname": "net1", "network": NETWORK, "node": "node-a", "machine": "1d"}
    lease |= {"pod": "default/c0ffee", "uid": "uid-c0ffee"}
    place, index = f"{prefix}/{NETWORK}/ip", f"{prefix}/{NETWORK}/node/node-a/c0ffee/net1"
    names = ("40a090005", "6fd000009000000000000000000000005")
    assert etcd.values(prefix) == {f"{where}/{name}": lease for where in (place, index) for name in names}
    cluster.give_back((claim("10.9.0.5"), claim("fd00:9::5")), owner("c0ffee"))
    assert etcd.values(prefix) == {}


def test_networks_and_prefixes_are_apart(etcd, prefix):
    first = opened(etcd, prefix, "node-a")
    second = open_etcd(etcd.cluster_conf(prefix=prefix, node="node-a"), "net2", SECONDS, ROOTS)
    third = opened(etcd, f"{prefix}-other", "node-a")
    for cluster in (first, second, third):
        assert cluster.take((claim("10.9.0.5"),), owner("a")) == ()
    first.give_back_all(owner("a"))
    assert [len(list(one.leases(name))) for one, name in ((first, NETWORK), (second, "net2"), (third, NETWORK))] == [
        0,
        1,
        1,
    ]


@pytest.mark.parametrize("value", ["", "no JSON", "[]", '{"container": "a"}'])
def test_a_value_of_another_program_is_respected(etcd, prefix, value):
    cluster, key = opened(etcd, prefix, "node-a"), f"{prefix}/{NETWORK}/ip/40a090005"
    etcd.ctl("put", key, value)
    assert cluster.take((claim("10.9.0.5"),), owner("a")) == (claim("10.9.0.5"),)
    cluster.give_back((claim("10.9.0.5"),), owner("a"))
    assert etcd.ctl("get", key, "--keys-only").strip() == key
    assert list(cluster.leases(NETWORK)) == []


def test_leases_of_more_than_a_page_are_listed_in_order(etcd, prefix):
    cluster = opened(etcd, prefix, "node-a")
    large = range_of("10.8.0.0", 16, "10.8.0.1", "10.8.255.254")
    count = fill(cluster, large, range(large.first, large.first + 2 * PAGE + 7))
    numbers = [lease.address.number for lease in cluster.leases(NETWORK)]
    assert numbers == list(range(large.first, large.first + count))
    assert len(list(cluster.leases_of_node())) == count


# Large pools


@pytest.mark.parametrize("start", [0, 30000, 65533])
def test_the_last_free_address_of_a_large_pool_is_found_with_few_questions(etcd, prefix, start):
    large = range_of("10.8.0.0", 16, "10.8.0.1", "10.8.255.254")
    free = large.first + 12345
    with Proxy(etcd.port) as proxy:
        cluster = opened(etcd, "/test/large", "node-a", endpoints=[proxy.endpoint])
        if not next(cluster.leases(NETWORK), None):
            fill(cluster, large, (number for number in range(large.first, large.last + 1) if number != free))
        proxy.questions = 0
        assert cluster.find_free(large, large.first + start) == free
        assert proxy.questions <= 5
        full = large.replace(excluded=((free, free),))
        assert cluster.find_free(full, large.first + start) is None


def test_a_gap_beside_a_refused_address_is_known_without_another_question(etcd, prefix):
    large = range_of("10.8.0.0", 16, "10.8.0.1", "10.8.255.254")
    with Proxy(etcd.port) as proxy:
        cluster = opened(etcd, prefix, "node-a", endpoints=[proxy.endpoint])
        fill(cluster, large, [large.first + step for step in (0, 1, 2, 4)])
        wanted = Claim(range=large, address=large.address(large.first))
        proxy.questions = 0
        assert cluster.take((wanted,), owner("a")) == (wanted,)
        assert cluster.find_free(large, large.first) == large.first + 3
        assert proxy.questions == 1


# Requests that are lost, or late


def test_a_take_whose_answer_is_lost_is_found_to_be_done(etcd, prefix):
    with Proxy(etcd.port) as proxy:
        cluster = opened(etcd, prefix, "node-a", endpoints=[proxy.endpoint])
        proxy.loses = 1
        assert cluster.take((claim("10.9.0.5"), claim("fd00:9::5")), owner("a")) == ()
        assert proxy.questions > 1
    assert len(list(opened(etcd, prefix, "node-b").leases(NETWORK))) == 2


def test_a_give_back_whose_answer_is_lost_is_found_to_be_done(etcd, prefix):
    with Proxy(etcd.port) as proxy:
        cluster = opened(etcd, prefix, "node-a", endpoints=[proxy.endpoint])
        cluster.take((claim("10.9.0.5"),), owner("a"))
        cluster.held((claim("10.9.0.5"),), owner("a"))
        proxy.loses = 2
        cluster.give_back((claim("10.9.0.5"),), owner("a"))
        assert proxy.loses == 0
    assert etcd.values(prefix) == {}


def recorded(cluster: Etcd) -> list[tuple[str, Any]]:
    """The requests that it makes from now on."""
    questions: list[tuple[str, Any]] = []
    ask = cluster._gateway.ask

    def noting(path, question):
        questions.append((path, question))
        return ask(path, question)

    cluster._gateway.ask = noting  # type: ignore[method-assign]
    return questions


def test_a_give_back_that_arrives_again_later_takes_nothing_from_the_owner_that_came_back(etcd, prefix):
    cluster = opened(etcd, prefix, "node-a")
    cluster.take((claim("10.9.0.5"),), owner("a"))
    questions = recorded(cluster)
    cluster.give_back((claim("10.9.0.5"),), owner("a"))
    late = questions[-1]
    assert "request_delete_range" in str(late)
    assert cluster.take((claim("10.9.0.5"),), owner("a")) == ()
    cluster._gateway.ask(*late)
    assert cluster.held((claim("10.9.0.5"),), owner("a")) == (claim("10.9.0.5"),)


def test_a_take_that_arrives_again_later_takes_nothing_from_the_next_owner(etcd, prefix):
    cluster, other = opened(etcd, prefix, "node-a"), opened(etcd, prefix, "node-b")
    questions = recorded(cluster)
    cluster.take((claim("10.9.0.5"), claim("10.9.0.6")), owner("a"))
    late = questions[0]
    cluster.give_back((claim("10.9.0.5"), claim("10.9.0.6")), owner("a"))
    other.take((claim("10.9.0.5"),), owner("b"))
    cluster._gateway.ask(*late)
    assert everything(other) == {"10.9.0.5": ("b", "net1")}


# Endpoints


def test_an_endpoint_without_a_listener_is_passed_over(etcd, prefix):
    cluster = opened(etcd, prefix, "node-a", endpoints=[f"http://127.0.0.1:{free_port()}", etcd.endpoint])
    assert cluster.take((claim("10.9.0.5"),), owner("a")) == ()
    cluster.reach()


def test_a_silent_endpoint_costs_its_share_once(etcd, prefix, monkeypatch):
    monkeypatch.setattr("ipam.etcd.gateway.SHARE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_one = f"http://127.0.0.1:{silent.getsockname()[1]}"
        cluster = opened(etcd, prefix, "node-a", endpoints=[silent_one, etcd.endpoint])
        assert cluster.take((claim("10.9.0.5"),), owner("a")) == ()
        connections = len(silent_connections(silent))
        cluster.give_back((claim("10.9.0.5"),), owner("a"))
        assert connections == 1
        assert silent_connections(silent) == []


@pytest.mark.parametrize("silent_ones", [1, 2])
def test_silent_endpoints_leave_enough_of_a_short_time_to_the_one_that_answers(etcd, prefix, silent_ones):
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(silent_ones)]
        endpoints = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in silent]
        cluster = opened(etcd, prefix, "node-a", 2.0, endpoints=[*endpoints, etcd.endpoint])
        assert cluster.take((claim("10.9.0.5"),), owner("a")) == ()


def silent_connections(server: socket.socket) -> list[object]:
    """The connections that wait to be accepted."""
    server.setblocking(False)
    found: list[object] = []
    with suppress(BlockingIOError):
        while True:
            connection, _address = server.accept()
            connection.close()
            found.append(connection)
    return found


def test_when_no_endpoint_answers_a_call_is_try_again_later_within_its_bound(prefix):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = (silent.getsockname()[1], free_port())
        cluster_conf: Any = {"endpoints": [f"http://127.0.0.1:{port}" for port in ports], "node": "node-a"}
        cluster = open_etcd(cluster_conf, NETWORK, 0.5, ROOTS)
        started = time.monotonic()
        with pytest.raises(TryAgainLater):
            cluster.take((claim("10.9.0.5"),), owner("a"))
        assert time.monotonic() - started < LATEST
        with pytest.raises(NotAvailable):
            cluster.reach()


def test_a_member_without_a_leader_is_passed_over_and_alone_it_is_try_again_later(prefix):
    with three_members() as members, EtcdServer() as well:
        lonely = opened(members[0], prefix, "node-a", 2.0)
        lonely.reach()
        members[1].kill()
        assert opened(members[0], prefix, "node-a").take((claim("10.9.0.5"),), owner("a")) == ()
        members[2].kill()
        with pytest.raises(TryAgainLater):
            lonely.take((claim("10.9.0.6"),), owner("a"))
        with pytest.raises(NotAvailable):
            lonely.reach()
        cluster = opened(well, prefix, "node-a", endpoints=[members[0].endpoint, well.endpoint])
        assert cluster.take((claim("10.9.0.7"),), owner("a")) == ()


def test_what_was_taken_is_there_after_etcd_was_killed(prefix):
    with EtcdServer() as server:
        cluster = opened(server, prefix, "node-a")
        assert cluster.take((claim("10.9.0.5"),), owner("a")) == ()
        server.kill()
        server.start()
        assert cluster.take((claim("10.9.0.5"),), owner("b")) == (claim("10.9.0.5"),)


def test_a_call_goes_on_when_etcd_comes_back_within_its_bound(prefix):
    with EtcdServer() as server:
        cluster = opened(server, prefix, "node-a")
        cluster.reach()
        server.kill()
        server.start(wait=False)
        assert cluster.take((claim("10.9.0.5"),), owner("a")) == ()


# Authentication


def test_a_server_of_another_authority_is_not_trusted(secure, prefix):
    stranger = certificates().stranger.certificate
    with pytest.raises(NotAvailable, match="certificate") as raised:
        opened(secure, prefix, "node-a", caFile=str(stranger)).take((claim("10.9.0.5"),), owner("a"))
    assert "caFile" in raised.value.hint


def test_a_client_without_a_certificate_is_refused(secure, prefix):
    cluster = opened(secure, prefix, "node-a", 2.0, certFile="", keyFile="")
    with pytest.raises((NotAvailable, TryAgainLater)):
        cluster.take((claim("10.9.0.5"),), owner("a"))
    assert secure.values(prefix) == {}


def test_something_that_is_no_etcd_is_not_available(prefix):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        serving = threading.Thread(target=server.handle_request, daemon=True)
        serving.start()
        cluster = open_etcd(
            {"endpoints": [f"http://127.0.0.1:{server.server_port}"], "node": "a"}, NETWORK, SECONDS, ROOTS
        )
        with pytest.raises((NotAvailable, TryAgainLater), match="501"):
            cluster.held((claim("10.9.0.5"),), owner("a"))
        serving.join(SECONDS)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": "http://127.0.0.1:2379"}, "endpoints"),
        ({"endpoints": ["127.0.0.1:2379"]}, "not an endpoint"),
        ({"endpoints": ["http://127.0.0.1:port"]}, "not an endpoint"),
        ({"endpoints": ["http://:2379"]}, "not an endpoint"),
        ({"endpoints": ["http://a b:2379"]}, "not an endpoint"),
        ({"endpoints": [2379]}, "not an endpoint"),
        ({"prefix": "no-slash"}, "prefix"),
        ({"node": ""}, "node"),
        ({"node": "a/b"}, "node"),
        ({"caFile": "{folder}/absent"}, r"caFile: .*/absent does not exist"),
        ({"caFile": "/dev/null"}, r"caFile: .*is not below"),
        ({"caFile": "{folder}/empty"}, "is empty"),
        ({"certFile": "{folder}/text"}, "must be set together"),
    ],
)
def test_a_document_that_cannot_be_right_is_refused(wrong, words, tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "text").write_text("text")
    found = {key: text.format(folder=tmp_path) if isinstance(text, str) else text for key, text in wrong.items()}
    cluster_conf: Any = {"endpoints": ["http://127.0.0.1:2379"], "node": "node-a", **found}
    with pytest.raises(InvalidConfig, match=words):
        open_etcd(cluster_conf, NETWORK, 1.0, ROOTS)


@pytest.mark.parametrize(
    ("endpoint", "host", "port", "secure"),
    [
        ("http://10.0.0.1:4001", "10.0.0.1", 4001, False),
        ("https://etcd.example", "etcd.example", 2379, True),
        ("https://[fd00::1]:2379/", "fd00::1", 2379, True),
        ("https://[fd00::1]", "fd00::1", 2379, True),
    ],
)
def test_an_endpoint_is_understood(endpoint, host, port, secure):
    (server,) = servers({"endpoints": [endpoint]}, ROOTS)
    assert (server.host, server.port, server.secure) == (host, port, secure)

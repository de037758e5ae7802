"""Requests to etcd version 3 through its JSON gateway, with several endpoints and one deadline.

Only the backend `etcd` imports this module, because TLS and HTTP are slow to load.
"""

from __future__ import annotations

import binascii
import time

from cni import jsontext
from cni.errors import CniError, DecodeFailure, InvalidConfig, KubeRefused, NotAvailable, TryAgainLater
from cni.kube.config import Cluster as Server
from cni.kube.connection import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.host.trusted import Roots
    from cni.jsontext import JsonObject
    from ipam.store import ClusterConf

PORT = 2379
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.3
"""Seconds between two rounds through all endpoints; an election takes about a second."""

SHARE = 3.0
"""The longest wait for one endpoint, in seconds, while another one has not been tried."""

_PORTS = {"http": False, "https": True}
_LATER = frozenset((408, 429, 500, 502, 503, 504))
FOREIGN = "check that it is etcd 3.4 or later, and that it grants access"


class Gateway:
    """Tries the endpoints in turn until one responds. The next request starts with that endpoint."""

    def __init__(self, servers: tuple[Server, ...], seconds: float) -> None:
        self._connections = [Connection(server, 0.0, "etcd") for server in servers]
        self._seconds = seconds
        self.cluster_id, self.revision = "", 0
        """The values of the last response."""
        self.latest = float("inf")
        """The deadline of the current call in monotonic seconds; see `until`."""

    def __del__(self) -> None:
        # A call sends two or three requests over one connection, and its user cannot tell which is the last.
        for connection in self._connections:
            connection.close()

    def until(self, deadline: float) -> Until:
        """Returns a context manager in which no request exceeds the deadline.

        The deadline is in monotonic seconds; that of an outer context applies as well.
        """
        return Until(self, deadline)

    def ask(self, path: str, question: Mapping[str, Any]) -> JsonObject:
        """The response to a request that may be sent twice, because it is repeated if a response is lost.

        Raises `TryAgainLater` if there is no response in time (the request may have been applied, or may still be), and
        `NotAvailable` if every endpoint refuses.
        """
        deadline, pause = min(time.monotonic() + self._seconds, self.latest), FIRST_PAUSE
        body = jsontext.dumps(question).encode()
        while True:
            failures = []
            for i, connection in enumerate(tuple(self._connections)):
                try:
                    connection.extend(_until(deadline, len(self._connections) - i))
                    answer = _answer(connection, path, body)
                except CniError as error:
                    failures.append(error)
                else:
                    self._connections.remove(connection)
                    self._connections.insert(0, connection)
                    self.cluster_id, self.revision = _header(answer)
                    return answer
            self._give_up(failures, time.monotonic() + pause >= deadline)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _give_up(self, failures: list[CniError], is_late: bool) -> None:
        passing = [error for error in failures if isinstance(error, TryAgainLater)]
        if passing and not is_late:
            return
        last = (passing or failures)[-1]
        for other in failures:
            if other is not last:
                last.add_note(str(other))
        raise last


class Until:
    """See `Gateway.until`."""

    def __init__(self, gateway: Gateway, deadline: float) -> None:
        self._gateway = gateway
        self._deadline = deadline

    def __enter__(self) -> None:
        self._before = self._gateway.latest
        self._gateway.latest = min(self._before, self._deadline)

    def __exit__(self, *_exc: object) -> None:
        self._gateway.latest = self._before


def servers(cluster_conf: ClusterConf, certificates: Roots) -> tuple[Server, ...]:
    """The endpoints of a cluster_conf (endpoints, caFile, certFile, keyFile). Raises `InvalidConfig`.

    `certificates` are the directories of the files.
    """
    endpoints = cluster_conf.get("endpoints")
    if not isinstance(endpoints, (list, tuple)) or not endpoints:
        raise InvalidConfig("etcd: endpoints are missing")
    identity: JsonObject = {
        "authority": _pem(cluster_conf, "caFile", certificates),
        "certificate": _pem(cluster_conf, "certFile", certificates),
        "key": _pem(cluster_conf, "keyFile", certificates),
    }
    if bool(identity["certificate"]) != bool(identity["key"]):
        raise InvalidConfig("etcd: certFile and keyFile must be set together")
    return tuple(_server(endpoint, identity) for endpoint in endpoints)


def _until(deadline: float, untried: int) -> float:
    """Divides the remaining time, so that the last endpoint gets as much of it as a silent first one."""
    now = time.monotonic()
    return deadline if untried == 1 else now + min(SHARE, max(deadline - now, 0.0) / untried)


def to_base64(content: bytes) -> str:
    return binascii.b2a_base64(content, newline=False).decode()


def from_base64(text: str) -> bytes:
    return binascii.a2b_base64(text)


def _answer(connection: Connection, path: str, body: bytes) -> JsonObject:
    try:
        status, content = connection.ask("POST", path, body, "application/json")
        answer = jsontext.loads(content) if status == 200 else None
    except KubeRefused as error:
        raise NotAvailable(error.msg, hint="compare endpoints, caFile, certFile and keyFile of etcd") from error
    except DecodeFailure as error:
        raise NotAvailable(f"the {connection.server} does not respond with JSON", hint=FOREIGN) from error
    if status in _LATER:
        # For example an endpoint without a leader. A change may have been applied nevertheless.
        raise TryAgainLater(f"the {connection.server} cannot serve the request: {status} {_words(content)}")
    if not isinstance(answer, dict):
        raise NotAvailable(f"the {connection.server} refuses the request: {status} {_words(content)}", hint=FOREIGN)
    if not _has_form(answer):
        raise NotAvailable(f"the {connection.server} does not respond like etcd's gateway", hint=FOREIGN)
    return answer


def _header(answer: JsonObject) -> tuple[str, int]:
    """The cluster's ID and revision; empty and 0 if they are invalid."""
    header = answer.get("header")
    fields = header if isinstance(header, dict) else {}
    cluster, revision = str(fields.get("cluster_id", "")), str(fields.get("revision", ""))
    return cluster if _is_number(cluster) else "", int(revision) if _is_number(revision) else 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20


def _has_form(answer: JsonObject) -> bool:
    """Whether a response has the expected structure: a network's author may have named the server."""
    answers = answer.get("responses", [])
    if not isinstance(answers, list) or not all(isinstance(part, dict) for part in answers):
        return False
    ranges = [answer, *(part.get("response_range", {}) for part in answers)]
    return all(
        isinstance(range_, dict) and _is_count(range_) and _has_entries(range_.get("kvs", [])) for range_ in ranges
    )


def _is_count(answer: JsonObject) -> bool:
    count = str(answer.get("count", "0"))
    return count.isascii() and count.isdecimal() and len(count) < 20


def _has_entries(entries: object) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("value", ""), str)
        and isinstance(entry.get("mod_revision", ""), str)
        and _is_base64(entry.get("key"))
        for entry in entries
    )


def _is_base64(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(binascii.a2b_base64(text))
    except ValueError:
        return False


def _words(content: bytes) -> str:
    try:
        document = jsontext.loads(content)
        return str(document.get("message") or document.get("error"))
    except (DecodeFailure, AttributeError):
        return repr(content[:100])


def _server(endpoint: Any, identity: JsonObject) -> Server:
    scheme, _, authority = endpoint.partition("://") if isinstance(endpoint, str) else ("", "", "")
    host, colon, port = authority.rstrip("/").rpartition(":")
    if not colon or port.endswith("]"):
        host, port = authority.rstrip("/"), str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    if scheme not in _PORTS or not _is_host(host) or not (port.isascii() and port.isdecimal() and len(port) < 6):
        raise InvalidConfig(f"etcd: {endpoint!r} is not an endpoint such as https://10.0.0.1:{PORT}")
    return Server(host=host, port=int(port), secure=_PORTS[scheme], origin="etcd", **identity)


def _is_host(text: str) -> bool:
    return bool(text) and text.isascii() and text.replace(".", "").replace("-", "").replace(":", "").isalnum()


def _pem(cluster_conf: ClusterConf, key: str, certificates: Roots) -> bytes:
    path = cluster_conf.get(key)
    if not path:
        return b""
    content = certificates.content(str(path), f"etcd: {key}")
    if not content.strip():
        # An empty file would count as none, and any authority of the system would be accepted.
        raise InvalidConfig(f"etcd: {key} {path} is empty")
    return content

"""Pods at the API server: read one, change its annotations without losing anybody else's change."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
import time

from cni import jsontext
from cni.errors import CniError, InvalidConfig, KubeRefused, PodNotFound, TryAgainLater
from cni.kube.config import Cluster, from_kubeconfig, in_cluster

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Answer = TypeVar("Answer")
    Change = Callable[[dict[str, Any]], dict[str, str | None]]

LARGEST_ANSWER = 8 << 20
"""Bytes. An object has at most about 1.5 MiB in etcd."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
"""Seconds between tries after a conflict: the kubelet and Multus write at the same moment, once each, mostly."""

_MERGE_PATCH = "application/merge-patch+json"
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
_LATER = (408, 425, 429, 500, 502, 503, 504)


def open_pods(kubeconfig: str, seconds: float) -> Pods:
    """The pods behind a kubeconfig, or with "" behind the service account's credentials; `seconds` bound each call."""
    cluster = from_kubeconfig(kubeconfig) if kubeconfig else in_cluster(os.environ)
    return Pods(cluster, seconds)


class Pods:
    """Every call ends within the seconds, whatever the server does; then it is `TryAgainLater`.

    Raises also `PodNotFound`, `KubeRefused` and `InvalidConfig`.
    """

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        self._cluster = cluster
        self._seconds = seconds

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        """The pod's object."""
        path = _path(namespace, name)
        return _bounded(self._seconds, lambda talk: self._get(talk, path), self._cluster)

    def change_annotations(self, namespace: str, name: str, uid: str, change: Change) -> None:
        """Applies the changes that `change` finds to be made of the pod as it is (None removes an annotation).

        When somebody else has written meanwhile, the pod is read again and the changes are found anew. With a `uid`,
        another pod of the same name is left alone: `PodNotFound`.
        """
        path = _path(namespace, name)
        _bounded(self._seconds, lambda talk: self._change(talk, path, uid, change), self._cluster)

    def _get(self, talk: _Talk, path: str) -> dict[str, Any]:
        status, document = talk.ask("GET", path)
        if status != 200:
            raise self._refusal("get", "pods", path, status, document)
        return document

    def _change(self, talk: _Talk, path: str, uid: str, change: Change) -> None:
        pause = FIRST_PAUSE
        while True:
            pod = self._get(talk, path)
            metadata = pod.get("metadata") or {}
            if uid and metadata.get("uid") != uid:
                raise PodNotFound(f"{path} is another pod now: its UID is {metadata.get('uid')}, not {uid}")
            changes = change(pod)
            if not changes:
                return
            patch = {"metadata": {"resourceVersion": metadata.get("resourceVersion"), "annotations": changes}}
            # The right to patch the status is the narrowest that can write annotations.
            status, document = talk.ask("PATCH", f"{path}/status", jsontext.dumps(patch).encode())
            if status == 200:
                return
            if status != 409:
                raise self._refusal("patch", "pods/status", path, status, document)
            talk.pause(pause, "others change the pod all the time (conflict)")
            pause = min(pause * 2, LONGEST_PAUSE)

    def _refusal(self, verb: str, resource: str, path: str, status: int, document: dict[str, Any]) -> CniError:
        words = str(document.get("message") or "no reason is given")
        if status == 404:
            return PodNotFound(f"the API server has no pod {path}: {words}")
        if status in _LATER:
            return TryAgainLater(f"the API server cannot {verb} {path} now: {status} {words}")
        hints = {
            401: f"the credentials of {self._cluster.origin} are not valid (any more)",
            403: f"grant {verb} on {resource} to the user of {self._cluster.origin}",
        }
        return KubeRefused(f"the API server refused to {verb} {path}: {status} {words}", hint=hints.get(status, ""))


class _Talk:
    """One connection at a time, until a deadline in monotonic seconds."""

    def __init__(self, cluster: Cluster, deadline: float) -> None:
        self._cluster = cluster
        self._deadline = deadline
        self._connection: http.client.HTTPConnection | None = None
        self.abandoned = False

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """(status, document) of the answer. Raises `TryAgainLater`, `KubeRefused` for what is no answer of an API server."""
        headers = {"Accept": "application/json", "User-Agent": "barewire"}
        if self._cluster.token:
            headers["Authorization"] = f"Bearer {self._cluster.token}"
        if body is not None:
            headers["Content-Type"] = _MERGE_PATCH
        try:
            connection = self._connected()
            connection.request(method, self._cluster.prefix + path, body, headers)
            answer = connection.getresponse()
            text = answer.read(LARGEST_ANSWER + 1)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise KubeRefused(
                f"the certificate of {self._server} is not valid: {error.verify_message}",
                hint=f"compare certificate-authority and server in {self._cluster.origin}",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise TryAgainLater(
                f"the API server {self._server} did not answer: {_words(error)}", hint="is it running, and reachable?"
            ) from error
        return answer.status, self._document(answer.status, text)

    def pause(self, seconds: float, why: str) -> None:
        """Waits; when that would take too long it says why there was anything to wait for."""
        if time.monotonic() + seconds >= self._deadline:
            raise TryAgainLater(f"the API server {self._server}: {why}")
        time.sleep(seconds)

    def close(self) -> None:
        """Hangs up, also on a call of another thread."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.sock is not None:
            with contextlib.suppress(OSError):  # it was not connected any more
                connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0 or self.abandoned:
            raise TimeoutError
        if self._connection is None:
            self._connection = _connection(self._cluster, remaining)
        if self._connection.sock is not None:
            self._connection.sock.settimeout(remaining)
        return self._connection

    def _document(self, status: int, text: bytes) -> dict[str, Any]:
        document: Any = None
        if len(text) <= LARGEST_ANSWER:
            try:
                document = jsontext.loads(text)
            except CniError:
                document = None
        if isinstance(document, dict):
            return document
        if status == 200:
            raise KubeRefused(f"{self._server} answered with something that is no object of Kubernetes")
        return {"message": text[:200].decode(errors="replace")}

    @property
    def _server(self) -> str:
        return f"{self._cluster.host}:{self._cluster.port}"


def _bounded(seconds: float, work: Callable[[_Talk], Answer], cluster: Cluster) -> Answer:
    """Runs the work in a thread that is left behind when its time is over.

    Time-outs of sockets do not bound a name's look-up, nor a server that sends a byte now and then.
    """
    talk = _Talk(cluster, time.monotonic() + seconds)
    outcome: list[Answer] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work(talk))
        except BaseException as error:  # noqa: BLE001 - it is raised again, in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        talk.abandoned = True
    talk.close()
    if failure:
        raise failure[0]
    if not outcome:
        raise TryAgainLater(
            f"the API server {cluster.host}:{cluster.port} did not answer within {seconds:g} s",
            hint="is it running, and reachable?",
        )
    return outcome[0]


def _connection(cluster: Cluster, seconds: float) -> http.client.HTTPConnection:
    if not cluster.secure:
        return http.client.HTTPConnection(cluster.host, cluster.port, timeout=seconds)
    return _Secure(cluster, seconds)


class _Secure(http.client.HTTPSConnection):
    """A connection whose server may have another name in its certificate than in its address."""

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        self._tls = _context(cluster)
        self._server_name = cluster.server_name or cluster.host
        super().__init__(cluster.host, cluster.port, timeout=seconds, context=self._tls)

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name)


def _context(cluster: Cluster) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if not cluster.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif cluster.authority:
            context.load_verify_locations(cadata=cluster.authority.decode())
        else:
            context.load_default_certs()
        if cluster.certificate:
            _load_identity(context, cluster)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfig(f"kubeconfig {cluster.origin}: a certificate or key is not valid PEM: {error}") from error
    return context


def _load_identity(context: ssl.SSLContext, cluster: Cluster) -> None:
    # OpenSSL's Python side reads keys from files only; this one is in memory and nobody else's.
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(fd, cluster.certificate + b"\n" + cluster.key)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _path(namespace: str, name: str) -> str:
    for what, text in (("namespace", namespace), ("name", name)):
        if not 0 < len(text) <= 253 or not _NAME_CHARACTERS.issuperset(text) or text[0] in ".-":
            raise InvalidConfig(f"CNI_ARGS: {text!r} is not the {what} of a pod")
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__} {error}".strip()

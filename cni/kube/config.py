"""Access to an API server: from a kubeconfig, or with the credentials of a pod.

Programs in a kubeconfig are never run.
"""

from __future__ import annotations

import binascii
import os

from cni.errors import InvalidConfig
from cni.host.trusted import Roots
from cni.kube.access import SERVICE_ACCOUNT, of_service_account
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.jsontext import JsonObject
    from cni.kube.access import Access

_MOST_NESTED = 2000
"""Maximum number of nesting characters in a file for libyaml, so that its recursion fits into any stack."""

_UNUSABLE = {
    "context": (),
    "cluster": ("proxy-url",),
    # Impersonation reduces rights. Ignoring it would give us more rights than the kubeconfig intends.
    "user": ("exec", "auth-provider", "username", "password", "as", "as-uid", "as-groups", "as-user-extra"),
}
_PORTS = {"https": 443, "http": 80}
_HOST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:")
_PATH = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/:~")


class Cluster(Value):
    """An API server and our credentials. Certificates and keys are in PEM, empty if there are none.

    `verify` False trusts any server. `server_name` is the required name in the certificate, empty for the host.
    `token_file` is read in each call, from one of `token_places`, and has priority over `token`. `origin` is the
    source, for messages. `namespace` is the namespace of the context, or empty.
    """

    host: str
    port: int
    prefix: str = ""
    secure: bool = True
    verify: bool = True
    server_name: str = ""
    authority: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    token: str = ""
    token_file: str = ""
    token_places: Roots = Roots(allowed=())
    origin: str = ""
    namespace: str = ""


def open_cluster(kubeconfig: str, access: Access) -> Cluster:
    """The cluster of that kubeconfig; without one, the cluster of the node's kubeconfig, or of a pod's credentials.

    Raises `InvalidConfig`.
    """
    chosen = access.chosen(kubeconfig)
    return from_kubeconfig(chosen, access) if chosen else in_cluster(os.environ)


def from_kubeconfig(path: str, access: Access) -> Cluster:
    """The cluster and user of the file's current context. Raises `InvalidConfig` with the name of the file."""
    document = _yaml(path, access.kubeconfigs())
    files = _Files(path, access.files(path))
    try:
        context = _named(document, "context", _text(document, "current-context", required=True))
        cluster = _named(document, "cluster", _text(context, "cluster", required=True))
        user = _named(document, "user", _text(context, "user")) if context.get("user") else {}
        namespace = _text(context, "namespace")
        found = Cluster(**_server(cluster, files), **_identity(user, files), origin=path, namespace=namespace)
        if not found.secure and (found.token or found.token_file):
            raise ValueError(f"server {found.host} is http://, which would show the token to others: use https://")
    except ValueError as error:
        raise InvalidConfig(f"kubeconfig {path}: {error}") from error
    return found


def in_cluster(environment: Mapping[str, str], folder: str = SERVICE_ACCOUNT) -> Cluster:
    """The access that every pod has by its service account. Raises `InvalidConfig`."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not _is_port(port) or not _HOST.issuperset(host):
        raise InvalidConfig("there is no API access", hint="set kubeconfig: no pod's credentials are here")
    places = of_service_account(folder)
    authority = places.content(f"{folder}/ca.crt", "the pod's credentials")
    if not authority.strip():
        raise InvalidConfig(f"{folder}/ca.crt is empty")
    return Cluster(
        host=host,
        port=int(port),
        authority=authority,
        token_file=f"{folder}/token",
        token_places=places,
        origin=folder,
    )


def token_of(cluster: Cluster) -> str:
    """The bearer token as it is now; empty without one. Raises `InvalidConfig`, which does not contain it."""
    if not cluster.token_file:
        return cluster.token
    content = cluster.token_places.content(cluster.token_file, f"the token of {cluster.origin}")
    token = content.decode("ascii", "replace").strip()
    if not token or not _is_token(token):
        raise InvalidConfig(f"{cluster.token_file} contains no token")
    return token


class _Files:
    """Reads the files that a kubeconfig names, with paths relative to it."""

    def __init__(self, kubeconfig: str, places: Roots) -> None:
        self._kubeconfig = kubeconfig
        self._places = places

    def path(self, name: str) -> str:
        return os.path.join(os.path.dirname(self._kubeconfig), name)

    def places(self, name: str) -> Roots:
        in_pod = self.path(name).startswith(f"{SERVICE_ACCOUNT}/")
        return of_service_account() if in_pod else self._places

    def content(self, name: str, key: str) -> bytes:
        return self.places(name).content(self.path(name), f"kubeconfig {self._kubeconfig}: {key}")


def _yaml(path: str, places: Roots) -> JsonObject:
    import yaml  # noqa: PLC0415 - in-cluster access does not pay for it

    content = places.content(path, "kubeconfig")
    # libyaml reads it in a ninth of the time (1.1 ms in Python, measured). But its recursion has no limit, and a text
    # of brackets would crash the process: each level of nesting needs one of these characters.
    nests = sum(map(content.count, (b"[", b"{", b"-", b"?", b":")))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if nests < _MOST_NESTED else yaml.SafeLoader
    try:
        document = yaml.load(content, Loader=loader)  # noqa: S506 - both are safe loaders
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # The text of the error quotes the file, which contains secrets.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise InvalidConfig(f"kubeconfig {path}: not YAML{where}") from None
    if not isinstance(document, dict):
        raise InvalidConfig(f"kubeconfig {path}: not a kubeconfig")
    return document


def _named(document: Mapping[str, Any], kind: str, name: str) -> JsonObject:
    """The body of the context, cluster or user of that name.

    Raises `ValueError`, also if it needs unsupported features.
    """
    entries = document.get(f"{kind}s")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name:
            return _usable(kind, name, entry.get(kind))
    raise ValueError(f"{kind}s has no {name!r}")


def _usable(kind: str, name: str, body: Any) -> JsonObject:
    if not isinstance(body, dict):
        raise ValueError(f"{kind} {name!r} is empty")
    unusable = [key for key in _UNUSABLE[kind] if body.get(key)]
    if unusable:
        raise ValueError(f"{kind} {name!r}: not supported: {', '.join(unusable)}; use a token or a client certificate")
    return body


def _server(cluster: Mapping[str, Any], files: _Files) -> JsonObject:
    """The fields of `Cluster` about the server."""
    url = _text(cluster, "server", required=True)
    scheme, _, rest = url.partition("://")
    if scheme not in _PORTS:
        raise ValueError("server is neither https:// nor http://")
    place, slash, prefix = rest.partition("/")
    if not _PATH.issuperset(prefix) or ".." in prefix:
        raise ValueError(f"server: {slash + prefix!r} is not a path")
    insecure, authority = cluster.get("insecure-skip-tls-verify"), _pem(cluster, "certificate-authority", files)
    if insecure not in (None, True, False):
        raise ValueError("insecure-skip-tls-verify is neither true nor false")
    if insecure and authority:
        raise ValueError("insecure-skip-tls-verify and certificate-authority exclude each other")
    host, port = _host_and_port(place, str(_PORTS[scheme]))
    return {
        "host": host,
        "port": port,
        "prefix": (slash + prefix).rstrip("/"),
        "secure": scheme == "https",
        "verify": not insecure,
        "server_name": _host(_text(cluster, "tls-server-name")),
        "authority": authority,
    }


def _identity(user: Mapping[str, Any], files: _Files) -> JsonObject:
    """The fields of `Cluster` about our credentials."""
    certificate, key = _pem(user, "client-certificate", files), _pem(user, "client-key", files)
    if bool(certificate) != bool(key):
        raise ValueError("client-certificate and client-key go together")
    token, token_file = _text(user, "token"), _text(user, "tokenFile")
    if not _is_token(token):
        raise ValueError("token contains invalid characters")
    found = {"certificate": certificate, "key": key, "token": token}
    if not token_file:
        return found
    return {**found, "token_file": files.path(token_file), "token_places": files.places(token_file)}


def _host_and_port(place: str, port: str) -> tuple[str, int]:
    """Of host, host:port, [address] or [address]:port."""
    host, colon, told = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, told = place, port
    if not _is_port(told):
        raise ValueError("server: invalid port")
    return _host(host[1:-1] if host[:1] + host[-1:] == "[]" else host, required=True), int(told)


def _host(name: str, *, required: bool = False) -> str:
    if not _HOST.issuperset(name) or name.startswith((".", "-")) or (required and not name):
        raise ValueError(f"{name!r} is not the name or address of a host")
    return name


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 1 << 16


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _text(section: Mapping[str, Any], key: str, *, required: bool = False) -> str:
    value = section.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise ValueError(f"{key} is missing" if not value else f"{key} is not text: put it in quotes")
    return value


def _pem(section: Mapping[str, Any], key: str, files: _Files) -> bytes:
    """The content of `<key>-data`, or of the file that `<key>` names; empty if both are missing."""
    data, path = _text(section, f"{key}-data"), _text(section, key)
    if not data and not path:
        return b""
    content = _decoded(key, data) if data else files.content(path, key)
    if not content.strip():
        # Empty would mean that none is configured, and any authority of the system would be accepted.
        raise ValueError(f"{key} is empty")
    return content


def _decoded(key: str, data: str) -> bytes:
    try:
        return binascii.a2b_base64("".join(data.split()), strict_mode=True)
    except ValueError as error:
        raise ValueError(f"{key}-data is not base64") from error

"""Access to an API server: from a kubeconfig, or the credentials that a pod has. Programs named there are never run."""

from __future__ import annotations

import base64
import os

from cni.errors import InvalidConfig
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
LARGEST_FILE = 1 << 20
_REFUSED = ("exec", "auth-provider", "username", "password")


class Cluster(Value):
    """An API server and how we prove who we are. Certificates and keys are PEM text, empty where there are none.

    `verify` False trusts any server, as the kubeconfig says. `server_name` is whom the certificate must name, empty:
    the host.
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
    origin: str = ""


def from_kubeconfig(path: str) -> Cluster:
    """The cluster and user of the file's current context. Raises `InvalidConfig`, which names the file."""
    import yaml  # noqa: PLC0415 - in-cluster access does not pay for it

    try:
        document = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise InvalidConfig(f"kubeconfig {path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        context = _named(document, "contexts", "context", document["current-context"])
        cluster = _named(document, "clusters", "cluster", context["cluster"])
        user = _named(document, "users", "user", context["user"]) if context.get("user") else {}
        return _cluster(path, cluster, user)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidConfig(f"kubeconfig {path}: {_problem(error)}") from error


def in_cluster(environment: Mapping[str, str], folder: str = SERVICE_ACCOUNT) -> Cluster:
    """The access that every pod has by its service account. Raises `InvalidConfig`."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isdecimal():
        raise InvalidConfig("annotations: there is no API access", hint="set kubeconfig, or annotations to false")
    return Cluster(
        host=host,
        port=int(port),
        authority=_read(f"{folder}/ca.crt"),
        token=_read(f"{folder}/token").decode().strip(),
        origin=folder,
    )


def _cluster(path: str, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> Cluster:
    unusable = [key for key in _REFUSED if user.get(key)] + [key for key in ("proxy-url",) if cluster.get(key)]
    if unusable:
        raise ValueError(f"{', '.join(unusable)}: not supported; use a token or a client certificate")
    scheme, _, rest = cluster["server"].partition("://")
    if scheme not in ("https", "http"):
        raise ValueError(f"server {cluster['server']!r} is neither https:// nor http://")
    place, slash, prefix = rest.partition("/")
    host, port = _host_and_port(place, 443 if scheme == "https" else 80)
    folder = os.path.dirname(os.path.abspath(path))
    return Cluster(
        host=host,
        port=port,
        prefix=(slash + prefix).rstrip("/"),
        secure=scheme == "https",
        verify=not cluster.get("insecure-skip-tls-verify"),
        server_name=cluster.get("tls-server-name") or "",
        authority=_data_or_file(cluster, "certificate-authority", folder),
        certificate=_data_or_file(user, "client-certificate", folder),
        key=_data_or_file(user, "client-key", folder),
        token=_token(user, folder),
        origin=path,
    )


def _host_and_port(place: str, default: int) -> tuple[str, int]:
    host, bracket, port = place.rpartition("]:") if place.startswith("[") else place.rpartition(":")
    if place.startswith("["):
        host, port = (host[1:], port) if bracket else (place[1:-1], str(default))
    elif not bracket:
        host, port = place, str(default)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"server: {place!r} is not a host with a port")
    return host, int(port)


def _data_or_file(section: Mapping[str, Any], key: str, folder: str) -> bytes:
    if section.get(f"{key}-data"):
        return base64.b64decode(section[f"{key}-data"], validate=True)
    return _read(os.path.join(folder, section[key])) if section.get(key) else b""


def _token(user: Mapping[str, Any], folder: str) -> str:
    # As client-go does: the file is newer than the text beside it.
    if user.get("tokenFile"):
        return _read(os.path.join(folder, user["tokenFile"])).decode().strip()
    return user.get("token") or ""


def _named(document: Mapping[str, Any], section: str, kind: str, name: str) -> dict[str, Any]:
    for entry in document[section]:
        if entry["name"] == name:
            found: dict[str, Any] = entry[kind]
            return found
    raise ValueError(f"{section} has no {name!r}")


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    with open(fd, "rb") as file:
        return file.read(LARGEST_FILE)


def _problem(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)

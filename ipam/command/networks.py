"""Discovers this node's networks in configurations, records, the journal, and host-local's directories."""

from __future__ import annotations

import os

from cni import jsontext
from cni.attachment.record import DamagedRecord, Key, decode as decode_record
from cni.errors import CniError, DecodeFailure, InvalidConfig
from cni.host.files import read_file
from cni.host.folders import DOCUMENT, documents, keys
from cni.log import Log
from cni.names import attachment_fault, is_identifier
from cni.protocol.request import without_call
from cni.value import Value
from ipam.cluster import journal_entry
from ipam.cluster.journal import RUN_DIRECTORY
from ipam.config.location import DATA_DIRECTORY, LOCAL, PLUGIN, lease_location
from ipam.config.policy import Policy
from ipam.config.request import parse_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cni.attachment.record import Record
    from cni.jsontext import JsonObject
    from ipam.cluster.journal_entry import Entry
    from ipam.ranges import RangeSet
    from ipam.store import ClusterConf

STATE_DIRECTORY = "/var/lib/cni/barewire"
"""The directory of the records of `sriov` and `userspace`, and of the journal."""

_SERVED = (PLUGIN, "host-local")
"""The values of `ipam.type` whose leases we can list."""


DEFAULTS = Policy()


class Folders(Value):
    """The node's directories.

    `results` are those in which runtimes and Multus cache the results of ADD. `policy` applies to the paths in
    configurations and records.
    """

    data: str = DATA_DIRECTORY
    state: str = STATE_DIRECTORY
    run: str = RUN_DIRECTORY
    results: tuple[str, ...] = ("/var/lib/cni/results", "/var/lib/cni/multus/results")
    policy: Policy = DEFAULTS

    @property
    def journal(self) -> str:
        return f"{self.state}/.ipam"

    @property
    def index(self) -> str:
        return f"{self.run}/ipam"

    def directory_of(self, network: Network) -> str:
        """The directory of a network with backend local. Raises `InvalidConfig` if it is not permitted."""
        # The operator has named the directory of all networks.
        if os.path.dirname(network.directory) == self.data:
            return network.directory
        return self.policy.data_directory(network.directory)


class Network(Value):
    """The addresses of a network in one location: host-local's `directory`, or the cluster of `cluster_conf`.

    The cluster knows the network as `shared`. `sets` is empty if the ranges are unknown.
    """

    name: str
    backend: str
    directory: str = ""
    cluster_conf: ClusterConf | None = None
    shared: str = ""
    sets: tuple[RangeSet, ...] = ()

    @property
    def store(self) -> object:
        """A value that is equal for networks that keep their addresses in the same store."""
        return self.directory or (self.cluster_conf, self.shared)

    @property
    def node(self) -> str:
        return str((self.cluster_conf or {}).get("node") or os.uname().nodename)

    def __str__(self) -> str:
        if self.cluster_conf is None:
            return f"{self.name} ({self.directory})"
        return f"{self.name} ({describe(self.cluster_conf)}, network {self.shared})"


def describe(cluster_conf: ClusterConf) -> str:
    """A cluster, as messages show it."""
    if cluster_conf.get("kind") == "etcd":
        return f"etcd {','.join(map(str, cluster_conf.get('endpoints') or ()))} {cluster_conf.get('prefix') or ''}".rstrip()
    return f"kubernetes {cluster_conf.get('kubeconfig') or 'by the pod'}".rstrip()


def configured(path: str, policy: Policy = DEFAULTS) -> list[Network]:
    """The networks of a configuration, or of a list of them. Raises `InvalidConfig`."""
    content = read_file(os.path.abspath(path))
    if content is None:
        raise InvalidConfig(f"{path} does not exist")
    try:
        document = jsontext.loads(content)
    except DecodeFailure as error:
        raise InvalidConfig(
            f"{path}: {error.msg}", hint="use the JSON of a network configuration, or of a list of plugins"
        ) from error
    if not isinstance(document, dict):
        raise InvalidConfig(f"{path}: not an object")
    plugins = document.get("plugins", [document])
    shared = {key: document[key] for key in ("name", "cniVersion") if key in document}
    confs = [{**conf, **shared} for conf in plugins if isinstance(conf, dict)] if isinstance(plugins, list) else []
    networks = [_network(conf, policy) for conf in confs if _type(conf) in _SERVED]
    if not networks:
        raise InvalidConfig(f"{path}: no plugin has an ipam section of type {' or '.join(_SERVED)}")
    return networks


def discover(folders: Folders) -> list[Network]:
    """All networks that have left a trace on the node, each once, with ranges if a record has them."""
    networks: list[Network] = []
    traces = [*_of_records(folders), *_of_directories(folders)]
    traces += [_of_entry(entry) for entry in entries(folders) if isinstance(entry, journal_entry.Entry)]
    for network in traces:
        if (network.name, network.store) not in [(known.name, known.store) for known in networks]:
            networks.append(network)
    return sorted(networks, key=lambda network: (network.name, network.backend))


def entries(folders: Folders, networks: Iterable[str] | None = None) -> Iterator[Entry | str]:
    """The entries of the journal, or the path where a file is not an entry; of all networks or of those named."""
    # `Journal` would set damaged files aside, but a reader must not change anything.
    names = _names(folders.journal) if networks is None else sorted(set(networks))
    for name in names:
        folder = f"{folders.journal}/{name}"
        for file in documents(folder):
            content = _content(f"{folder}/{file}")
            try:
                yield from () if content is None else (_entry_of(content, name, file),)
            except ValueError:
                yield f"{folder}/{file}"


def records(folders: Folders) -> Iterator[Record | str]:
    """The attachments of `sriov` and `userspace` on this node, or the path where a file is not a record.

    Raises `IoFailure` for a file that cannot be read.
    """
    for network in _names(folders.state):
        for file in documents(f"{folders.state}/{network}"):
            path = f"{folders.state}/{network}/{file}"
            content = _content(path)
            try:
                yield from () if content is None else (decode_record(content, path),)
            except DamagedRecord:
                yield path


def damaged_records(folders: Folders) -> list[str]:
    """The paths of the files that are not records."""
    return [record for record in records(folders) if isinstance(record, str)]


def attached(folders: Folders) -> Iterator[Key]:
    """The keys of all records, from the file names alone, so that damaged records count as well."""
    for network in _names(folders.state):
        for file in documents(f"{folders.state}/{network}"):
            container_id, _, ifname = file.removesuffix(DOCUMENT).partition(":")
            if not attachment_fault(network, container_id, ifname):
                yield Key(network=network, container_id=container_id, ifname=ifname)


def _entry_of(content: bytes, network: str, file: str) -> Entry:
    """Raises `ValueError` if the content is not an entry of the network and file."""
    entry = journal_entry.decode(content)
    owner = entry.owner
    if (owner.network, f"{owner.container_id}:{owner.ifname}{DOCUMENT}") != (network, file):
        raise ValueError("it is another owner's")
    return entry


def _content(path: str) -> bytes | None:
    return read_file(path) if os.path.isfile(path) else None


def _of_directories(folders: Folders) -> Iterator[Network]:
    for name in _names(folders.data):
        if os.path.isdir(f"{folders.data}/{name}"):
            yield Network(name=name, backend=LOCAL, directory=f"{folders.data}/{name}")


def _of_records(folders: Folders) -> Iterator[Network]:
    """The networks of the delegate calls in records, which contain the whole configuration."""
    for record in records(folders):
        if isinstance(record, str):
            continue
        try:
            conf = jsontext.loads(str((record.ipam or {}).get("stdin") or "{}").encode())
            if isinstance(conf, dict) and _type(conf) in _SERVED:
                yield _network(conf, folders.policy)
        except CniError:
            continue  # It was valid for a former version of the plugin.


def _of_entry(entry: Entry) -> Network:
    kind = str(entry.cluster_conf.get("kind"))
    return Network(name=entry.owner.network, backend=kind, cluster_conf=entry.cluster_conf, shared=entry.shared)


def _type(conf: JsonObject) -> object:
    section = conf.get("ipam")
    return section.get("type") if isinstance(section, dict) else None


def _network(conf: JsonObject, policy: Policy) -> Network:
    request = without_call(conf, "", str(conf.get("cniVersion") or "1.0.0"))
    defaults = policy.defaults(request)
    location = lease_location(request, defaults)
    sets = parse_request(request, Log({}, level="error"), defaults).sets
    built = Network(name=location.network, backend=location.backend, sets=sets)
    if location.cluster_conf is None:
        return built.replace(directory=location.directory)
    # `ipam.cluster.store` completes it in the same way.
    cluster_conf: ClusterConf = {**location.cluster_conf, "node": location.node or policy.node_name()}
    return built.replace(cluster_conf=cluster_conf, shared=location.shared)


def _names(folder: str) -> list[str]:
    """The networks that have a folder in `folder`."""
    return [name for name in keys(folder) if is_identifier(name)]

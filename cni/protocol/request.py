"""The request of a runtime: the CNI_* environment and the JSON on stdin as one value, or an error of the specification.

Order, texts and codes of errors are the same as in the Go library `skel`, because runtimes and users know them.
"""

from __future__ import annotations

from cni import jsontext
from cni.errors import DecodeFailure, IncompatibleVersion, InvalidConfig, InvalidEnvironment
from cni.names import ifname_fault, is_identifier
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.jsontext import JsonObject
    from cni.protocol.result import Interface, Result

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

_ALL = frozenset(("ADD", "DEL", "CHECK"))
_NEEDED = (
    ("CNI_CONTAINERID", _ALL),
    ("CNI_NETNS", frozenset(("ADD", "CHECK"))),
    ("CNI_IFNAME", _ALL),
    ("CNI_PATH", frozenset(("ADD", "DEL", "CHECK", "GC", "STATUS"))),
)
"""The required variables with their commands, in the order in which messages list missing ones."""

COMMANDS = {"ADD": "0.1.0", "DEL": "0.1.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0", "VERSION": "0.1.0"}
"""The commands with the oldest cniVersion that defines each."""

VALID_ATTACHMENTS = "cni.dev/valid-attachments"
NO_LIST = f"GC: {VALID_ATTACHMENTS} is missing, so nothing is removed; an empty list removes all"


class Environment(Value):
    """The CNI_* variables, validated for their command."""

    command: str
    container_id: str
    netns: str
    ifname: str
    args: str
    path: tuple[str, ...]
    netns_may_be_own: bool
    variables: Mapping[str, str]


class Request(Value):
    """One call of a plugin. `config` is the decoded stdin, `stdin` the unchanged bytes (for delegates)."""

    command: str
    container_id: str
    netns: str
    ifname: str
    args: str
    path: tuple[str, ...]
    env: Mapping[str, str]
    network: str
    cni_version: str
    config: JsonObject
    stdin: bytes

    def prev_result(self) -> Result | None:
        """The result of the plugin before this one (ADD), or of the whole chain (CHECK, DEL).

        Raises `InvalidConfig`.
        """
        from cni.protocol import result  # noqa: PLC0415 - most calls have none, and then do not pay for the import

        document = self.config.get("prevResult")
        if document is None:
            return None
        if not isinstance(document, dict):
            raise InvalidConfig("prevResult: not an object")
        return result.decode(document, self.cni_version)

    def previous_interface(self) -> Interface | None:
        """The interface of this request in prevResult, or None."""
        previous = self.prev_result()
        for interface in previous.interfaces if previous else ():
            if interface.name == self.ifname and interface.sandbox == self.netns:
                return interface
        return None

    @property
    def valid_attachments(self) -> list[tuple[str, str]] | None:
        """GC's list of (container ID, ifname); None without a list. Raises `InvalidConfig` if it is malformed.

        libcni sends null for an empty list. A missing key, as `cnitool gc` sends it, means no list: it must not remove
        everything.
        """
        if VALID_ATTACHMENTS not in self.config:
            return None
        entries = self.config[VALID_ATTACHMENTS]
        if entries is None:
            return []
        try:
            pairs = [(entry["containerID"], entry["ifname"]) for entry in entries]
        except (TypeError, KeyError) as error:
            raise InvalidConfig(f"{VALID_ATTACHMENTS}: not a list of containerID and ifname") from error
        if not isinstance(entries, list) or not all(isinstance(part, str) for pair in pairs for part in pair):
            raise InvalidConfig(f"{VALID_ATTACHMENTS}: not a list of containerID and ifname")
        return pairs


def parse_environment(env: Mapping[str, str]) -> Environment:
    """The CNI_* variables. Raises `InvalidEnvironment`; a malformed name is reported before missing variables."""
    command = env.get("CNI_COMMAND", "")
    missing = [] if command else ["CNI_COMMAND"]
    for name, commands in _NEEDED:
        value = env.get(name, "")
        if command not in commands:
            continue
        if not value:
            missing.append(name)
        elif name == "CNI_CONTAINERID":
            _validate_container_id(value)
        elif name == "CNI_IFNAME":
            _validate_ifname(value)
    if missing:
        raise InvalidEnvironment(f"required env variables [{','.join(missing)}] missing")
    return Environment(
        command=command,
        container_id=env.get("CNI_CONTAINERID", ""),
        netns=env.get("CNI_NETNS", ""),
        ifname=env.get("CNI_IFNAME", ""),
        args=env.get("CNI_ARGS", ""),
        path=tuple(folder for folder in env.get("CNI_PATH", "").split(":") if folder),
        netns_may_be_own=env.get("CNI_NETNS_OVERRIDE", "").upper() in ("1", "TRUE"),
        variables=env,
    )


def without_call(config: JsonObject, command: str, cni_version: str) -> Request:
    """The request of a network configuration from a file, for code that reads it outside a runtime's call.

    Raises `InvalidConfig` if the configuration has no valid name.
    """
    name = config.get("name")
    if not is_identifier(name):
        raise InvalidConfig("missing network name")
    return Request(
        command=command,
        container_id="",
        netns="",
        ifname="",
        args="",
        path=(),
        env={},
        network=name,
        cni_version=cni_version,
        config=config,
        stdin=b"",
    )


def parse(environment: Environment, stdin: bytes) -> Request:
    """The whole request. Raises `DecodeFailure`, `InvalidConfig`, `IncompatibleVersion`, `InvalidEnvironment`."""
    config = _decoded(stdin)
    network = config.get("name")
    if network in (None, ""):
        raise InvalidConfig("missing network name")
    if not isinstance(network, str) or not is_identifier(network):
        raise InvalidConfig(
            "invalid characters found in network name",
            hint=network if isinstance(network, str) else jsontext.shown(network),
        )
    if environment.command not in COMMANDS:
        raise InvalidEnvironment(f"unknown CNI_COMMAND: {environment.command}")
    version = config.get("cniVersion")
    _check_version(environment.command, "0.1.0" if version in (None, "") else version)
    return Request(
        command=environment.command,
        container_id=environment.container_id,
        netns=environment.netns,
        ifname=environment.ifname,
        args=environment.args,
        path=environment.path,
        env=environment.variables,
        network=network,
        cni_version=version or "0.1.0",
        config=config,
        stdin=stdin,
    )


def _validate_container_id(text: str) -> None:
    if not is_identifier(text):
        raise InvalidEnvironment("invalid characters in containerID", hint=text)


def _validate_ifname(text: str) -> None:
    fault = ifname_fault(text)
    if fault is not None:
        message, hint = fault
        raise InvalidEnvironment(message, hint=hint)


def _decoded(stdin: bytes) -> JsonObject:
    try:
        config = jsontext.loads(stdin)
    except DecodeFailure as error:
        raise DecodeFailure(f"error unmarshall network config: {error.msg}") from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise DecodeFailure("error unmarshall network config: not a JSON object")
    # Go matches the keys of the protocol case-insensitively; an exact match has priority.
    return {
        **config,
        **{key: value for key in ("cniVersion", "name") if (value := jsontext.member(config, key)) is not None},
    }


def _check_version(command: str, version: object) -> None:
    if not isinstance(version, str):
        raise DecodeFailure(f"cniVersion: {jsontext.shown(version)} is not a version")
    if command not in ("ADD", "DEL"):
        _check_command_known(command, _numbers(version))
    if version not in VERSIONS:
        supported = " ".join(f'"{known}"' for known in VERSIONS)
        raise IncompatibleVersion(
            "incompatible CNI versions", hint=f'config is "{version}", plugin supports [{supported}]'
        )


def _check_command_known(command: str, version: tuple[int, ...]) -> None:
    since = COMMANDS[command]
    if version < _numbers(since):
        raise IncompatibleVersion(f"config version does not allow {command}", hint=f"{command} is known since {since}")
    if version > _numbers(VERSIONS[-1]):
        raise IncompatibleVersion(
            f"plugin version does not allow {command}", hint=f"the plugin knows up to {VERSIONS[-1]}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """A version as numbers; missing parts are 0. Raises `DecodeFailure`."""
    parts = version.split(".")
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise DecodeFailure(f"cniVersion: {jsontext.shown(version)} is not a version")
    numbers = [int(part) for part in parts]
    return tuple(numbers + [0] * (3 - len(numbers)))

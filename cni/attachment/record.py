"""The record of an attachment, as a value and as file content. Pure; `cni.attachment.records` stores the files."""

from __future__ import annotations

from cni import jsontext
from cni.errors import CniError, IoFailure
from cni.names import attachment_fault, is_file_name, shown
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from cni.attachment.delegate import IpamCallDict
    from cni.protocol.request import Request

    V = TypeVar("V", bound="Value")

SCHEMA = 2
"""Version of the record format. Newer versions are refused, older ones are read."""

DEVICE, IPAM, POD = "device", "ipam", "pod"
"""The parts that can be left to undo: the device (or port), the addresses, the published information."""


_TEXTS = ("plugin", "device", "netns", "netns_identity", "boot_id", "device_info")
_OBJECTS: dict[str, tuple[type, ...]] = {"found": (dict,), "wanted": (dict,), "ipam": (dict, type(None))}


class Key(Value):
    """The runtime's identification of an attachment: one interface of one container in one network."""

    network: str
    container_id: str
    ifname: str

    @classmethod
    def of(cls, request: Request) -> Key:
        """The attachment of the request."""
        return cls(network=request.network, container_id=request.container_id, ifname=request.ifname)

    def __str__(self) -> str:
        return f"{self.network}/{self.container_id}/{self.ifname}"


class Record(Value):
    """An attachment as saved.

    `device` is the PCI address or empty; `found` the state of the device before ADD, `wanted` the state that ADD
    applies, each in the format of its plugin, which has the types of both; `ipam` the delegate call to replay;
    `device_info` the path of the device-info file, or empty; `left` the parts that removal still has to undo;
    `removing` whether a removal has begun. Calls for other attachments may continue a removal only if it has begun.
    """

    key: Key
    plugin: str
    device: str
    netns: str
    netns_identity: str
    boot_id: str
    left: tuple[str, ...]
    found: Mapping[str, object]
    wanted: Mapping[str, object]
    ipam: IpamCallDict | None = None
    device_info: str = ""
    removing: bool = False

    def encoded(self) -> bytes:
        """The record file's content."""
        fields = self.as_dict()
        document = {"schema": SCHEMA, **fields, "key": self.key.as_dict(), "left": list(self.left)}
        return jsontext.dumps(document).encode() + b"\n"


class DamagedRecord(IoFailure):
    """The file contains no valid record, and its information is lost."""


def decode(content: bytes, path: str) -> Record:
    """Reads a record file's content. Raises `DamagedRecord`, and `IoFailure` if it has a newer schema."""
    try:
        document = jsontext.loads(content)
        if b"\\u0000" in content and _has_nul(document):
            raise DamagedRecord(f"the record {path} is damaged: it has a text with NUL")
        schema = document.pop("schema")
        if schema > SCHEMA:
            raise IoFailure(
                f"the record {path} has schema {schema}; this version of Barewire knows schemas up to {SCHEMA}",
                hint="it was written by a newer version: install that version again",
            )
        record = Record(**{**document, "key": Key(**document["key"]), "left": tuple(document["left"])})
        fault = _fault(record)
    except IoFailure:
        raise
    except (CniError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(f"the record {path} is damaged: {error}") from error
    if fault:
        raise DamagedRecord(f"the record {path} is damaged: {fault}")
    return record


def fit(value: V) -> V:
    """The value from a document, if all fields have their declared types.

    Raises `TypeError`. The constructor must check types that are not simple.
    """
    kinds = type(value).kinds()
    for name, found in value.as_dict().items():
        if isinstance(found, Value):
            fit(found)
        elif not _FITS.get(kinds.get(name, ""), _anything)(found):
            raise TypeError(f"{name} is {shown(found)}")
    return value


def _anything(_value: object) -> bool:
    return True


def _is(*kinds: type) -> Callable[[object], bool]:
    # True does not count as a number.
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _is_tuple_of(kind: type) -> Callable[[object], bool]:
    fits = _is(kind)
    return lambda value: isinstance(value, tuple) and all(map(fits, value))


_NONE = type(None)
_FITS: dict[str, Callable[[object], bool]] = {
    "str": _is(str),
    "str | None": _is(str, _NONE),
    "bytes": _is(bytes),
    "int": _is(int),
    "int | None": _is(int, _NONE),
    "bool": _is(bool),
    "bool | None": _is(bool, _NONE),
    "tuple[str, ...]": _is_tuple_of(str),
    "tuple[int, ...]": _is_tuple_of(int),
    "dict[str, str]": lambda value: isinstance(value, dict) and all(isinstance(one, str) for one in value.values()),
}
"""By the annotation of a field, as text."""


def _has_nul(value: object) -> bool:
    """Whether a text contains NUL, which is not allowed in a path."""
    if isinstance(value, dict):
        return any(map(_has_nul, value.values()))
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def _fault(record: Record) -> str:
    """Why we cannot have written the record; empty if we can. The plugin checks its own part."""
    key = record.key
    fault = attachment_fault(key.network, key.container_id, key.ifname)
    if fault:
        return fault
    for name in _TEXTS:
        if not isinstance(getattr(record, name), str):
            return f"{name} is no text"
    for name, kinds in _OBJECTS.items():
        if not isinstance(getattr(record, name), kinds):
            return f"{name} is no object"
    if record.device and not is_file_name(record.device):
        return f"device is {record.device!r}"
    return "" if {DEVICE, IPAM, POD}.issuperset(record.left) else f"left is {record.left}"

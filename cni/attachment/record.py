"""The record of an attachment, as a value and as the content of its file. Pure; `cni.attachment.records` keeps the files."""

from __future__ import annotations

from cni import jsontext
from cni.errors import CniError, IoFailure
from cni.names import attachment_fault, is_file_name, shown
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from cni.protocol.request import Request

    V = TypeVar("V", bound="Value")

SCHEMA = 2
"""Version of the record format; a reader refuses a newer one and keeps reading the older ones."""

DEVICE, IPAM, POD = "device", "ipam", "pod"
"""What can be left to undo: the device (or port), the addresses, what the pod was told outside of its containers."""


_TEXTS = ("plugin", "device", "netns", "netns_identity", "boot_id", "device_info")
_OBJECTS: dict[str, tuple[type, ...]] = {"found": (dict,), "wanted": (dict,), "ipam": (dict, type(None))}


class Key(Value):
    """What the runtime calls an attachment: one interface of one container in one network."""

    network: str
    container_id: str
    ifname: str

    @classmethod
    def of(cls, request: Request) -> Key:
        """The attachment that the request is about."""
        return cls(network=request.network, container_id=request.container_id, ifname=request.ifname)

    def __str__(self) -> str:
        return f"{self.network}/{self.container_id}/{self.ifname}"


class Record(Value):
    """An attachment as saved.

    `device` is its PCI address or empty; `found` the device as it was, `wanted` what ADD applies, `ipam` the delegate
    call to replay, each in the form that the plugin gave; `device_info` the file that tells the pod's
    containers about the device, or empty; `left` what removal still has to undo, `removing` whether a
    removal has begun: only then may a call that is about something else finish it.
    """

    key: Key
    plugin: str
    device: str
    netns: str
    netns_identity: str
    boot_id: str
    left: tuple[str, ...]
    found: dict[str, Any]
    wanted: dict[str, Any]
    ipam: dict[str, Any] | None = None
    device_info: str = ""
    removing: bool = False

    def encoded(self) -> bytes:
        """The record file's content."""
        fields = self.as_dict()
        document = {"schema": SCHEMA, **fields, "key": self.key.as_dict(), "left": list(self.left)}
        return jsontext.dumps(document).encode() + b"\n"


class DamagedRecord(IoFailure):
    """The file holds no record; what it should tell is lost."""


def decode(content: bytes, path: str) -> Record:
    """Reads a record file's content. Raises `DamagedRecord`, and `IoFailure` when it is of a newer schema."""
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
    """The value, made of a document, if all of its fields have the types that they are declared with.

    Raises `TypeError`. Types that are not simple are the maker's to look at.
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
    # True is no number here.
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
"""By the text of a field's annotation."""


def _has_nul(value: object) -> bool:
    """Whether there is a NUL in a text, which no path can have."""
    if isinstance(value, dict):
        return any(map(_has_nul, value.values()))
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def _fault(record: Record) -> str:
    """Why a record cannot be one that we wrote; empty when it can. What a plugin put into it, the plugin judges."""
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

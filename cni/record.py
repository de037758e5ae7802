"""The record of an attachment, as a value and as the content of its file. Pure; `cni.attachments` keeps the files."""

from __future__ import annotations

from cni import jsontext
from cni.errors import CniError, IoFailure
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.request import Request

SCHEMA = 2
"""Version of the record format; a reader refuses a newer one and keeps reading the older ones."""

DEVICE, IPAM, POD = "device", "ipam", "pod"
"""What can be left to undo: the device (or port), the addresses, what the pod was told outside of its containers."""


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
        schema = document.pop("schema")
        if schema > SCHEMA:
            raise IoFailure(
                f"the record {path} has schema {schema}; this version of Barewire knows schemas up to {SCHEMA}",
                hint="it was written by a newer version: install that version again",
            )
        record = Record(**{**document, "key": Key(**document["key"]), "left": tuple(document["left"])})
    except IoFailure:
        raise
    except (CniError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(f"the record {path} is damaged: {error}") from error
    if not {DEVICE, IPAM, POD}.issuperset(record.left):
        raise DamagedRecord(f"the record {path} is damaged: left is {record.left}")
    return record

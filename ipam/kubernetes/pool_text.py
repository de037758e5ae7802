"""A pool as the API server sent it. It is decoded only when it has to be: it may have ten thousand allocations."""

from __future__ import annotations

from cni import jsontext
from cni.kube.answers import document
from cni.value import Value
from ipam.kubernetes import whereabouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.jsontext import JsonObject
    from ipam.ranges import Range
    from ipam.store import Claim, Lease, Owner

_HIDING = (b"\\u", b"\\/")
"""The escapes by which a string of JSON can contain a name without its characters."""


class PoolText:
    """All answers are those of the decoded pool; without content, those of an empty one.

    Two things are seen only when the pool is decoded: an invalid range, and an offset with leading zeros, which no
    program writes and which therefore counts as free.
    A search of its text, which takes a thirtieth of the time, shows only that a string is not in it.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._document: JsonObject | None = None
        self.uid = _uid(content)
        """The unique ID of the object; empty if it has none."""
        # To search for a single byte is much quicker, and hardly any pool has an escape.
        self._hides = b"\\" in content and any(mark in content for mark in _HIDING)

    @property
    def exists(self) -> bool:
        return bool(self._content)

    @property
    def document(self) -> JsonObject:
        if self._document is None:
            self._document = document(self._content)
        return self._document

    def has(self, offset: str) -> bool:
        """Whether there is an allocation at the offset, well-formed or not."""
        return self._may_contain(offset) and offset in whereabouts.all_allocations(self.document)

    def entries_at(self, claims: tuple[Claim, ...]) -> dict[str, JsonObject]:
        """The well-formed allocations of these addresses, by offset."""
        offsets = {whereabouts.offset(claim) for claim in claims}
        if not any(map(self._may_contain, offsets)):
            return {}
        entries = whereabouts.all_allocations(self.document)
        return {offset: entry for offset in offsets if isinstance(entry := entries.get(offset), dict)}

    def leases_of_pod(self, owner: Owner) -> list[Lease]:
        """See `whereabouts.leases_of_pod`."""
        is_absent = not any(map(self._may_contain, filter(None, (owner.pod, owner.container_id))))
        # The content of a response without an ID is no object, and decoding it gives the error.
        if not self.exists or (is_absent and self.uid):
            return []
        return whereabouts.leases_of_pod(self.document, owner)

    def used(self, range_: Range, reserved: Iterable[int]) -> Used:
        """The numbers of the range that have an allocation, and the reserved ones."""
        return Used(pool=self, base=range_.subnet.number, reserved=frozenset(reserved))

    def _may_contain(self, text: str) -> bool:
        """Whether the text can be one of the strings. Always true after the pool was decoded."""
        if self._document is not None:
            return True
        quoted = f'"{text}"'
        is_plain = jsontext.dumps(text) == quoted
        return not is_plain or self._hides or quoted.encode() in self._content


def _uid(content: bytes) -> str:
    metadata = jsontext.leading(content, "metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    return uid if isinstance(uid, str) else ""


class Used(Value):
    """A container of numbers: see `PoolText.used`."""

    pool: PoolText
    base: int
    reserved: frozenset[int]

    def __contains__(self, number: object) -> bool:
        return number in self.reserved or (isinstance(number, int) and self.pool.has(str(number - self.base)))

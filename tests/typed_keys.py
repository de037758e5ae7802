"""Reads of TypedDicts, for mypy alone: it reports an ignored error that does not occur, so each of them has to occur.

`build/typed_keys.py` is the plugin that finds the errors in calls of `get`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypedDict

    class Inner(TypedDict, total=False):
        mac: str

    class Conf(TypedDict, total=False):
        vlan: int
        runtimeConfig: Inner

    def refused(conf: Conf, word: Literal["vlan", "vlann"]) -> None:
        conf.get("vlann")  # type: ignore[typeddict-item]
        conf.get("vlann", 0)  # type: ignore[typeddict-item]
        conf.get(word)  # type: ignore[typeddict-item]
        (conf.get("runtimeConfig") or {}).get("mc")  # type: ignore[typeddict-item]

    def accepted(conf: Conf, key: str, document: dict[str, int]) -> None:
        conf.get("vlan", 0).bit_length()
        conf.get("runtimeConfig", {}).get("mac", "").lower()
        conf.get(key)  # a computed key cannot be checked
        document.get("anything")

"""Values for every setting of a VF, derived from the rows in `cni/host/vf_settings.py` and the configuration's keys.

A new setting is automatically part of all tests that use these.
"""

from __future__ import annotations

from typing import Any

from cni.host.vf_settings import SETTINGS, Field, VfSettings
from cni.sriov.conf_table import TABLE

FIELDS = {field.name: field for row in SETTINGS.values() for field in row.fields}
ROWS = {field.name: row for row in SETTINGS.values() for field in row.fields}

MACS = ("02:00:00:00:00:42", "02:00:00:00:00:43")

REFUSED_BY_IGB = {
    "vlanProto": "EPROTONOSUPPORT",
    "min_tx_rate": "EINVAL",
    "query_rss": "EOPNOTSUPP",
    "link_state": "EOPNOTSUPP",
}
"""The keys that the lab's emulated card, and so FakeKernel, refuses: for EOPNOTSUPP each value, otherwise each value
that changes something.
"""


def words(field: Field) -> tuple[Any, Any]:
    """Two values for the field's key, of which the second one is the default, for which nothing has to be done."""
    rule: tuple[Any, ...] = TABLE[field.key]
    kind, *bounds = rule
    if kind == "mac":
        return MACS
    values = list(bounds[0]) if kind in ("choice", "folded") else [bounds[0], bounds[0] + 1]
    idle = next((word for word in values if meant(field, word) == field.clean), values[0])
    return next(word for word in values if word != idle), idle


def meant(field: Field, word: Any) -> Any:
    """The value of `VfSettings` that a value of the configuration stands for."""
    return field.words.get(word, word)


def conf(field: Field, choice: int = 0) -> dict[str, Any]:
    """A configuration that sets the field; its message's first field is set as well, because others may require it."""
    first = ROWS[field.name].fields[0]
    return {one.key: words(one)[choice] for one in (first, field)}


def igb_refusal(setting: str, wanted: VfSettings) -> str | None:
    """The name of the errno with which igb refuses to set it; None if igb accepts it."""
    for field in SETTINGS[setting].fields:
        value, refusal = getattr(wanted, field.name), REFUSED_BY_IGB.get(field.key)
        if value is not None and (refusal == "EOPNOTSUPP" or (refusal and value != field.clean)):
            return refusal
    return None


def everything() -> dict[str, Any]:
    """Every setting that igb accepts, with a value that changes it."""
    return {field.key: words(field)[0] for field in FIELDS.values() if field.key not in REFUSED_BY_IGB}

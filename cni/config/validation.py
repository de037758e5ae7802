"""Validates a network configuration with a compact table, and reports all problems with their JSON paths.

The tables are generated from the pydantic models (`make docs`); importing pydantic on each call would take
72 ms. The tests check that both give the same verdicts. A table maps a key to its rule:

    ("string",)  ("integer", low, high)  ("boolean",)  ("choice", values)  ("folded", values: any case)
    ("mac",)  ("pci",)  ("strings",)  ("integers", low, high)  ("ipam",)  ("any",)
    ("section", table)  ("open", table: other keys belong to other programs)
    ("sections", table: a list of them)  ("section-lists", table: a list of such lists)
"""

from __future__ import annotations

from cni import pci
from cni.errors import InvalidConfig, UnsupportedField
from cni.jsontext import shown
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from cni.config.unknown_keys import Unknown
    from cni.jsontext import JsonObject

    Rule = tuple[Any, ...]
    Table = dict[str, Rule]
    Problem = tuple[str, str]

MISSING = "missing"
_NESTED = ("open", "section")
_LISTS = {"sections": "section", "section-lists": "sections"}
"""Rules of lists, and the rule of their elements."""
MAIN_PLUGINS = frozenset(
    (
        "bridge",
        "host-device",
        "ipvlan",
        "macvlan",
        "ptp",
        "sriov",
        "userspace",
        "vlan",
        "bandwidth",
        "sbr",
        "tuning",
        "vrf",
    )
)
"""Plugins that are not IPAM plugins. If called as one, they would change the pod's interface."""

TEXTUAL = frozenset(("string", "choice", "folded", "mac", "pci"))
"""Rules of strings: only for these, the Go plugins cannot distinguish an empty value from an absent key."""


class Parsed(Value):
    """The values that are present and not null, by canonical key, and warnings about ignored keys.

    The type of `values` is generated from the model of the table: the caller assigns it.
    """

    values: Any
    warnings: tuple[str, ...]


def parse(
    table: Table,
    required: tuple[str, ...],
    config: JsonObject,
    cross_check: Callable[[Any, frozenset[str]], list[Problem]],
    *,
    strict: bool = False,
) -> Parsed:
    """The valid configuration. Raises `InvalidConfig` with all problems, or `UnsupportedField` for an unknown key.

    Unknown keys are refused if `strict`, or if the configuration has `strictConfig`.
    """
    named: JsonObject = canonical(table, config)
    values: JsonObject = {}
    problems = _validate(table, named, "", values)
    problems += [(key, MISSING) for key in required if is_absent(table[key], named.get(key))]
    problems += cross_check(values, frozenset(path for path, _ in problems))
    strict = strict or values.get("strictConfig") is True
    unknown = _unknown(table, named)
    if unknown is None:
        if problems:
            raise InvalidConfig(_joined(sorted(set(problems))))
        return Parsed(values=values, warnings=())
    if problems or (unknown.misspelt and not strict):
        problems += unknown.all() if strict else unknown.misspellings()
        raise InvalidConfig(_joined(sorted(set(problems))))
    if strict:
        hint = "strictConfig refuses unknown keys" if "strictConfig" in values else "correct or remove them"
        raise UnsupportedField(_joined(unknown.with_values()), hint=hint)
    return Parsed(values=values, warnings=tuple(_joined([problem]) for problem in unknown.ignored()))


def _unknown(table: Table, named: JsonObject) -> Unknown | None:
    """The unknown keys, including those in sections; None if there are none, which is the normal case."""
    if not _has_unknown(table, named):
        return None
    from cni.config.unknown_keys import unknown_keys  # noqa: PLC0415 - only for configurations that have some

    return unknown_keys(table, named)


def _has_unknown(table: Table, named: JsonObject) -> bool:
    if any(key not in table and not is_foreign(key) for key in named):
        return True
    return any(
        _has_unknown(rule[1], section)
        for key, rule in table.items()
        if key in named
        for _path, section in sections(rule, named[key], key)
    )


def is_foreign(key: str) -> bool:
    """Namespaced keys (cni.dev/..., and those of orchestrators) are for the programs that know them."""
    return "/" in key


def sections(rule: Rule, value: Any, path: str) -> Iterator[tuple[str, JsonObject]]:
    """Each section in the value of a key, with its path."""
    if rule[0] == "section" and isinstance(value, dict):
        yield path, value
    elif rule[0] in _LISTS and isinstance(value, list):
        for place, entry in enumerate(value):
            yield from sections((_LISTS[rule[0]], rule[1]), entry, f"{path}[{place}]")


def canonical(table: Table, config: JsonObject) -> Any:
    """The configuration with the table's spelling of keys: an exact match first, then any case, as in Go's decoder.

    The caller assigns its type, which is generated from the model of the table; the values are not validated.
    """
    folded = {key.lower(): key for key in table}
    named: JsonObject = {}
    for key, value in config.items():
        meant = key if key in table else folded.get(key.lower(), key)
        if meant == key or meant not in config:
            named[meant] = _canonical_below(table.get(meant, ("any",)), value)
    return named


def _canonical_below(rule: Rule, value: Any) -> Any:
    if rule[0] in _NESTED:
        return canonical(rule[1], value) if isinstance(value, dict) else value
    if rule[0] in _LISTS and isinstance(value, list):
        return [_canonical_below((_LISTS[rule[0]], rule[1]), entry) for entry in value]
    return value


def _joined(problems: list[Problem]) -> str:
    return "; ".join(f"{path}: {text}" for path, text in problems)


def is_absent(rule: Rule, value: object) -> bool:
    """Whether the value of a key with this rule counts as absent."""
    return value is None or (value == "" and rule[0] in TEXTUAL)


def canonical_mac(text: object) -> str:
    """A unicast MAC address of six bytes in lower-case colon form, from any format of Go's net.ParseMAC.

    Raises `ValueError`.
    """
    if isinstance(text, str):
        for separator, groups, digits in ((":", 6, 2), ("-", 6, 2), (".", 3, 4)):
            parts = text.split(separator)
            if len(parts) == groups and all(len(part) == digits and is_hex(part) for part in parts):
                packed = bytes.fromhex("".join(parts))
                if not any(packed) or packed[0] & 1:
                    raise ValueError(f"{shown(text)} is not a unicast MAC address")
                return packed.hex(":")
    raise ValueError(f"{shown(text)} is not a MAC address")


def _validate(table: Table, config: JsonObject, prefix: str, values: JsonObject) -> list[Problem]:
    problems: list[Problem] = []
    for key, rule in table.items():
        value = config.get(key)
        if is_absent(rule, value):
            continue
        found: list[Any] = []
        problems += _validate_value(rule, value, prefix + key, found)
        if found:
            values[key] = found[0]
    return problems


def _validate_value(rule: Rule, value: object, path: str, found: list[Any]) -> list[Problem]:
    """The problems of one value; the valid one is appended to `found`."""
    if rule[0] in _NESTED:
        return _validate_section(rule, value, path, found)
    if rule[0] in _LISTS:
        return _validate_list((_LISTS[rule[0]], rule[1]), value, path, found)
    try:
        found.append(_CHECKS[rule[0]](value, *rule[1:]))
    except ValueError as error:
        return [(path, str(error))]
    except ProblemBelow as error:
        return [(path + error.below, error.text)]
    return []


def _validate_section(rule: Rule, value: object, path: str, found: list[Any]) -> list[Problem]:
    if not isinstance(value, dict):
        return [(path, f"{shown(value)} is not an object")]
    inner: JsonObject = {}
    problems = _validate(rule[1], value, f"{path}.", inner)
    # A refused value must not be kept with the keys of other programs: the rules rely on validated values.
    others = {key: other for key, other in value.items() if key not in rule[1]} if rule[0] == "open" else {}
    found.append({**others, **inner})
    return problems


def _validate_list(rule: Rule, value: object, path: str, found: list[Any]) -> list[Problem]:
    if not isinstance(value, list):
        return [(path, f"{shown(value)} is not a list")]
    inner: list[Any] = []
    problems = [
        problem
        for place, entry in enumerate(value)
        for problem in _validate_value(rule, entry, f"{path}[{place}]", inner)
    ]
    found.append(inner)
    return problems


class ProblemBelow(Exception):
    """A problem below the key that is being checked."""

    def __init__(self, below: str, text: str) -> None:
        super().__init__(text)
        self.below = below
        self.text = text


def _string(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a string")
    return value


def _integer(value: object, low: int, high: int) -> object:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not an integer")
    if not low <= value <= high:
        raise ValueError(f"{value} is not in {low}..{high}")
    return value


def _boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not true or false")
    return value


def _choice(value: object, values: tuple[str, ...]) -> object:
    if value not in values or not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not one of {', '.join(map(shown, values))}")
    return value


def _folded(value: object, values: tuple[str, ...]) -> object:
    return _choice(value.lower() if isinstance(value, str) and value.lower() in values else value, values)


def _pci(value: object) -> object:
    return pci.parse(str(_string(value)))


def _strings(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{shown(value)} is not a list of strings")
    return value


def _integers(value: object, low: int, high: int) -> object:
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list of integers")
    for place, entry in enumerate(value):
        try:
            _integer(entry, low, high)
        except ValueError as error:
            raise ProblemBelow(f"[{place}]", str(error)) from error
    return value


def ipam_section(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not an object")
    kind = value.get("type")
    if not value or kind == "":
        return {}
    if kind is None:
        raise ProblemBelow(".type", MISSING)
    if not isinstance(kind, str) or "/" in kind or "\0" in kind or kind in (".", ".."):
        raise ProblemBelow(".type", f"{shown(kind)} is not the name of a plugin")
    if kind in MAIN_PLUGINS:
        raise ProblemBelow(".type", f"{shown(kind)} attaches interfaces and gives no addresses")
    return value


_CHECKS: dict[str, Callable[..., Any]] = {
    "string": _string,
    "integer": _integer,
    "boolean": _boolean,
    "choice": _choice,
    "folded": _folded,
    "mac": canonical_mac,
    "pci": _pci,
    "strings": _strings,
    "integers": _integers,
    "ipam": ipam_section,
    "any": lambda value: value,
}


def is_hex(text: str) -> bool:
    return all(char in "0123456789abcdefABCDEF" for char in text)

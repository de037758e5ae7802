"""Validates a network configuration with a compact table, and names every problem at once with its JSON path.

The tables are generated from the pydantic models (`make docs`); importing pydantic on each call would take
72 ms. The tests hold both to the same verdicts. A table maps a key to its rule:

    ("string",)  ("integer", low, high)  ("boolean",)  ("choice", values)  ("folded", values: any case)
    ("mac",)  ("pci",)  ("strings",)  ("integers", low, high)  ("ipam",)  ("any",)
    ("section", table)  ("open", table: other keys are somebody else's)
    ("sections", table: a list of them)  ("section-lists", table: a list of such lists)
"""

from __future__ import annotations

from cni import pci
from cni.errors import InvalidConfig, UnsupportedField
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Rule = tuple[Any, ...]
    Table = dict[str, Rule]
    Problem = tuple[str, str]

MISSING = "missing"
_NESTED = ("open", "section")
_LISTS = {"sections": "section", "section-lists": "sections"}
"""Rules of lists, and the rule of their elements."""
_COMPARED = 64
"""Characters of a key that are compared with the known ones: the cost grows with them, and any user may write keys."""
_COMPARED_KEYS = 20
"""Unknown keys that are compared with the known ones, for the same reason: thousands of them would cost seconds."""

TEXTUAL = frozenset(("string", "choice", "folded", "mac", "pci"))
"""Rules of strings: of those, and of nothing else, the Go plugins cannot tell an empty one from an absent key."""

_LEGACY = {"vlanid": "vlan", "macaddr": "mac", "macaddress": "mac"}
"""Spellings that users bring from other plugins, without case, dashes and underscores, and the key that they mean."""


class Parsed(Value):
    """The values by canonical key, where given and not null, and warnings about keys that are ignored."""

    values: dict[str, Any]
    warnings: tuple[str, ...]


class Unknown(Value):
    """The unknown keys by their paths: nearest known one of each, the misspelt ones, their values.

    `more` were not compared.
    """

    nearest: dict[str, str]
    misspelt: frozenset[str]
    values: dict[str, Any]
    more: int


def parse(
    table: Table,
    required: tuple[str, ...],
    config: dict[str, Any],
    cross_check: Callable[[dict[str, Any], frozenset[str]], list[Problem]],
    *,
    strict: bool = False,
) -> Parsed:
    """The valid configuration. Raises `InvalidConfig` with all problems, or `UnsupportedField` for an unknown key.

    Unknown keys are refused if `strict`, or if the configuration has `strictConfig`.
    """
    named = canonical(table, config)
    unknown = unknown_keys(table, named)
    values: dict[str, Any] = {}
    problems = _validate(table, named, "", values)
    problems += [(key, MISSING) for key in required if is_absent(table[key], named.get(key))]
    problems += cross_check(values, frozenset(path for path, _ in problems))
    strict = strict or values.get("strictConfig") is True
    if problems or (unknown.misspelt and not strict):
        problems += [(key, f"unknown key, did you mean {unknown.nearest[key]}?") for key in unknown.misspelt]
        if strict:
            told = _told(unknown, lambda _: ", the nearest known one is")
            problems += [problem for problem in told if problem[0] not in unknown.misspelt]
        raise InvalidConfig(_joined(sorted(set(problems))))
    if strict and unknown.nearest:
        raise UnsupportedField(
            _joined(_told(unknown, lambda key: f" with value {unknown.values[key]!r}; the nearest known one is")),
            hint="correct or remove them"
            if values.get("strictConfig") is not True
            else "strictConfig refuses unknown keys",
        )
    ignored = _told(unknown, lambda _: ", ignored; the nearest known one is", "unknown, ignored")
    return Parsed(values=values, warnings=tuple(_joined([problem]) for problem in ignored))


def canonical(table: Table, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration under the table's spelling of its keys: the exact key first, then any case, as Go's decoder."""
    folded = {key.lower(): key for key in table}
    named: dict[str, Any] = {}
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


def unknown_keys(table: Table, named: dict[str, Any]) -> Unknown:
    """What there is to tell about keys that the table does not have, those in its sections included."""
    found = _unknown_here(table, named)
    for key, rule in table.items():
        for path, section in _sections(rule, named.get(key), key):
            found = _together(found, path, unknown_keys(rule[1], section))
    return found


def _sections(rule: Rule, value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each section in the value of a key, with its path."""
    if rule[0] == "section" and isinstance(value, dict):
        yield path, value
    elif rule[0] in _LISTS and isinstance(value, list):
        for place, entry in enumerate(value):
            yield from _sections((_LISTS[rule[0]], rule[1]), entry, f"{path}[{place}]")


def _together(outer: Unknown, section: str, inner: Unknown) -> Unknown:
    return Unknown(
        nearest={**outer.nearest, **{f"{section}.{key}": f"{section}.{known}" for key, known in inner.nearest.items()}},
        misspelt=outer.misspelt | {f"{section}.{key}" for key in inner.misspelt},
        values={**outer.values, **{f"{section}.{key}": value for key, value in inner.values.items()}},
        more=outer.more + inner.more,
    )


def _unknown_here(table: Table, named: dict[str, Any]) -> Unknown:
    unknown = [key for key in named if key not in table and not _foreign(key)]
    respelt = _respelt(table, unknown)
    compared = [key for key in unknown if key not in respelt][:_COMPARED_KEYS]
    nearest = {key: respelt.get(key) or _nearest(key, table) for key in unknown if key in respelt or key in compared}
    misspelt = frozenset(key for key, known in nearest.items() if key in respelt or _is_slip(key, known))
    values = {key: named[key] for key in nearest}
    return Unknown(nearest=nearest, misspelt=misspelt, values=values, more=len(unknown) - len(nearest))


def _respelt(table: Table, unknown: list[str]) -> dict[str, str]:
    """Those of the keys that are a known one but for case, dashes and underscores, or a legacy spelling of one."""
    known = {spelling: key for spelling, key in _LEGACY.items() if key in table} | {_plain(key): key for key in table}
    return {key: known[plain] for key in unknown if (plain := _plain(key)) in known}


def _is_slip(key: str, known: str) -> bool:
    # Short words are one slip away from too many others; trunk is no trust.
    allowed = 0 if len(known) < 4 else 1 if len(known) < 8 else 2
    return _distance(_plain(key), _plain(known)) <= allowed


def _nearest(key: str, table: Table) -> str:
    """The known key with the fewest slips between it and this one."""
    return min(table, key=lambda known: (_distance(_plain(key), _plain(known)), known))


def _told(unknown: Unknown, how: Callable[[str], str], rest: str = "unknown") -> list[Problem]:
    told = [(key, f"unknown key{how(key)} {known}") for key, known in unknown.nearest.items()]
    return told + [(f"{unknown.more} more keys", rest)] * bool(unknown.more)


def _joined(problems: list[Problem]) -> str:
    return "; ".join(f"{path}: {text}" for path, text in problems)


def is_absent(rule: Rule, value: object) -> bool:
    """Whether the value of a key with this rule counts as none."""
    return value is None or (value == "" and rule[0] in TEXTUAL)


def canonical_mac(text: object) -> str:
    """A unicast MAC address of six bytes in lower-case colon form; takes what Go's net.ParseMAC takes. `ValueError`."""
    if isinstance(text, str):
        for separator, groups, digits in ((":", 6, 2), ("-", 6, 2), (".", 3, 4)):
            parts = text.split(separator)
            if len(parts) == groups and all(len(part) == digits and is_hex(part) for part in parts):
                packed = bytes.fromhex("".join(parts))
                if not any(packed) or packed[0] & 1:
                    raise ValueError(f"{_shown(text)} is not a unicast MAC address")
                return packed.hex(":")
    raise ValueError(f"{_shown(text)} is not a MAC address")


def _validate(table: Table, config: dict[str, Any], prefix: str, values: dict[str, Any]) -> list[Problem]:
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
        return [(path, f"{_shown(value)} is not an object")]
    inner: dict[str, Any] = {}
    problems = _validate(rule[1], value, f"{path}.", inner)
    found.append({**value, **inner} if rule[0] == "open" else inner)
    return problems


def _validate_list(rule: Rule, value: object, path: str, found: list[Any]) -> list[Problem]:
    if not isinstance(value, list):
        return [(path, f"{_shown(value)} is not a list")]
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
        raise ValueError(f"{_shown(value)} is not a string")
    return value


def _integer(value: object, low: int, high: int) -> object:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is not an integer")
    if not low <= value <= high:
        raise ValueError(f"{value} is not in {low}..{high}")
    return value


def _boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is not true or false")
    return value


def _choice(value: object, values: tuple[str, ...]) -> object:
    if value not in values or not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is not one of {', '.join(map(_shown, values))}")
    return value


def _folded(value: object, values: tuple[str, ...]) -> object:
    return _choice(value.lower() if isinstance(value, str) and value.lower() in values else value, values)


def _pci(value: object) -> object:
    return pci.parse(str(_string(value)))


def _strings(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{_shown(value)} is not a list of strings")
    return value


def _integers(value: object, low: int, high: int) -> object:
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)} is not a list of integers")
    for place, entry in enumerate(value):
        try:
            _integer(entry, low, high)
        except ValueError as error:
            raise ProblemBelow(f"[{place}]", str(error)) from error
    return value


def ipam_section(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)} is not an object")
    kind = value.get("type")
    if not value or kind == "":
        return {}
    if kind is None:
        raise ProblemBelow(".type", MISSING)
    if not isinstance(kind, str) or "/" in kind or "\0" in kind or kind in (".", ".."):
        raise ProblemBelow(".type", f"{_shown(kind)} is not the name of a plugin")
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


def _foreign(key: str) -> bool:
    # Namespaced keys (cni.dev/..., and those of orchestrators) are addressed to whoever knows them.
    return "/" in key


def _plain(key: str) -> str:
    return key[:_COMPARED].lower().replace("-", "").replace("_", "")


def _distance(left: str, right: str) -> int:
    """Slips (a letter more, less, other, or two swapped) between two words: Damerau and Levenshtein's."""
    before: list[int] = []
    above = list(range(len(right) + 1))
    for row, char in enumerate(left, 1):
        line = [row]
        for column, other in enumerate(right, 1):
            best = min(above[column] + 1, line[-1] + 1, above[column - 1] + (char != other))
            if row > 1 and column > 1 and char == right[column - 2] and left[row - 2] == other:
                best = min(best, before[column - 2] + 1)
            line.append(best)
        before, above = above, line
    return above[-1]


def is_hex(text: str) -> bool:
    return all(char in "0123456789abcdefABCDEF" for char in text)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)

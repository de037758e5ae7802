"""Keys that a table does not have: which of them are misspelt, and which known key each may mean. Pure.

A misspelt key is refused, because it does not have the intended effect. Other unknown keys are for other plugins and
are ignored with a warning.
"""

from __future__ import annotations

from cni.config.validation import is_foreign, sections
from cni.jsontext import shown
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.config.validation import Problem, Table
    from cni.jsontext import JsonObject

_COMPARED = 64
"""Maximum number of compared characters of a key: the cost grows with the length, and any user can write keys."""
_COMPARED_KEYS = 20
"""Maximum number of compared keys, for the same reason: thousands would cost seconds."""

_LEGACY = {"vlanid": "vlan", "macaddr": "mac", "macaddress": "mac"}
"""Spellings from other plugins, without case, dashes and underscores, and the intended key."""

_WITHOUT_EFFECT = ("any",)
"""The rule of keys that are accepted and ignored."""


class Unknown(Value):
    """The unknown keys by their paths.

    `meant` contains the known key that each may mean, or an empty text. `misspelt` contains those whose known key has
    an effect. `more` keys were not compared.
    """

    meant: dict[str, str]
    misspelt: frozenset[str]
    values: JsonObject
    more: int

    def misspellings(self) -> list[Problem]:
        """The misspelt keys."""
        return [(key, f"unknown key{self._question(key)}") for key in self.misspelt]

    def all(self) -> list[Problem]:
        """All unknown keys."""
        return [(key, f"unknown key{self._question(key)}") for key in self.meant] + self._rest("unknown")

    def with_values(self) -> list[Problem]:
        """All unknown keys, with the value of each."""
        named = [
            (key, f"unknown key with value {shown(value)}{self._question(key)}") for key, value in self.values.items()
        ]
        return named + self._rest("unknown")

    def ignored(self) -> list[Problem]:
        """The same as warnings."""
        named = [(key, f"unknown key, ignored{self._question(key)}") for key in self.meant]
        return named + self._rest("unknown, ignored")

    def _question(self, key: str) -> str:
        return f", did you mean {self.meant[key]}?" if self.meant[key] else ""

    def _rest(self, text: str) -> list[Problem]:
        return [(f"{self.more} more keys", text)] * bool(self.more)


def unknown_keys(table: Table, named: JsonObject) -> Unknown:
    """The keys that are not in the table, including those in its sections."""
    found = _unknown_here(table, named)
    for key, rule in table.items():
        for path, section in sections(rule, named.get(key), key):
            found = _together(found, path, unknown_keys(rule[1], section))
    return found


def _together(outer: Unknown, section: str, inner: Unknown) -> Unknown:
    below = {f"{section}.{key}": f"{section}.{known}" if known else "" for key, known in inner.meant.items()}
    return Unknown(
        meant={**outer.meant, **below},
        misspelt=outer.misspelt | {f"{section}.{key}" for key in inner.misspelt},
        values={**outer.values, **{f"{section}.{key}": value for key, value in inner.values.items()}},
        more=outer.more + inner.more,
    )


def _unknown_here(table: Table, named: JsonObject) -> Unknown:
    unknown = [key for key in named if key not in table and not is_foreign(key)]
    respelt = _respelt(table, unknown)
    compared = [key for key in unknown if key not in respelt][:_COMPARED_KEYS]
    meant = {key: respelt.get(key) or _slip_of(key, table) for key in unknown if key in respelt or key in compared}
    return Unknown(
        meant=meant,
        misspelt=frozenset(key for key, known in meant.items() if known and table[known] != _WITHOUT_EFFECT),
        values={key: named[key] for key in meant},
        more=len(unknown) - len(meant),
    )


def _respelt(table: Table, unknown: list[str]) -> dict[str, str]:
    """The keys that differ from a known one in case, dashes, underscores or the order of words, or are legacy names."""
    plain = {spelling: key for spelling, key in _LEGACY.items() if key in table} | {_plain(key): key for key in table}
    words = {_words(key): key for key in reversed(table) if len(_words(key)) > 1}
    found = {key: plain.get(_plain(key)) or words.get(_words(key)) for key in unknown}
    return {key: known for key, known in found.items() if known}


def _slip_of(key: str, table: Table) -> str:
    """The known key with a small edit distance, or an empty text."""
    nearest = min(table, key=lambda known: (_distance(_plain(key), _plain(known)), known))
    # Short words are one edit away from too many others; trunk does not mean trust.
    allowed = 0 if len(nearest) < 4 else 1 if len(nearest) < 8 else 2
    return nearest if _distance(_plain(key), _plain(nearest)) <= allowed else ""


def _plain(key: str) -> str:
    return key[:_COMPARED].lower().replace("-", "").replace("_", "")


def _words(key: str) -> tuple[str, ...]:
    """The words of camelCase, snake_case and kebab-case, sorted."""
    spaced = "".join(f" {char}" if char.isupper() else " " if char in "-_" else char for char in key[:_COMPARED])
    return tuple(sorted(spaced.lower().split()))


def _distance(left: str, right: str) -> int:
    """The Damerau-Levenshtein distance of two words: letters inserted, deleted, replaced or swapped."""
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

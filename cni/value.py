"""Immutable values with named fields, without the import cost of `dataclasses` (11 ms) or `typing` (4 ms).

A subclass lists its fields as annotations; a default is a class attribute. All fields are keyword-only::

    class Address(Value):
        cidr: str
        gateway: str | None = None

Type checkers see a frozen, keyword-only dataclass (PEP 681).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_kwargs):
        return lambda cls: cls


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Value:
    """Base of all values: equality, hash and repr by field; assignment raises `AttributeError`."""

    _fields: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        own = cls.__dict__.get("__annotations__", {}).items()
        cls._fields = {**cls._fields, **{name: kind for name, kind in own if not name.startswith("_")}}

    @classmethod
    def kinds(cls) -> dict[str, str]:
        """The text of each field's annotation, by the field's name; inherited fields come first."""
        return cls._fields

    def __init__(self, **values: Any) -> None:
        fields = self.__dict__
        for name in self._fields:
            if name in values:
                fields[name] = values.pop(name)
            elif not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__}: field {name!r} is missing")
            else:
                fields[name] = getattr(type(self), name)
        if values:
            raise TypeError(f"{type(self).__name__}: unknown fields {sorted(values)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({inside})"

    def replace(self, **changes: Any) -> Self:
        """The same value with some fields changed."""
        return type(self)(**{**self.__dict__, **changes})

    def as_dict(self) -> dict[str, Any]:
        """Field names and values, in declaration order (values are not converted)."""
        return dict(self.__dict__)

"""A plugin of mypy, which reports `get` of a key that a TypedDict does not have.

mypy reports such a key in `conf["key"]`, but not in `conf.get("key")`: a value may have more keys than its type
declares, so `get` returns `object`. Our TypedDicts declare all keys that the code reads (ADR 56).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy.errorcodes import TYPEDDICT_ITEM
from mypy.plugin import MethodContext, Plugin
from mypy.plugins.common import try_getting_str_literals
from mypy.plugins.default import typed_dict_get_callback
from mypy.types import Type, TypedDictType, UnionType, get_proper_type

if TYPE_CHECKING:
    from collections.abc import Callable


class TypedKeys(Plugin):
    """Checks the calls of `get`."""

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        return _get if fullname == "typing.Mapping.get" else None


def _get(ctx: MethodContext) -> Type:
    """Infers the type of the value as mypy does, and reports each key that the TypedDict does not have."""
    if ctx.args and len(ctx.args[0]) == 1:
        expression, kind = ctx.args[0][0], ctx.arg_types[0][0]
        for key in try_getting_str_literals(expression, kind) or ():
            for typed_dict in _typed_dicts(ctx.type):
                if key not in typed_dict.items:
                    text = f'TypedDict "{typed_dict.fallback.type.name}" has no key "{key}"'
                    ctx.api.fail(text, expression, code=TYPEDDICT_ITEM)
    return typed_dict_get_callback(ctx)


def _typed_dicts(found: Type) -> list[TypedDictType]:
    found = get_proper_type(found)
    members = found.items if isinstance(found, UnionType) else [found]
    return [member for member in map(get_proper_type, members) if isinstance(member, TypedDictType)]


def plugin(_version: str) -> type[Plugin]:
    """See mypy's documentation, "Extending mypy using plugins"."""
    return TypedKeys

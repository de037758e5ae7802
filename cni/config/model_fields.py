"""Building blocks of the configuration models of all plugins. Not for the fast path: it imports pydantic."""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from cni import pci
from cni.config import validation as fast
from cni.config.schema import Rule, table


def folded(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _ipam(value: object) -> object:
    try:
        return fast.ipam_section(value)
    except fast.ProblemBelow as problem:
        raise ValueError(f"{problem.below.lstrip('.')}: {problem.text}") from problem


PciText = Annotated[
    str,
    AfterValidator(pci.parse),
    WithJsonSchema({"type": "string", "pattern": "^([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\\.[0-7]$"}),
    Rule("pci"),
]
MacText = Annotated[
    str,
    AfterValidator(fast.canonical_mac),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^([0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}|[0-9a-fA-F]{2}(-[0-9a-fA-F]{2}){5}|[0-9a-fA-F]{4}(\\.[0-9a-fA-F]{4}){2})$",
        }
    ),
    Rule("mac"),
]
IpamSection = Annotated[
    Any,
    AfterValidator(_ipam),
    WithJsonSchema({"type": "object", "properties": {"type": {"type": "string"}}}),
    Rule("ipam"),
]
Mtu = Annotated[int, Field(ge=68, le=65535)]


@functools.cache
def _rules(model: type[BaseModel]) -> dict[str, tuple[Any, ...]]:
    return table(model)


class Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_absent_values(cls, data: object) -> object:
        # Configurations rely on the rules of `validation.TEXTUAL`. A null is removed, so that the field gets its
        # default, as in Go.
        if not isinstance(data, dict):
            return data
        rules = _rules(cls)
        return {key: value for key, value in data.items() if not fast.is_absent(rules.get(key, ("any",)), value)}


class Section(Model):
    """A part of the configuration that only we use: an unknown key in it is reported like one at the top level."""

    closed: ClassVar[bool] = True


class CniArguments(Model):
    """`args.cni` of the configuration. Other keys belong to other plugins."""

    mac: MacText | None = Field(
        None, description="MAC address of the pod's interface; has priority over CNI_ARGS and `mac`."
    )


class Arguments(Model):
    """`args` of the configuration."""

    cni: CniArguments | None = Field(None, description="Arguments for plugins, by convention of the CNI project.")

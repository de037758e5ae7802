"""The configuration file: sriov-network-device-plugin's `config.json`, with keys of our own beside its keys.

It is read as in Go: keys are case-insensitive, and a null means an absent key.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cni import pci
from cni.errors import InvalidConfig
from cni.host.drivers import is_bindable
from cni.value import Value
from deviceplugin.function import ACCELERATOR, NETWORK
from deviceplugin.pool import Auto, Pool, Selector, require_pattern, vf_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "intel.com"
"""sriov-network-device-plugin's own default."""
AUTO_PREFIX = "devices.kubevirt.io"
"""That of the KubeVirt device plugin of 2017."""

_CLASSES = {"netDevice": NETWORK, "accelerator": ACCELERATOR, "pci": ""}
_IGNORED = {"selectorobj"}
"""Keys that sriov-network-device-plugin writes into its own configurations, but does not read."""
_AUXILIARY = "auxNetDevice"
_SUBFUNCTIONS = "network devices on the auxiliary bus, such as subfunctions; only PCI functions are offered"
_UNSUPPORTED = {
    "ddpProfiles": "DDP profiles",
    "auxTypes": _SUBFUNCTIONS,
    "pKeys": "partition keys of InfiniBand",
    "vdpaType": "vDPA devices",
}
"""Keys of sriov-network-device-plugin that are refused."""
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


class Configuration(Value):
    """The content of the file. `warnings` lists keys without effect."""

    pools: tuple[Pool, ...] = ()
    auto: Auto | None = None
    warnings: tuple[str, ...] = ()


def _domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text) or len(text) > 244:  # "requests." has to fit before it
        raise ValueError(f"{text!r} is not a domain such as intel.com")
    if text == "kubernetes.io" or text.endswith(".kubernetes.io"):
        raise ValueError(f"{text!r}: the kubelet refuses resources of kubernetes.io")
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text) > 63:
        raise ValueError(f"{text!r} is not the name of a resource: at most 63 letters, digits, and -_. between them")
    return text


def _hex(digits: int) -> Callable[[str], str]:
    def checked(text: str) -> str:
        lowered = text.lower().removeprefix("0x")
        if not re.fullmatch(f"[0-9a-f]{{{digits}}}", lowered):
            raise ValueError(f"{text!r} is not a number of {digits} hexadecimal digits")
        return lowered

    return checked


def _numbered(text: str) -> str:
    name, mark, numbers = text.partition("#")
    if not name:
        raise ValueError(f"{text!r} names no PF")
    require_pattern(name)
    if mark:
        vf_numbers(numbers)
    return text


def _numbered_address(text: str) -> str:
    address, mark, numbers = _numbered(text).partition("#")
    try:
        return f"{pci.parse(address)}{mark}{numbers}"
    except ValueError:
        return text  # a pattern


def _class(text: str) -> str:
    lowered = text.lower().removeprefix("0x")
    if not re.fullmatch("[0-9a-f]{2}|[0-9a-f]{4}|[0-9a-f]{6}", lowered):
        raise ValueError(f"{text!r} is not a PCI class of 2, 4 or 6 hexadecimal digits, such as 0302")
    if lowered.startswith("06"):
        raise ValueError(f"{text!r} is the class of bridges, which are never offered")
    return lowered


def _ids(text: str) -> str:
    vendor, _, device = text.lower().partition(":")
    if not re.fullmatch("[0-9a-f]{4}", vendor) or not re.fullmatch("[0-9a-f]{4}", device):
        raise ValueError(f"{text!r} is not vendor and device such as 10de:1bb3")
    return f"{vendor}:{device}"


def _bindable(text: str) -> str:
    if "vfio" not in text or not is_bindable(text):
        raise ValueError(f"{text!r}: only vfio-pci and its variants are bound to a device that is allocated")
    return text


Driver = Annotated[str, AfterValidator(_bindable)]
Companion = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
Groups = Literal["exclusive", "group", "single", "unsafe"]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _as_go_reads_it(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        known = {name.lower(): name for name in cls.model_fields}
        return {known.get(key.lower(), key): value for key, value in data.items() if value is not None}


class Selectors(_Model):
    """Conditions on a device; all of them must hold."""

    vendors: list[Annotated[str, AfterValidator(_hex(4))]] = Field([], description="PCI vendors, such as 8086.")
    devices: list[Annotated[str, AfterValidator(_hex(4))]] = Field([], description="PCI devices, such as 154c.")
    drivers: list[str] = Field([], description="Drivers that the device is bound to.")
    pciAddresses: list[Annotated[str, AfterValidator(pci.parse)]] = Field([], description="PCI addresses.")
    pfNames: list[Annotated[str, AfterValidator(_numbered)]] = Field(
        [],
        description="Network devices of PFs, by name or by a regular expression for the whole name, with VFs if wanted: `eth0#0-3,7`.",
    )
    rootDevices: list[Annotated[str, AfterValidator(_numbered_address)]] = Field(
        [], description="PCI addresses of PFs, with VFs if wanted."
    )
    linkTypes: list[str] = Field([], description="`ether`, `infiniband`.")
    acpiIndexes: list[str] = Field([], description="ACPI indexes.")
    isRdma: bool = Field(False, description="Devices with RDMA only, and containers get its device nodes.")
    needVhostNet: bool = Field(False, description="Containers get /dev/vhost-net and /dev/net/tun.")
    ddpProfiles: list[str] = Field([], description="Refused: not supported yet.", max_length=0)
    auxTypes: list[str] = Field(
        [],
        description="Refused: devices on the auxiliary bus, such as subfunctions, are not supported yet.",
        max_length=0,
    )
    pKeys: list[str] = Field([], description="Refused: not supported yet.", max_length=0)
    vdpaType: Literal[""] = Field("", description="Refused: vDPA is not supported yet.")

    def selector(self, *, rdma: bool) -> Selector:
        return Selector(
            vendors=tuple(self.vendors),
            devices=tuple(self.devices),
            drivers=tuple(self.drivers),
            addresses=tuple(self.pciAddresses),
            pf_names=tuple(self.pfNames),
            root_devices=tuple(self.rootDevices),
            link_types=tuple(self.linkTypes),
            acpi_indexes=tuple(self.acpiIndexes),
            rdma=self.isRdma or rdma,
            vhost_net=self.needVhostNet,
        )


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


class _Bound(_Model):
    driver: Driver | None = None
    groups: Groups = "exclusive"
    companions: list[Companion] = []

    @model_validator(mode="after")
    def _companions_have_a_use(self) -> Self:
        if self.companions and not self.driver:
            raise ValueError("companions are bound together with a device, and so need driver")
        if self.companions and self.groups in ("single", "unsafe"):
            raise ValueError(f"companions have no use with groups {self.groups}, which looks at no other member")
        return self


class Resource(_Bound):
    """A resource that the kubelet offers to pods."""

    resourceName: Annotated[str, AfterValidator(_name)] = Field(description="The part of its name after the slash.")
    resourcePrefix: Annotated[str, AfterValidator(_domain)] | None = Field(
        None, description="The part before the slash. Default: `--resource-prefix`."
    )
    deviceType: Literal["netDevice", "accelerator", "pci"] = Field(
        "netDevice", description="Network controllers, processing accelerators, or any class but bridges (`pci`)."
    )
    selectors: Annotated[list[Selectors], BeforeValidator(_as_list)] = Field(
        default_factory=lambda: [Selectors.model_validate({})],
        description="Conditions, or a list of which one must hold.",
    )
    isRdma: bool = Field(False, description="As in `selectors`.")
    excludeTopology: bool = Field(False, description="Whether to hide the device's NUMA node from the kubelet.")
    additionalInfo: dict[str, dict[str, str]] = Field(
        {}, description="Information for containers by PCI address, or by `*` for all devices."
    )
    driver: Driver | None = Field(
        None, description="Driver to bind when a device is allocated: vfio-pci, or a variant of it. Default: none."
    )
    groups: Groups = Field(
        "exclusive",
        description="IOMMU groups: `exclusive` gives devices of one group to one container only; `group` makes one device of a whole group; `single` looks at no other member; `unsafe` is `single`, and allows VFIO without an IOMMU.",
    )
    companions: list[Companion] = Field(
        [],
        description="Drivers from which other members of the IOMMU group are taken when `driver` is bound, such as snd_hda_intel.",
    )
    cdi: bool = Field(
        False, description="Whether containers get device nodes by names of CDI, which the runtime must support."
    )
    placement: Literal["pack", "spread"] = Field(
        "pack",
        description="Which PFs several devices for one container are on: `pack` few, `spread` many, as for a bond. Whole IOMMU groups come first.",
    )
    needLink: bool = Field(False, description="Whether a device is healthy only while its PF has a link.")

    def pool(self, prefix: str) -> Pool:
        return Pool(
            name=f"{self.resourcePrefix or prefix}/{self.resourceName}",
            base_class=_CLASSES[self.deviceType],
            selectors=tuple(one.selector(rdma=self.isRdma) for one in self.selectors),
            topology=not self.excludeTopology,
            extra=self.additionalInfo,
            driver=self.driver or "",
            groups=self.groups,
            needs_link=self.needLink,
            spread=self.placement == "spread",
            companions=tuple(self.companions),
            cdi=self.cdi,
        )


class Automatic(_Bound):
    """A resource for each vendor and device of the listed classes and IDs: `devices.kubevirt.io/10de_1bb3`.

    With `groups: group` there is one resource for each composition of IOMMU groups with such a device, such as
    `group_10de_10f0_10de_1bb3`.
    """

    resourcePrefix: Annotated[str, AfterValidator(_domain)] = Field(
        AUTO_PREFIX, description="The part of the names before the slash."
    )
    classes: list[Annotated[str, AfterValidator(_class)]] = Field(
        [], description="PCI classes of 2, 4 or 6 digits, such as 0302."
    )
    ids: list[Annotated[str, AfterValidator(_ids)]] = Field([], description="Vendors and devices, such as 10de:1bb3.")
    driver: Driver | None = Field(None, description="As in `resourceList`.")
    groups: Groups = Field("exclusive", description="As in `resourceList`.")
    companions: list[Companion] = Field([], description="As in `resourceList`.")
    cdi: bool = Field(False, description="As in `resourceList`.")

    def auto(self) -> Auto:
        return Auto(
            prefix=self.resourcePrefix,
            classes=tuple(self.classes),
            ids=tuple(self.ids),
            driver=self.driver or "",
            groups=self.groups,
            companions=tuple(self.companions),
            cdi=self.cdi,
        )


class File(_Model):
    """The whole file."""

    resourceList: list[Resource] = Field(
        [], description="The resources. A device is in the first whose conditions hold."
    )
    auto: Automatic | None = Field(None, description="Resources for what `resourceList` does not select.")


def parse(content: bytes, prefix: str = PREFIX) -> Configuration:
    """The configuration. Raises `InvalidConfig` with all problems, each with the path of its key."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"the configuration is not JSON: {error}") from error
    problems, warnings = _unknown(File, document, "")
    problems += _twice(document, prefix)
    pools: tuple[Pool, ...] = ()
    auto = None
    try:
        file = File.model_validate(document)
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors()]
    else:
        pools = tuple(resource.pool(prefix) for resource in file.resourceList)
        auto = file.auto.auto() if file.auto else None
    if problems:
        raise InvalidConfig("; ".join(problems), hint="docs/deviceplugin.md lists the keys")
    return Configuration(pools=pools, auto=auto, warnings=tuple(warnings))


def _twice(document: object, prefix: str) -> list[str]:
    """Resources with the name of an earlier one.

    They are found in the document, because an error in another key must not hide them.
    """
    resources = _lowered(document).get("resourcelist")
    names = [_resource_name(one, prefix) for one in resources] if isinstance(resources, list) else []
    return [
        f"resourceList[{number}].resourceName: {name} is there already"
        for number, name in enumerate(names)
        if name and name in names[:number]
    ]


def _resource_name(resource: object, prefix: str) -> str:
    keys = _lowered(resource)
    name = keys.get("resourcename")
    return f"{keys.get('resourceprefix') or prefix}/{name}" if name else ""


def _lowered(data: object) -> dict[str, Any]:
    return {key.lower(): value for key, value in data.items()} if isinstance(data, dict) else {}


def _problem(detail: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
    text = detail["msg"].removeprefix("Value error, ")
    key = path.rpartition(".")[2]
    if key in _UNSUPPORTED or (key == "deviceType" and detail["input"] == _AUXILIARY):
        # Without this check the pool would offer more devices than its author intends.
        text = f"not supported yet: {_UNSUPPORTED.get(key) or _SUBFUNCTIONS}"
    return f"{path or 'the document'}: {text}"


def _unknown(model: type[_Model], data: object, path: str) -> tuple[list[str], list[str]]:
    """(misspelt keys, other unknown keys): the former would have an effect, the latter have none in the peer either."""
    problems: list[str] = []
    warnings: list[str] = []
    for key, value in data.items() if isinstance(data, dict) else ():
        known = {name.lower(): name for name in model.model_fields}
        below = _BELOW.get((model.__name__, known.get(key.lower(), "")))
        if below:
            several = isinstance(value, list)
            for number, one in enumerate(value if several else [value]):
                found = _unknown(below, one, f"{path}{key}[{number}]." if several else f"{path}{key}.")
                problems += found[0]
                warnings += found[1]
        elif key.lower() not in known and key.lower() not in _IGNORED:
            meant = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.8)
            if meant:
                problems.append(f"{path}{key}: unknown key; is {known[meant[0]]} meant?")
            else:
                warnings.append(f"{path}{key}: unknown key, ignored")
    return problems, warnings


_BELOW: dict[tuple[str, str], type[_Model]] = {
    ("File", "resourceList"): Resource,
    ("File", "auto"): Automatic,
    ("Resource", "selectors"): Selectors,
}

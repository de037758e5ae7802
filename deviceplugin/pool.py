"""Pools: the functions that a resource offers, according to a configuration. Values and rules, no I/O."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from cni.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deviceplugin.function import Function

EXCLUSIVE, GROUP, SINGLE, UNSAFE = "exclusive", "group", "single", "unsafe"
ALONE = frozenset((EXCLUSIVE, GROUP))
"""The modes in which an IOMMU group is not shared by containers."""
_LONGEST_NAME = 63
"""Limit of a resource's name after the slash, in characters."""
_LONGEST_FILE_NAME = 40
"""In characters. The limit of a socket's whole path is 107."""
_NO_PATTERN = (re.error, OverflowError, RecursionError)
"""Exceptions of `re`, also for repetitions and nested brackets that are too large."""


class Selector(Value):
    """Conditions on a function. An empty list is no condition; of other lists, one item must apply.

    `rdma` and `vhost_net` also select device nodes for the container.
    """

    vendors: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    pf_names: tuple[str, ...] = ()
    root_devices: tuple[str, ...] = ()
    link_types: tuple[str, ...] = ()
    acpi_indexes: tuple[str, ...] = ()
    rdma: bool = False
    vhost_net: bool = False

    def hindrance(self, function: Function, bound: str) -> str:
        """The first condition that the function does not meet, as text; empty if it meets all.

        `bound` is the driver that the pool binds; it counts as one of `drivers`.
        """
        drivers = (*self.drivers, bound) if self.drivers and bound else self.drivers
        conditions = (
            ("vendors", self.vendors, function.vendor),
            ("devices", self.devices, function.device),
            ("drivers", drivers, function.driver),
            ("pciAddresses", self.addresses, function.address),
            ("linkTypes", self.link_types, function.link_type),
            ("acpiIndexes", self.acpi_indexes, function.acpi_index),
        )
        for key, wanted, found in conditions:
            if wanted and found not in wanted:
                return f"{key} has no {found!r}"
        if self.pf_names and not _chosen(self.pf_names, function.uplink, function.vf_index):
            return f"pfNames has no {_shown(function.uplink, function.vf_index)}"
        parent = function.pf or function.address
        if self.root_devices and not _chosen(self.root_devices, parent, function.vf_index):
            return f"rootDevices has no {_shown(parent, function.vf_index)}"
        return "isRdma: it has no RDMA device" if self.rdma and not function.rdma else ""


class Pool(Value):
    """The functions of one resource: those of a base class (empty: any) that meet one of the selectors.

    `driver` is bound at the allocation; if it is empty, a device keeps its driver. `extra` is information for
    containers, by address, or by `*` for all. With `needs_link`, a device is healthy only while its PF has a link. With
    `spread`, several devices of one container are on many PFs, not on few. `companions` are drivers from which members
    of a device's IOMMU group may be unbound when `driver` is bound. With `cdi`, containers get CDI names.
    """

    name: str
    base_class: str = ""
    selectors: tuple[Selector, ...] = (Selector(),)
    topology: bool = True
    extra: Mapping[str, Mapping[str, str]] = {}
    driver: str = ""
    groups: str = EXCLUSIVE
    needs_link: bool = False
    spread: bool = False
    companions: tuple[str, ...] = ()
    cdi: bool = False

    def selector_of(self, function: Function) -> Selector | None:
        """The first selector that the function meets."""
        if self.base_class and function.base_class != self.base_class:
            return None
        return next((selector for selector in self.selectors if not selector.hindrance(function, self.driver)), None)

    def hindrance(self, function: Function) -> str:
        """Why the function is not selected; empty if it is."""
        if self.base_class and function.base_class != self.base_class:
            return f"its class {function.base_class} is not {self.base_class}"
        found = [selector.hindrance(function, self.driver) for selector in self.selectors]
        return "" if not all(found) else "; ".join(found)


class Auto(Value):
    """The automatic pools: one for each listed vendor and device ID or class, or for each composition of groups."""

    prefix: str
    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    driver: str = ""
    groups: str = EXCLUSIVE
    companions: tuple[str, ...] = ()
    cdi: bool = False

    def pool_of(self, function: Function, members: tuple[Function, ...]) -> Pool | None:
        """The pool of a function. `members` are the members of its IOMMU group."""
        if not (
            f"{function.vendor}:{function.device}" in self.ids or function.pci_class.startswith(self.classes or ("-",))
        ):
            return None
        if self.groups == GROUP and len(members) > 1:
            name, selector = signature(members), Selector()
        else:
            name, selector = _model(function), Selector(vendors=(function.vendor,), devices=(function.device,))
        return Pool(
            name=f"{self.prefix}/{name}",
            selectors=(selector,),
            driver=self.driver,
            groups=self.groups,
            companions=self.companions,
            cdi=self.cdi,
        )


def short_name(resource: str) -> str:
    """A unique name for files of the resource, readable as far as the limit permits."""
    digest = hashlib.sha256(resource.encode()).hexdigest()[:8]
    readable = re.sub("[^a-z0-9]+", "-", resource.lower())[: _LONGEST_FILE_NAME - len(digest) - 1]
    return f"barewire-{readable}-{digest}"


def signature(members: Iterable[Function]) -> str:
    """The name of a group's composition. It has no group numbers and no addresses: it is the same on every node."""
    models = sorted(map(_model, members))
    name = "_".join(("group", *models))
    if len(name) <= _LONGEST_NAME:
        return name
    return f"group_{len(models)}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _model(function: Function) -> str:
    return f"{function.vendor}_{function.device}"


def vf_numbers(text: str) -> frozenset[int]:
    """The numbers in a list of ranges such as `0-3,7`. Raises `ValueError`."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part!r} is not the number of a VF, or a range of numbers such as 0-3")
        begin, end = int(first), int(last or first)
        if begin > end:
            raise ValueError(f"{part!r}: the range ends before it begins")
        if end > 0xFFFF:
            raise ValueError(f"{part!r}: no PF has so many VFs")
        numbers.update(range(begin, end + 1))
    return frozenset(numbers)


def require_pattern(text: str) -> None:
    """Raises `ValueError` if it is not a regular expression."""
    try:
        re.compile(text)
    except _NO_PATTERN as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error


def _chosen(items: tuple[str, ...], name: str, number: int) -> bool:
    """Whether an item selects it. The first item with the name decides, as in sriov-network-device-plugin."""
    if not name:
        return False
    for item in items:
        wanted, mark, numbers = item.partition("#")
        if wanted.lower() == name.lower() or _is_pattern_of(wanted, name):
            return not mark or number in vf_numbers(numbers)
    return False


def _is_pattern_of(pattern: str, name: str) -> bool:
    # The pattern must match the whole name: otherwise eth1 would also select eth10.
    try:
        return re.fullmatch(pattern, name) is not None
    except _NO_PATTERN:
        return False


def _shown(name: str, number: int) -> str:
    return repr(f"{name}#{number}" if number >= 0 else name)

"""The device nodes, the environment and the device-info file (for Multus) of a container with devices. Pure.

The environment is the one of sriov-network-device-plugin: `PCIDEVICE_<RESOURCE>` lists the devices, and
`PCIDEVICE_<RESOURCE>_INFO` describes each of them as JSON. `PCI_RESOURCE_<RESOURCE>` is KubeVirt's name for the list.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cni.attachment import device_info
from cni.host.drivers import gives_to_user_space, needs_iommu_group
from cni.value import Value
from deviceplugin.offer import vfio_node

if TYPE_CHECKING:
    from collections.abc import Iterable, Set as AbstractSet

    from deviceplugin.function import Function
    from deviceplugin.pool import Pool, Selector

VFIO = "/dev/vfio/vfio"
IOMMUFD = "/dev/iommu"
RDMA_CM = "/dev/infiniband/rdma_cm"
VHOST_NODES = ("/dev/vhost-net", "/dev/net/tun")


class Node(Value):
    """A device node: its path on the host and in the container."""

    host: str
    container: str


class Given(Value):
    """A function that a container gets, and the selector of the pool that selected it."""

    function: Function
    selector: Selector


class Contents(Value):
    """Device nodes and environment for a container, or CDI names instead of the nodes."""

    nodes: tuple[Node, ...]
    environment: dict[str, str]
    cdi: tuple[str, ...] = ()


def contents(pool: Pool, devices: tuple[Given, ...], nodes: AbstractSet[str]) -> Contents:
    """The contents for a container with these devices. `nodes` are the device nodes of the host."""
    addresses = ",".join(device.function.address for device in devices)
    name = variable(pool.name)
    info = {device.function.address: _information(pool, device, nodes) for device in devices}
    environment = {
        f"PCIDEVICE_{name}": addresses,
        f"PCIDEVICE_{name}_INFO": json.dumps(info, separators=(",", ":")),
        f"PCI_RESOURCE_{name}": addresses,
    }
    return Contents(nodes=device_nodes(devices, nodes), environment=environment)


def device_nodes(devices: Iterable[Given], nodes: AbstractSet[str]) -> tuple[Node, ...]:
    """The device nodes that belong to the devices."""
    return tuple(dict.fromkeys(node for device in devices for node in _nodes(device, nodes)))


def variable(resource: str) -> str:
    """The name of a resource as a part of the name of a variable: INTEL_COM_SRIOV."""
    return resource.upper().replace(".", "_").replace("/", "_")


def info_file(resource: str, address: str) -> str:
    """The name of the device-info file. Multus derives it from the same two names."""
    return f"{resource.replace('/', '-')}-{address}-device.json"


def info_document(device: Given) -> dict[str, Any]:
    """The document of the device-info specification."""
    function = device.function
    document = device_info.pci(function.address, function.pf)
    if device.selector.rdma and function.rdma:
        document["pci"]["rdma-device"] = ",".join(function.rdma)
    if device.selector.vhost_net:
        document["pci"]["vhost-net"] = VHOST_NODES[0]
    return document


def _nodes(device: Given, nodes: AbstractSet[str]) -> list[Node]:
    found, function = [], device.function
    if needs_iommu_group(function.driver):
        group = vfio_node(function, nodes)
        found.append(_same(VFIO))
        # Users of VFIO look for the number of the group, also if the kernel works without an IOMMU.
        found += [Node(host=group, container=f"/dev/vfio/{function.group}")] if group else []
        cdev = f"/dev/vfio/devices/{function.vfio}"
        if function.vfio and {cdev, IOMMUFD} <= nodes:
            found += [_same(cdev), _same(IOMMUFD)]
    elif gives_to_user_space(function.driver) and function.uio:
        found.append(_same(f"/dev/{function.uio}"))
    if device.selector.rdma:
        found += [_same(path) for path in _rdma_paths(function) if path in nodes]
    if device.selector.vhost_net:
        found += [_same(path) for path in VHOST_NODES if path in nodes]
    return found


def _same(path: str) -> Node:
    return Node(host=path, container=path)


def _rdma_paths(function: Function) -> list[str]:
    return [*(f"/dev/infiniband/{name}" for name in function.rdma_nodes), RDMA_CM]


def _information(pool: Pool, device: Given, nodes: AbstractSet[str]) -> dict[str, dict[str, str]]:
    function = device.function
    found: dict[str, dict[str, str]] = {"generic": {"deviceID": function.address}}
    if needs_iommu_group(function.driver):
        found["vfio"] = {"mount": VFIO, "dev-mount": f"/dev/vfio/{function.group}"}
    elif gives_to_user_space(function.driver) and function.uio:
        found["uio"] = {"mount": f"/dev/{function.uio}"}
    if device.selector.rdma:
        paths = [path for path in _rdma_paths(function) if path in nodes]
        found["rdma"] = {path.rpartition("/")[2].rstrip("0123456789"): path for path in paths}
        found["rdma"]["rdma_dev"] = ",".join(function.rdma)
    if device.selector.vhost_net:
        found["vhost"] = {"net-mount": VHOST_NODES[0], "tun-mount": VHOST_NODES[1]}
    extra = {**pool.extra.get("*", {}), **pool.extra.get(function.address, {})}
    return {**found, "extra": extra} if extra else found

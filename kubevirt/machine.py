"""The parts of the VirtualMachineInstance that the sidecar reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from cni.errors import InvalidConfig

LARGEST = 2 << 20
"""The maximum size of the JSON, in bytes. etcd stores objects of at most 1.5 MB."""


def _list(value: Any) -> Any:
    return [] if value is None else value


def _object(value: Any) -> Any:
    return {} if value is None else value


class _Part(BaseModel):
    # Other fields may have any value: they come from a later KubeVirt or from other programs.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Binding(_Part):
    name: str = ""


class Interface(_Part):
    name: str
    model: str = ""
    mac_address: str = ""
    boot_order: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    pci_address: str = ""
    acpi_index: Annotated[int, Field(ge=0, le=(1 << 14) - 1)] = 0
    state: str = ""
    binding: Binding | None = None


class Cpu(_Part):
    cores: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    sockets: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    threads: Annotated[int, Field(ge=0, le=1 << 16)] = 0

    @property
    def count(self) -> int:
        """The number of CPUs; 0 if none of the three is given."""
        given = (self.cores, self.sockets, self.threads)
        return max(self.cores, 1) * max(self.sockets, 1) * max(self.threads, 1) if any(given) else 0


class Devices(_Part):
    interfaces: Annotated[list[Interface], BeforeValidator(_list)] = []
    network_interface_multiqueue: bool | None = None
    use_virtio_transitional: bool | None = None


class Firmware(_Part):
    uuid: str = ""


class DomainSpec(_Part):
    cpu: Cpu | None = None
    firmware: Firmware | None = None
    devices: Devices = Devices()


class Multus(_Part):
    network_name: str = ""
    default: bool = False


class Claim(_Part):
    claim_name: str = ""
    request_name: str = ""


class Network(_Part):
    name: str
    multus: Multus | None = None
    resource_claim: Claim | None = None

    @property
    def is_secondary(self) -> bool:
        return self.multus is not None and not self.multus.default


class PodClaim(_Part):
    name: str = ""
    resource_claim_name: str | None = None


class Spec(_Part):
    architecture: str = ""
    domain: DomainSpec = DomainSpec()
    networks: Annotated[list[Network], BeforeValidator(_list)] = []
    resource_claims: Annotated[list[PodClaim], BeforeValidator(_list)] = []


class InterfaceStatus(_Part):
    name: str = ""
    pod_interface_name: str = ""


class Status(_Part):
    interfaces: Annotated[list[InterfaceStatus], BeforeValidator(_list)] = []


class Metadata(_Part):
    name: str = ""
    namespace: str = ""
    annotations: Annotated[Mapping[str, str], BeforeValidator(_object)] = {}


class Machine(_Part):
    """The whole object."""

    metadata: Metadata = Metadata()
    spec: Spec = Spec()
    status: Status = Status()

    def of_binding(self, name: str) -> list[Interface]:
        """The interfaces of the network binding plugin with that name."""
        found = self.spec.domain.devices.interfaces
        return [each for each in found if each.binding is not None and each.binding.name == name]

    def network(self, name: str) -> Network | None:
        return next((each for each in self.spec.networks if each.name == name), None)


def parse(text: bytes) -> Machine:
    """The machine. Raises `InvalidConfig` with all problems of the parts that are read."""
    if len(text) > LARGEST:
        raise InvalidConfig(
            f"the VirtualMachineInstance has {len(text)} bytes, and {LARGEST} are the most that is read"
        )
    try:
        return Machine.model_validate_json(text)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc'])) or 'JSON'}: {each['msg']}" for each in error.errors()]
        raise InvalidConfig(f"the VirtualMachineInstance cannot be read: {'; '.join(problems)}") from error

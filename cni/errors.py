"""The catalogue of errors: every failure that a plugin reports is one of these classes.

The CNI specification defines the numbers 0 to 99; we define those from 100 on, and never reuse one. docs/errors.md is
generated from `cause` and `remedy`. The message describes the specific case, the hint contains the remedy.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class CniError(Exception):
    """A failure that is reported to the runtime: `code`, a one-line message, and a hint in `details`."""

    code: ClassVar[int]
    cause: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, msg: str, *, hint: str = "") -> None:
        super().__init__(msg)
        self.msg = msg
        self.hint = hint

    @property
    def details(self) -> str:
        """The field `details` of the error object: the hint, then notes that rollback added."""
        return "\n".join([self.hint] * bool(self.hint) + getattr(self, "__notes__", []))


class IncompatibleVersion(CniError):
    code = 1
    cause = "The plugin does not support the configuration's cniVersion, or this version does not have the command."
    remedy = "Use one of the versions that the message lists."


class UnsupportedField(CniError):
    code = 2
    cause = "The configuration has an unknown field and sets strictConfig."
    remedy = "Correct or remove the field that the message names."


class ContainerUnknown(CniError):
    code = 3
    cause = "The container does not exist; the runtime need not call DEL."
    remedy = "None: nothing is attached."


class InvalidEnvironment(CniError):
    code = 4
    cause = "A CNI_* environment variable is missing or malformed."
    remedy = "Runtimes set these variables. If you run the plugin by hand, set the variables that the message names."


class IoFailure(CniError):
    code = 5
    cause = "Reading the request or writing state failed."
    remedy = "Check the file or disk that the message names."


class DecodeFailure(CniError):
    code = 6
    cause = "The configuration is not valid JSON, or its cniVersion is malformed."
    remedy = "Correct the JSON at the position that the message names."


class InvalidConfig(CniError):
    code = 7
    cause = "The configuration has invalid values. The message lists all problems with their JSON paths."
    remedy = "Correct each listed value."


class InvalidNetns(CniError):
    code = 8
    cause = "CNI_NETNS is not a network namespace, or is the plugin's own namespace."
    remedy = "Pass the path of the container's network namespace."


class TryAgainLater(CniError):
    code = 11
    cause = "The cause is temporary: a lock, an unreachable service, a namespace that is still in use."
    remedy = "Repeat the call; the details name the cause."


class LinksUnsettled(TryAgainLater):
    """The links of a namespace change so fast that they cannot be listed. Processes in the namespace can cause this."""


class NotAvailable(CniError):
    code = 50
    cause = "The plugin cannot serve ADD now."
    remedy = "Provide the missing part that the message names."


class LimitedConnectivity(CniError):
    code = 51
    cause = "The plugin cannot serve ADD now, and existing containers may have lost connectivity."
    remedy = "Repair the part that the message names."


class DeviceBusy(CniError):
    code = 100
    cause = "The device, or this container's interface, belongs to another attachment or is in use on the host."
    remedy = "Wait for the owner's DEL, or give the pod another device; the message names the owner."


class DeviceNotFound(CniError):
    code = 101
    cause = "The host has no network device with this device ID, or with this PF and VF number."
    remedy = "Compare with /sys/bus/pci/devices and the PF's sriov_numvfs."


class DriverUnfit(CniError):
    code = 102
    cause = (
        "The device cannot be bound to the driver: the driver is not loaded, does not support the device, or the IOMMU "
        "group is not viable."
    )
    remedy = "Load the driver, name one that supports the device, or free the member of the IOMMU group that the message names."


class InterfaceExists(CniError):
    code = 104
    cause = "The pod already has an interface with the requested name."
    remedy = "Choose another interface name in the pod's network annotation."


class KernelRefused(CniError):
    """`number` is the errno, if the kernel returned one: some steps then use another method."""

    number: int = 0
    code = 105
    cause = (
        "The kernel or the device's driver refused a setting. The message names the field, the driver and the reason."
    )
    remedy = "Remove the setting, or use a device whose driver supports it."


class DelegateFailed(CniError):
    code = 106
    cause = "The IPAM plugin was not found, or returned neither a result nor an error."
    remedy = "Install it in a directory of CNI_PATH; check its output."


class CheckFailed(CniError):
    code = 107
    cause = "The attachment differs from the state that ADD created. The message lists every difference."
    remedy = "Recreate the pod, or revert the change of the device."


class AddressConflict(CniError):
    code = 108
    cause = "Another node on the network already has the IPv6 address (duplicate address detection)."
    remedy = "Free the address, or correct the range of the IPAM plugin."


class VswitchRefused(CniError):
    """`operation` is the index of the refused operation in its transaction, `reason` the error (RFC 7047)."""

    operation: int = -1
    reason: str = ""
    code = 110
    cause = "Open vSwitch could not create the port, or its database refused a change. The message contains the error of OVS."
    remedy = "Correct the cause; the log of ovs-vswitchd often contains more details."


class BridgeUnfit(CniError):
    code = 111
    cause = "The bridge does not exist, or does not use the userspace datapath (datapath_type netdev)."
    remedy = "Create the bridge with datapath_type netdev, name another one, or let the plugin create it."


class PortTaken(CniError):
    code = 112
    cause = "The vswitch already has a port with this name, for this socket path, or for this container's interface."
    remedy = "Wait for the owner's DEL, or remove the port that the message names."


class KubeRefused(CniError):
    code = 113
    cause = "The API server refused the request, or returned an invalid response."
    remedy = "Grant the permission that the message names to the user of the kubeconfig, or correct the credentials."


class RefusedForGood(KubeRefused):
    """The request had no effect, and will fail again until an administrator changes permissions or definitions."""


class PodNotFound(CniError):
    code = 114
    cause = "The API server has no such pod, or another pod has its name now."
    remedy = "None: the runtime is about to remove the sandbox."


class SocketDirUnfit(CniError):
    code = 115
    cause = "The directory of a vhost-user socket cannot be used: it does not exist, its path is not safe, or the vswitch cannot see it."
    remedy = "Check the path that the message names, the files that the pod has created there, and the mounts of ovs-vswitchd."


class AddressesExhausted(CniError):
    code = 116
    cause = "Every address of the ranges is in use."
    remedy = "Extend the ranges. `barewire-ipam list` shows the owners of the leases, and `barewire-ipam fsck` finds leaked ones."


class AddressTaken(CniError):
    code = 117
    cause = "A requested address is in use, is a gateway or excluded, or is in none of the ranges."
    remedy = "Request another address, or free the one that the message names."


class InternalError(CniError):
    code = 999
    cause = "A defect in the plugin."
    remedy = "Report it, with the log line that contains file and line number."


def catalogue() -> list[type[CniError]]:
    """All error classes, by code."""
    return sorted(CniError.__subclasses__(), key=lambda cls: cls.code)

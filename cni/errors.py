"""The catalogue of errors: every failure that a plugin reports is one of these classes.

The numbers 0 to 99 are the CNI specification's; 100 and above are ours and are never reused.
`cause` and `remedy` feed docs/errors.md; the message names the case at hand, the hint says what to do about it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class CniError(Exception):
    """A failure that the runtime is told about: `code`, a one-line message, and a hint in `details`."""

    code: ClassVar[int]
    cause: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, msg: str, *, hint: str = "") -> None:
        super().__init__(msg)
        self.msg = msg
        self.hint = hint

    @property
    def details(self) -> str:
        """What goes into the error object's `details`: the hint, then notes that rollback added."""
        return "\n".join([self.hint] * bool(self.hint) + getattr(self, "__notes__", []))


class IncompatibleVersion(CniError):
    code = 1
    cause = "The configuration's cniVersion is not one that the plugin supports, or does not know this command."
    remedy = "Use one of the versions that the message lists."


class UnsupportedField(CniError):
    code = 2
    cause = "The configuration has a field that is not known, and it says strictConfig."
    remedy = "Correct or remove the field that the message names."


class ContainerUnknown(CniError):
    code = 3
    cause = "The container does not exist; the runtime need not call DEL."
    remedy = "None: nothing is attached."


class InvalidEnvironment(CniError):
    code = 4
    cause = "A CNI_* environment variable is missing or malformed."
    remedy = "A runtime sets these; by hand, set the variables that the message names."


class IoFailure(CniError):
    code = 5
    cause = "Reading the request or writing state failed."
    remedy = "Look at the named file or disk."


class DecodeFailure(CniError):
    code = 6
    cause = "The configuration is not JSON, or its version is not a version."
    remedy = "Correct the JSON at the named place."


class InvalidConfig(CniError):
    code = 7
    cause = "The configuration has values that cannot be right. All problems are listed, with their JSON paths."
    remedy = "Correct each listed value."


class InvalidNetns(CniError):
    code = 8
    cause = "CNI_NETNS is not a network namespace, or is the plugin's own."
    remedy = "Pass the path of the container's network namespace."


class TryAgainLater(CniError):
    code = 11
    cause = "Something that passes by itself is in the way: a lock, an unreachable service, a namespace still in use."
    remedy = "Repeat the call; the details say what is awaited."


class LinksUnsettled(TryAgainLater):
    """The links of a namespace change all the time, so that nobody can list them: its inhabitants can cause that."""


class NotAvailable(CniError):
    code = 50
    cause = "The plugin cannot serve ADD now."
    remedy = "The message says what is missing."


class LimitedConnectivity(CniError):
    code = 51
    cause = "The plugin cannot serve ADD now, and existing containers may have lost connectivity."
    remedy = "The message says what is down."


class DeviceBusy(CniError):
    code = 100
    cause = "The device, or this container's interface, belongs to another attachment or is in use on the host."
    remedy = "Wait for the owner's DEL, or give the pod another device; the message names the owner."


class DeviceNotFound(CniError):
    code = 101
    cause = "The device ID, or the PF and VF number, name no network device that the host has."
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
    """`number` is the errno, where the kernel gave one: some steps have another way to go then."""

    number: int = 0
    code = 105
    cause = "The kernel or the device's driver refused a setting. The message names field, driver and reason."
    remedy = "Remove the setting, or use a device whose driver knows it."


class DelegateFailed(CniError):
    code = 106
    cause = "The IPAM plugin was not found, or did not answer with a result or an error."
    remedy = "Install it in a directory of CNI_PATH; look at what it printed."


class CheckFailed(CniError):
    code = 107
    cause = "CHECK found that the attachment is not as ADD made it. Every difference is listed."
    remedy = "Recreate the pod, or undo what changed the device."


class AddressConflict(CniError):
    code = 108
    cause = "Another node on the network already has the IPv6 address (duplicate address detection)."
    remedy = "Free the address, or correct the range that the IPAM plugin serves."


class VswitchRefused(CniError):
    """`operation` is the refused operation's place in its transaction, `reason` the database's word (RFC 7047)."""

    operation: int = -1
    reason: str = ""
    code = 110
    cause = "Open vSwitch could not make the port, or its database refused a change. The message has OVS's own words."
    remedy = "Correct what OVS complains about; ovs-vswitchd's log often says more."


class BridgeUnfit(CniError):
    code = 111
    cause = "The bridge does not exist, or is not of the userspace datapath (datapath_type netdev)."
    remedy = "Create the bridge with datapath_type netdev, name another one, or let the plugin create it."


class PortTaken(CniError):
    code = 112
    cause = "The vswitch already has a port of this name, of this socket path, or of this container's interface."
    remedy = "Wait for the owner's DEL, or remove the port that the message names."


class KubeRefused(CniError):
    code = 113
    cause = "The API server refused the request, or gave an answer that cannot be right."
    remedy = "Grant what the message names to the user of the kubeconfig, or correct the credentials."


class RefusedForGood(KubeRefused):
    """The same, where nothing was done, and each repetition ends alike until somebody changes rights or definitions."""


class PodNotFound(CniError):
    code = 114
    cause = "The API server has no such pod, or another pod has its name now."
    remedy = "None: the runtime is about to remove the sandbox."


class SocketDirUnfit(CniError):
    code = 115
    cause = "The directory of a vhost-user socket cannot be used: it is not there, not reached safely, or not seen by the vswitch."
    remedy = "The message names the path; look at what the pod has put there, and at the mounts that ovs-vswitchd sees."


class AddressesExhausted(CniError):
    code = 116
    cause = "Every address of the ranges is in use."
    remedy = "Widen the ranges; `barewire-ipam list` and `barewire-ipam fsck` show who has what, and what leaked."


class AddressTaken(CniError):
    code = 117
    cause = "A requested address is in use, is a gateway or excluded, or is in none of the ranges."
    remedy = "Request another address, or free the one that the message names."


class InternalError(CniError):
    code = 999
    cause = "A defect in the plugin."
    remedy = "Report it, with the log line that names the place."


def catalogue() -> list[type[CniError]]:
    """All error classes, by code."""
    return sorted(CniError.__subclasses__(), key=lambda cls: cls.code)

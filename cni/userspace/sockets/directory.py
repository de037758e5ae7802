"""The directory of a socket as a value, and the rules about names and paths. Pure."""

from __future__ import annotations

from cni.errors import InvalidEnvironment, SocketDirUnfit
from cni.names import is_file_name
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    from cni.userspace.conf_sections import UserspaceConfDict, VhostDict

    class DirectoryDict(TypedDict, total=False):
        """A `SocketDirectory` in a record.

        Records of earlier versions lack `absent`, `of_pod`, `since`, `parents` and `by_default`; a damaged record can
        lack any key.
        """

        root: str
        path: str
        made: bool
        absent: bool
        of_pod: bool
        mount: str
        since: int
        parents: list[str]
        owner: int | None
        group: str
        mode: int | None
        acl: list[str]
        selinux_label: str
        by_default: bool

    class OwnershipDict(TypedDict):
        """The fields of `SocketDirectory` that a configuration decides."""

        owner: int | None
        group: str
        mode: int | None
        acl: tuple[str, ...]
        selinux_label: str


OWN_DIRECTORIES = "/run/barewire/sockets"
"""The directories for pods without a volume for sockets, if no other directory is configured."""

NAME_BYTES = 255
"""The maximum length of a file name."""

_UID_CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-")
_PERMISSIONS = {"r": 4, "w": 2, "x": 1, "-": 0}
_LARGEST_ID = (1 << 32) - 2


class SocketDirectory(Value):
    """The directory where an application creates its socket, and where the vswitch finds it.

    Only root controls `root`. Everything below it may belong to the pod, and no symbolic link in it is followed.
    `made`: ADD creates the directory, and DEL removes it with its content. `absent`: ADD also creates it, but it
    belongs to the pod: DEL removes it if it is empty. `parents` are the directories above it that ADD created on the
    way, the innermost first; DEL removes those that are empty. `of_pod`: no other pod uses the directory, and neither
    does the host. `mount` is the short directory through which the vswitch reaches it; empty if the vswitch gets `path`
    itself. `since` is the time of the ADD in seconds: older files were there before and are not ours; 0 in records that
    do not contain it. The other fields are applied to the directory: IDs and permission bits, unless they are None or
    empty; `acl` has entries such as user:107:rwx. `by_default`: the network requests none of them; they
    never conflict with those of another network.
    """

    root: str
    path: str
    made: bool = False
    absent: bool = False
    of_pod: bool = False
    mount: str = ""
    since: int = 0
    parents: tuple[str, ...] = ()
    owner: int | None = None
    group: str = ""
    mode: int | None = None
    acl: tuple[str, ...] = ()
    selinux_label: str = ""
    by_default: bool = False

    def as_document(self) -> DirectoryDict:
        """The directory as JSON values, for the record."""
        fields: Any = {**self.as_dict(), "acl": list(self.acl), "parents": list(self.parents)}
        document: DirectoryDict = fields
        return document

    @classmethod
    def from_document(cls, document: DirectoryDict) -> SocketDirectory:
        """The directory that a record describes, also a record of an earlier version.

        Earlier versions recorded a root that a pod could write to. Its parent belongs to root.
        """
        fields: dict[str, object] = {
            **document,
            "acl": tuple(document["acl"]),
            "parents": tuple(document.get("parents") or ()),
        }
        if "since" not in document:
            fields["root"] = str(document["root"]).rstrip("/").rpartition("/")[0] or "/"
        values: Any = fields
        return cls(**values)

    @property
    def above(self) -> list[str]:
        """The paths of the directories between root and path, the innermost first."""
        names = self.below[:-1]
        return ["/".join([self.root.rstrip("/"), *names[:count]]) for count in range(len(names), 0, -1)]

    @property
    def below(self) -> list[str]:
        """The names between root and path. Raises `SocketDirUnfit` for one that leads up."""
        return [entry(name) for name in self.path[len(self.root) :].split("/") if name]


def entry(name: str) -> str:
    """The name, if it can only refer to an entry of its directory. Raises `SocketDirUnfit`."""
    if not is_file_name(name) or len(name.encode(errors="surrogateescape")) > NAME_BYTES:
        raise SocketDirUnfit(
            f"{name!r} is no file's name", hint="it comes from the configuration or from a damaged record"
        )
    return name


def own(name: str) -> SocketDirectory:
    """The directory that we create for the port of that name."""
    return SocketDirectory(root=OWN_DIRECTORIES, path=f"{OWN_DIRECTORIES}/{name}", made=True)


def vhost_of(conf: UserspaceConfDict) -> VhostDict:
    """The section `host.vhost`, which describes the socket; empty if the configuration has none."""
    return (conf.get("host") or {}).get("vhost") or {}


def ownership(conf: UserspaceConfDict) -> OwnershipDict:
    """The owner and the permissions according to a configuration."""
    section = conf.get("socketDirectory") or {}
    named = vhost_of(conf).get("group")
    group, mode = section.get("group"), section.get("mode")
    return {
        "owner": section.get("owner"),
        "group": named or ("" if group is None else str(group)),
        "mode": int(mode, 8) if mode else None,
        "acl": tuple(section.get("acl") or ()),
        "selinux_label": section.get("selinuxLabel") or "",
    }


def is_decided(conf: UserspaceConfDict) -> bool:
    """Whether a configuration decides about owner and permissions. An empty `socketDirectory` leaves all as it is."""
    return conf.get("socketDirectory") is not None or vhost_of(conf).get("group") is not None


def kubelet_folder(kubelet_root: str, uid: str) -> str:
    """The kubelet's directory of a pod. Raises `InvalidEnvironment` for an invalid UID."""
    if not 0 < len(uid) <= 64 or not _UID_CHARACTERS.issuperset(uid):
        raise InvalidEnvironment(f"CNI_ARGS K8S_POD_UID: {uid!r} is not the UID of a pod")
    return f"{kubelet_root.rstrip('/')}/pods/{uid}"


def kubelet_volumes(kubelet_root: str, uid: str) -> str:
    """The kubelet's directory of a pod's emptyDir volumes. Raises `InvalidEnvironment` for an invalid UID."""
    return f"{kubelet_folder(kubelet_root, uid)}/volumes/kubernetes.io~empty-dir"


def acl_entry(text: str) -> tuple[str, int, int]:
    """(user or group, ID, permission bits) of an entry such as user:107:rwx. Raises `ValueError`."""
    kind, _, rest = text.partition(":")
    number, _, letters = rest.partition(":")
    if kind not in ("user", "group") or not number.isascii() or not number.isdecimal() or int(number) > _LARGEST_ID:
        raise ValueError(f"{text!r} is not user:ID:rwx or group:ID:rwx")
    if len(letters) != 3 or any(letter not in (place, "-") for letter, place in zip(letters, "rwx", strict=True)):
        raise ValueError(f"{text!r} does not end in permissions such as rwx or r-x")
    return kind, int(number), sum(_PERMISSIONS[letter] for letter in letters)


def permissions(text: str) -> int:
    """Permission bits in octal digits. Raises `ValueError`."""
    if not 3 <= len(text) <= 4 or set(text) - set("01234567"):
        raise ValueError(f"{text!r} is not a number of three or four octal digits")
    return int(text, 8)

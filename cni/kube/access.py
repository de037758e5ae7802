"""Which kubeconfigs may be read, and which files they may name. Looks at nothing."""

from __future__ import annotations

import os

from cni.errors import InvalidConfig
from cni.host.trusted import Roots
from cni.paths import is_below, is_plain_path
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.node.node import NodeConf

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

USUAL = (
    "/etc/cni",
    "/etc/kubernetes/cni",
    "/run/multus",
    "/var/lib/rancher/k3s/agent/etc/cni",
    "/var/lib/rancher/rke2/agent/etc/cni",
    "/var/snap/microk8s/current/args/cni-network",
)
"""Where Multus, whereabouts and other CNI plugins keep kubeconfigs of their own, in the usual distributions.

No kubeconfig of an administrator or a kubelet is there, which would give a network's author their rights.
"""


class Access(Value):
    """Access to API servers: `default` is the kubeconfig of who names none, empty for a pod's own credentials.

    `usual` are the places of kubeconfigs that a network may name, `named` those that the node configuration adds, and
    `credentials` more places of certificates, keys and tokens. `start` is where judging begins (`Roots.start`).
    """

    default: str = ""
    named: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    usual: tuple[str, ...] = USUAL
    start: str = "/"

    def kubeconfigs(self) -> Roots:
        default = (self.default,) if self.default else ()
        return Roots(allowed=(*self.usual, *self.named, *default), key="kubernetes.kubeconfigs", start=self.start)

    def files(self, kubeconfig: str) -> Roots:
        """What may be named by that kubeconfig. The administrator's may name any file that only root can change."""
        if kubeconfig == self.default or is_below(kubeconfig, self.named):
            return Roots(allowed=("/",), start=self.start)
        allowed = (os.path.dirname(kubeconfig), *self.usual, *self.credentials)
        return Roots(allowed=allowed, key="addresses.credentials", start=self.start)

    def chosen(self, kubeconfig: str) -> str:
        """The kubeconfig to use; empty for a pod's own credentials. Raises `InvalidConfig`."""
        if kubeconfig and not is_plain_path(kubeconfig):
            raise InvalidConfig(f"kubeconfig: {kubeconfig!r} is not an absolute path without . and ..")
        return kubeconfig or self.default


def access_of(node: NodeConf, start: str = "/") -> Access:
    """What the node configuration allows."""
    return Access(
        default=node.kubernetes.kubeconfig,
        named=node.kubernetes.kubeconfigs,
        credentials=node.addresses.credentials,
        usual=tuple(dict.fromkeys((*USUAL, *node.cni_conf_dirs))),
        start=start,
    )


def of_service_account(folder: str = SERVICE_ACCOUNT) -> Roots:
    """The folder with a pod's credentials. The kubelet makes it writable for all, with the sticky bit."""
    return Roots(allowed=(folder,), start=folder)

"""The kubeconfigs that may be read, and the files that they may name. It does not access files."""

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
"""The locations of kubeconfigs of Multus, whereabouts and other CNI plugins, in the usual distributions.

They contain no kubeconfig of an administrator or a kubelet, which would give its permissions to a network's author.
"""


class Access(Value):
    """Access to API servers. `default` is the kubeconfig for networks without one, empty for a pod's own credentials.

    `usual` are the locations of kubeconfigs that a network may name, `named` those that the node configuration adds,
    and `credentials` further locations of certificates, keys and tokens. `owners` and `start` are those of `Roots`.
    """

    default: str = ""
    named: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    usual: tuple[str, ...] = USUAL
    owners: tuple[int, ...] = ()
    start: str = "/"

    def kubeconfigs(self) -> Roots:
        default = (self.default,) if self.default else ()
        return self._roots((*self.usual, *self.named, *default), "kubernetes.kubeconfigs")

    def files(self, kubeconfig: str) -> Roots:
        """The files that the kubeconfig may name.

        The administrator's kubeconfig may name any file that only root can change.
        """
        if kubeconfig == self.default or is_below(kubeconfig, self.named):
            return self._roots(("/",))
        return self._roots((os.path.dirname(kubeconfig), *self.usual, *self.credentials), "addresses.credentials")

    def _roots(self, allowed: tuple[str, ...], key: str = "") -> Roots:
        return Roots(allowed=allowed, key=key, owners=self.owners, start=self.start)

    def chosen(self, kubeconfig: str) -> str:
        """The kubeconfig to use; empty for a pod's own credentials. Raises `InvalidConfig`."""
        if kubeconfig and not is_plain_path(kubeconfig):
            raise InvalidConfig(f"kubeconfig: {kubeconfig!r} is not an absolute path without . and ..")
        return kubeconfig or self.default


def access_of(node: NodeConf, start: str = "/") -> Access:
    """The access that the node configuration allows."""
    return Access(
        default=node.kubernetes.kubeconfig,
        named=node.kubernetes.kubeconfigs,
        credentials=node.addresses.credentials,
        usual=tuple(dict.fromkeys((*USUAL, *node.cni_conf_dirs))),
        owners=node.trusted_owners,
        start=start,
    )


def of_service_account(folder: str = SERVICE_ACCOUNT) -> Roots:
    """The folder with a pod's credentials. The kubelet makes it writable for all, with the sticky bit."""
    return Roots(allowed=(folder,), start=folder)

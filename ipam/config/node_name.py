"""What the kubelet calls this node, as the certificate says by which it authenticates at the API server.

Command lines and configuration files of kubelets tell it in many ways, and a cloud provider may overrule them all. The
certificate's subject is what the API server goes by: `system:node:NAME`.
"""

from __future__ import annotations

import binascii

from cni.errors import InvalidConfig
from cni.host.trusted import Roots
from cni.names import is_identifier

CERTIFICATES = (
    "{kubelet}/pki/kubelet-client-current.pem",
    "/var/lib/rancher/rke2/agent/client-kubelet.crt",
    "/var/lib/rancher/k3s/agent/client-kubelet.crt",
)
"""Of kubelets by kubeadm and OpenShift, which rotate it, of RKE2 and of k3s."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_USER = b"system:node:"
_TEXTS = (0x0C, 0x13)
"""DER's tags of UTF8String and PrintableString."""


def of_kubelet(kubelet: str, start: str = "/", owners: tuple[int, ...] = ()) -> str:
    """The name, where a kubelet with a certificate is on this node; else empty. `kubelet` is its directory.

    `start` and `owners` are those of `Roots`.
    """
    roots = Roots(allowed=("/",), owners=owners, start=start)
    for path in (template.format(kubelet=kubelet.rstrip("/")) for template in CERTIFICATES):
        try:
            content = roots.content(path, "the kubelet's certificate")
        except InvalidConfig:
            continue
        name = name_in(content)
        if name:
            return name
    return ""


def name_in(content: bytes) -> str:
    """The node's name in the first certificate of a file in PEM; empty where there is none."""
    text = content.partition(_BEGIN)[2].partition(_END)[0]
    try:
        return _named(binascii.a2b_base64(text))
    except ValueError:
        return ""


def _named(der: bytes) -> str:
    """A text is its tag, its length in one byte (it is short), and itself."""
    at = der.find(_USER)
    if at < 2 or der[at - 2] not in _TEXTS:
        return ""
    name = der[at : at + der[at - 1]].removeprefix(_USER).decode("ascii", "replace")
    return name if is_identifier(name) else ""

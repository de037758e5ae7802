"""The kubelet's name for this node, from the certificate with which it authenticates to the API server.

Kubelets can be given the name by command line or configuration file in many ways, and a cloud provider may override
them all. The API server relies on the subject of the certificate: `system:node:NAME`.
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
"""The certificates of kubelets set up by kubeadm and OpenShift (which rotate it), RKE2, and k3s."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_USER = b"system:node:"
_TEXTS = (0x0C, 0x13)
"""DER tags of UTF8String and PrintableString."""


def of_kubelet(kubelet: str, start: str = "/", owners: tuple[int, ...] = ()) -> str:
    """The node's name, if a kubelet with a certificate is on this node, else empty.

    `kubelet` is the kubelet's directory; `start` and `owners` are those of `Roots`.
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
    """The node's name in the first certificate of a PEM file; empty if it contains none."""
    text = content.partition(_BEGIN)[2].partition(_END)[0]
    try:
        return _named(binascii.a2b_base64(text))
    except ValueError:
        return ""


def _named(der: bytes) -> str:
    """The name in a DER certificate.

    DER encodes a string as its tag, its length (one byte, since it is short), and its bytes.
    """
    at = der.find(_USER)
    if at < 2 or der[at - 2] not in _TEXTS:
        return ""
    name = der[at : at + der[at - 1]].removeprefix(_USER).decode("ascii", "replace")
    return name if is_identifier(name) else ""

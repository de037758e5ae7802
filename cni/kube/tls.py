"""TLS to an API server, configured by its kubeconfig."""

from __future__ import annotations

import os
import ssl

from cni.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cni.kube.config import Cluster


def tls(cluster: Cluster) -> ssl.SSLContext:
    """The TLS context. Raises `InvalidConfig` for invalid certificates and keys."""
    # ssl.create_default_context requires more (VERIFY_X509_STRICT) than the authorities of many clusters provide.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not cluster.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif cluster.authority:
        _load_authority(context, cluster)
    else:
        context.load_default_certs()
    if cluster.certificate:
        _load_identity(context, cluster)
    return context


def server_name(cluster: Cluster) -> bytes:
    """The required name in the server's certificate. In bytes: ssl would need the codec `idna` for any text."""
    return (cluster.server_name or cluster.host).encode("ascii")


def _load_authority(context: ssl.SSLContext, cluster: Cluster) -> None:
    # Comments between certificates may be in any encoding; ssl requires ASCII, and OpenSSL skips them.
    text = cluster.authority.decode("ascii", "ignore")
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfig(f"{cluster.origin}: certificate-authority contains no certificate in PEM") from error


def _load_identity(context: ssl.SSLContext, cluster: Cluster) -> None:
    # ssl accepts a key only as a file name; this file is in memory, and disappears with its descriptor.
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(cluster.certificate + b"\n" + cluster.key)
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfig(f"{cluster.origin}: client-certificate and client-key are not a pair in PEM") from error
    finally:
        os.close(fd)


def _no_password() -> NoReturn:
    # Without this, OpenSSL would prompt for it on the terminal, and wait.
    raise ValueError("the key is encrypted")

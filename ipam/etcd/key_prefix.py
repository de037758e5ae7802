"""Prefixes of keys in etcd that belong to other programs. Pure."""

from __future__ import annotations

OTHERS = frozenset(
    (
        *("registry", "kubernetes", "kubernetes.io", "k8s.io", "openshift.io", "bootstrap", "k3s", "kine"),
        *("calico", "cilium", "coreos.com", "atomic.io", "contiv.io", "flannel", "romana"),
        *("apisix", "patroni", "service", "skydns", "traefik", "vitess"),
    )
)
"""First components of keys of Kubernetes and its distributions, network plugins, and other users of etcd.

An object that an API server cannot decode breaks every list of its resource.
"""


def problem_of(prefix: str) -> str:
    """The reason why the prefix must not be used; empty if it may be."""
    parts = prefix.rstrip("/").split("/")
    if not prefix.startswith("/") or not prefix.isprintable() or {"", ".", ".."} & set(parts[1:]) or len(parts) == 1:
        return "is not of the form /NAME or /NAME/NAME"
    if parts[1].lower() in OTHERS:
        return f"belongs to another program, which keeps its data below /{parts[1]}"
    return ""

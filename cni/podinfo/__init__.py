"""Interfaces, huge pages and CPUs of a container, for programs inside a pod.

    from cni.podinfo import interfaces
    for found in interfaces()["Interface"]:
        print(found["device-type"], found["network-status"].get("device-info"))

The documents have the format of app-netutil. `python -m cni.podinfo` prints them as JSON.

This directory can be copied into images, also under another name: it imports only the standard library and itself, with
relative imports.
"""

from __future__ import annotations

from .cpuset import cpus
from .hugepages import hugepages
from .merging import interfaces
from .reading import PodInfoError

__all__ = ["interfaces", "hugepages", "cpus", "PodInfoError"]

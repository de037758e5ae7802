"""What a container needs to know of its interfaces, huge pages and CPUs: for programs inside a pod.

    from cni.podinfo import interfaces
    for found in interfaces()["Interface"]:
        print(found["device-type"], found["network-status"].get("device-info"))

The documents have the shape of app-netutil's. `python -m cni.podinfo` prints them as JSON.

This folder is copied into images, alone or under another name: it imports the standard library and itself, and its
modules name each other relatively.
"""

from __future__ import annotations

from .cpuset import cpus
from .hugepages import hugepages
from .merging import interfaces
from .reading import PodInfoError

__all__ = ["interfaces", "hugepages", "cpus", "PodInfoError"]

"""The example of a DaemonSet gives the device plugin no more of the node than it needs."""

from __future__ import annotations

from pathlib import Path

import yaml

KUBELET = "/var/lib/kubelet"
MANIFEST = Path(__file__).parents[2] / "conf-examples/node-daemonset.yaml"


def test_of_the_kubelets_directory_only_the_folders_with_its_sockets_are_mounted():
    """The whole directory has the volumes of all pods, with their secrets, and the kubelet's own key."""
    pod = yaml.safe_load(MANIFEST.read_text())["spec"]["template"]["spec"]
    host = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    mounts = {mount["mountPath"]: host.get(mount["name"]) for mount in pod["containers"][0]["volumeMounts"]}
    sockets = {f"{KUBELET}/{folder}" for folder in ("device-plugins", "pod-resources", "plugins_registry")}
    above = {path for path in mounts if f"{KUBELET}/".startswith(f"{path}/")}
    assert {path for path in mounts if path.startswith(KUBELET)} | above == sockets
    assert {mounts[path] for path in sockets} == sockets, "the kubelet's sockets have the same place outside"

"""The ways to start a node's plugins in a mount namespace other than the host's."""

from __future__ import annotations

_THICK = """
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/hostroot /mnt/host/run /mnt/opt/cni/bin /mnt/var/lib/kubelet /mnt/run/netns /mnt/run/k8s.cni.cncf.io
mkdir -p /run/netns /run/k8s.cni.cncf.io /opt/cni/bin /var/lib/kubelet
mount --rbind / /mnt/hostroot
mount --make-rslave /mnt/hostroot
for place in /var/lib/kubelet /run/netns; do mount --rbind $place /mnt$place; mount --make-rslave /mnt$place; done
for place in /opt/cni/bin /run/k8s.cni.cncf.io; do mount --rbind $place /mnt$place; mount --make-rprivate /mnt$place; done
mount --rbind /run /mnt/host/run
mount --make-rprivate /mnt/host/run
exec chroot /mnt/hostroot "$@"
"""
"""The mounts of deployments/multus-daemonset-thick.yml of Multus 4.2, and its chrootDir.

Without mountPropagation a container runtime makes a mount private.
"""

THICK = ("unshare", "--mount", "--propagation", "slave", "sh", "-ec", _THICK, "sh")
"""The command that starts a program as Multus' thick daemon starts plugins.

The program runs in the daemon's container, in a chroot of the host's root.
"""

DAEMON = (*THICK, "sh", "-c", "echo $$; echo $$ >/run/thick.pid; exec sleep infinity")
"""The daemon itself, which starts before the pods, and prints its process ID."""


def below(daemon: str) -> tuple[str, ...]:
    """The command that starts a program as the daemon with that process ID starts plugins."""
    return ("nsenter", f"--target={daemon}", "--mount", "--root", "--wd")


ENCAPSULATED = ("unshare", "--mount", "--propagation", "slave")
"""The command that starts a kubelet and a container runtime whose mounts are hidden from the host (OpenShift's kubens).
"""

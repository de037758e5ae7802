"""A node configuration that permits networks to name the tests' files in the directory of temporary files.

That directory is writable for all users, so the checks of paths start there.
"""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

from cni.host.trusted import Roots
from cni.kube.access import Access
from cni.node.node import AddressPolicy, NodeConf
from ipam.config.policy import Policy
from ipam.etcd.cluster import open_etcd
from ipam.kubernetes.cluster import open_kubernetes

TOP = tempfile.gettempdir()

ROOTS = Roots(allowed=(TOP,), start=TOP)
ACCESS = Access(usual=(TOP,), start=TOP)


def node(**more: Any) -> NodeConf:
    addresses = AddressPolicy(data_roots=(TOP,), resolv_confs=(TOP,), credentials=(TOP,))
    return NodeConf(**{"addresses": addresses, "cni_conf_dirs": (TOP,), **more})


POLICY = Policy(node=node(), start=TOP, flat_files=())

opened_etcd = partial(open_etcd, certificates=ROOTS)
opened_kubernetes = partial(open_kubernetes, access=ACCESS)

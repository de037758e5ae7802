"""The real kernel, igb and igbvf fulfil the contract of the `Kernel` port, as FakeKernel does, through our adapter."""

from __future__ import annotations

import pytest

from tests.contract.kernel_contract import CONTRACT
from tests.lab.image import REPOSITORY

GUEST_SOURCE = "/run/source"
CODE = """
import sys
sys.path.insert(0, {source!r})
from cni.host.kernel import HostKernel
from cni.log import Log
from cni.pci import PciAddress
from tests.contract.kernel_contract import CONTRACT, Host
kernel = HostKernel(Log({{}}))
CONTRACT[{name!r}](Host(kernel, PciAddress({device!r}), kernel.netns({netns!r}), {pf_name!r}))
"""


@pytest.mark.leaves_traces("a MAC address that the PF has seen stays the VF's permanent one")
def test_the_real_kernel_keeps_the_contract(lab):
    pod, vf = lab.pod(), lab.vfs[0]
    lab.vm.put_tree(REPOSITORY / "cni", f"{GUEST_SOURCE}/cni")
    lab.vm.put(
        f"{GUEST_SOURCE}/tests/contract/kernel_contract.py",
        (REPOSITORY / "tests/contract/kernel_contract.py").read_bytes(),
    )
    kept = []
    for name in CONTRACT:
        code = CODE.format(source=GUEST_SOURCE, name=name, device=vf.address, netns=pod.netns, pf_name=lab.pf.netdev)
        done = lab.vm.python(code, check=False)
        assert done.rc == 0, f"{name}: {done.out}{done.err}"
        kept.append(name)
    assert kept == list(CONTRACT)

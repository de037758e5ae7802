"""FakeKernel fulfils the contract of the `Kernel` port; tests/lab/test_kernel_real.py tests the real kernel."""

from __future__ import annotations

import pytest

from cni.pci import PciAddress
from tests.contract.kernel_contract import CONTRACT, Host
from tests.fakes import FakeKernel


@pytest.mark.parametrize("name", CONTRACT)
def test_the_fake_kernel_keeps_the_contract(name):
    kernel = FakeKernel()
    CONTRACT[name](Host(kernel, PciAddress("0000:01:10.0"), kernel.add_netns("/run/netns/pod"), "eth0"))

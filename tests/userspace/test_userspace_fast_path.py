"""The imports of the frozen `userspace` on the calls of a runtime."""

from __future__ import annotations

from tests.cli.program import TRACED, Program, imported
from tests.fastpath import forbidden

OURS = {"type": "barewire-ipam", "subnet": "192.0.2.0/24"}


def test_no_call_of_a_runtime_imports_a_heavy_module(node):
    pod, found = node.pod("shared-dir"), {}
    node.program, frozen = Program((str(TRACED / "userspace"),)), node.program
    try:
        for command in ("STATUS", "ADD", "CHECK", "DEL", "VERSION"):
            outcome = node.call(command, node.conf(ipam=OURS), pod).required()
            found[command] = imported(outcome.err)
    finally:
        node.program = frozen
    assert {command: forbidden(modules) for command, modules in found.items()} == {command: [] for command in found}
    # Attributes of `os` that build/lean_os.py does not have.
    assert [command for command, modules in found.items() if "_collections_abc" in modules] == []
    assert "cni.userspace.plugin" in found["ADD"]
    assert "ipam.local.store" in found["ADD"]
    assert "cni.userspace.plugin" not in found["VERSION"]

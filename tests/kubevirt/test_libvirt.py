"""libvirt accepts the domains that the sidecar returns. tests/contract/test_vhost_consumers.py starts them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from kubevirt import domain as domains, machine as machines
from kubevirt.facts import Fact
from kubevirt.port import Sight
from tests.kubevirt_hooks.domains import BINDING, LATER, NAMES, bound, domain, machine
from tests.kubevirt_hooks.schema import read_back
from tests.ovs.domain import ACCOUNTS, INSIDE, NAMESPACES, QEMU_CONF
from tests.ovs.guest_image import CACHE

SECONDS = 120
FULL = bound(bootOrder=1, pciAddress="0000:05:00.0", acpiIndex=7, state="down")


def change(text: bytes, vmi: dict[str, Any]) -> bytes:
    sight = Sight(info={"dataplane": Fact(mtu=9000)}, claims={})
    return domains.change(text, machines.parse(json.dumps(vmi).encode()), BINDING, sight)


def given(name: str) -> bytes:
    """A domain for a machine without KVM and swtpm, and without elements that libvirt accepts but not its schema."""
    text = domain(name).replace(b'type="kvm"', b'type="qemu"', 1).replace(b'mode="host-model"', b'mode="maximum"')
    return re.sub(rb"<smbios.*?</smbios>|<sysinfo.*?</sysinfo>|<tpm.*?</tpm>", b"", text, flags=re.DOTALL)


def test_libvirt_defines_the_domains_of_both_passes_and_finds_them_in_its_schema(tmp_path):
    """One virsh for all of them, because the first query of QEMU takes seconds."""
    files: list[Path] = []
    for name in sorted(set(NAMES) - set(LATER)):
        first = change(given(name), machine(FULL))
        for number, text in enumerate((first, change(read_back(first), machine(FULL)))):
            files.append(tmp_path / f"{name}-{number}.xml")
            files[-1].write_bytes(text.replace(b"default_router", f"{name}-{number}".encode()))
    root = tmp_path / "libvirt"
    (root / "etc").mkdir(parents=True)
    (root / "etc/qemu.conf").write_text(QEMU_CONF)
    (CACHE / "libvirt").mkdir(parents=True, exist_ok=True)
    (root / "cache").symlink_to(CACHE / "libvirt")
    for account, line in ACCOUNTS.items():
        (tmp_path / account).write_text(Path("/etc", account).read_text() + line)
    done = subprocess.run(
        [*NAMESPACES, "sh", "-ec", INSIDE, str(tmp_path)],
        input="".join(f"define {file} --validate\n" for file in files),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "LIBVIRT_LOG_OUTPUTS": f"3:file:{tmp_path}/libvirt.log"},
        check=False,
    )
    # Each response consists of libvirt's output, a separator and a status.
    assert done.stdout.replace("\n", "") == "\x1e0" * len(files)

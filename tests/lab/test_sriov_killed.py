"""`kill -9` at each message that ADD or DEL sends to the kernel, and at each change of a file: the next DEL mends it all.

strace kills the frozen program at the n-th call of a kind; n runs until a call completes. The counts are printed.
"""

from __future__ import annotations

import pytest

from tests.lab.attaching import changes, conf

HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "10.56.30.0/24"}]]}
SETTINGS = {"vlan": 100, "trust": "on", "mac": "02:00:00:00:1e:01", "mtu": 1400, "ipam": HOST_LOCAL}
KINDS = ("sendto", "rename", "link", "unlink", "symlink")
MOST = 60


def killed_call(lab, command, document, pod, kind, number):
    """One call that dies at its n-th system call of that kind; None when it completed before."""
    strace = ("strace", "-o", "/dev/null", "-e", f"trace={kind}", "-e", f"inject={kind}:signal=KILL:when={number}")
    running = lab.runtime.start(command, document, pod, prefix=strace)
    done = running.wait(90)
    return None if done.rc == 0 else done


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_call_that_is_killed_anywhere_is_mended_by_the_next_del(lab, command):
    vf, pod = lab.vfs[0], lab.pod()
    document = conf(vf, **SETTINGS)
    counts = {}
    for kind in KINDS:
        for number in range(1, MOST):
            if command == "DEL":
                lab.runtime.add(document, pod).required()
            killed = killed_call(lab, command, document, pod, kind, number)
            lab.runtime.delete(document, pod).required()
            assert changes(lab) == [], f"{command} killed at {kind} {number}"
            if killed is None:
                counts[kind] = number - 1
                break
    print(f"{command}: killed at", counts)
    assert counts.keys() == set(KINDS)
    assert counts["sendto"] > 10

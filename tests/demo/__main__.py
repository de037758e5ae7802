"""`make demo`: shows what the plugins do, each with examples from conf-examples/, and that nothing of it stays.

Everything is real: a kernel with VFs, Open vSwitch with DPDK, virtual machines, the frozen executables.
"""

from __future__ import annotations

import sys

from tests.demo import sriov, userspace
from tests.demo.stage import Stage


def main() -> int:
    """Exit code 0 when everything held."""
    stage = Stage()
    sriov.run(stage)
    userspace.run(stage)
    stage.say()
    verdict = "everything held" if not stage.failures else "did not hold: " + "; ".join(stage.failures)
    stage.say(f"demo: {verdict}")
    return 1 if stage.failures else 0


if __name__ == "__main__":
    sys.exit(main())

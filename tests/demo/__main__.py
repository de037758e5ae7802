"""`make demo`: shows the plugins at work, with examples from conf-examples/, and that nothing is left afterwards.

Everything is real: a kernel with VFs, Open vSwitch with DPDK, virtual machines, the frozen executables.
"""

from __future__ import annotations

import sys

from tests.demo import sriov, userspace
from tests.demo.stage import Stage


def main() -> int:
    """Returns exit code 0 if everything worked."""
    stage = Stage()
    sriov.run(stage)
    userspace.run(stage)
    stage.say()
    verdict = "everything held" if not stage.failures else "did not hold: " + "; ".join(stage.failures)
    stage.say(f"demo: {verdict}")
    return 1 if stage.failures else 0


if __name__ == "__main__":
    sys.exit(main())

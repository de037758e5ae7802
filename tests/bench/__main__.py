"""`make bench`: runs all benchmarks, one after the other; `--native` leaves out those that need the lab.

`--before DIST` only compares another `dist` with this one, interleaved in one run, to show the cost of a change.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench import device_plugin, ipam_calls, ipam_etcd, ipam_local, kubernetes, userspace, veth


def main() -> None:
    """Prints the reports."""
    if "--before" in sys.argv:
        print(veth.compared(Path(sys.argv[sys.argv.index("--before") + 1]).resolve()), flush=True)
        return
    print(veth.run(), flush=True)
    print(userspace.run(), flush=True)
    print(ipam_local.run(), flush=True)
    print(ipam_etcd.run(), flush=True)
    print(kubernetes.run(), flush=True)
    print(ipam_calls.run(), flush=True)
    print(device_plugin.run(), flush=True)
    if "--native" not in sys.argv:
        from tests.bench import lab  # boots a VM

        print(lab.run(), flush=True)


if __name__ == "__main__":
    main()

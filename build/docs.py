"""Writes the documents that are made from the code; with `--check` it only tells whether they are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cni import errors, schema  # noqa: E402 - found through the line above
from cni.node.conf import NodeFile  # noqa: E402
from cni.sriov.conf import SriovConf  # noqa: E402
from cni.userspace.conf import UserspaceConf  # noqa: E402
from ipam.conf import IpamConf  # noqa: E402

ERRORS_HEAD = """\
# Error codes

A plugin that fails prints one JSON object with `code`, `msg` and `details`; `details` begins with a hint. Codes below
100 are the CNI specification's. This page is made from `cni/errors.py` by `make docs`.

| code | name | when | what to do |
|---|---|---|---|
"""


def errors_page() -> str:
    """The catalogue of errors as a table."""
    rows = [f"| {cls.code} | {cls.__name__} | {cls.cause} | {cls.remedy} |\n" for cls in errors.catalogue()]
    return ERRORS_HEAD + "".join(rows)


def main(check_only: bool) -> int:
    """Writes or compares; the exit code is 1 when a compared page is stale."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not check_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path])
        print(f"docs: {path.relative_to(ROOT)} {'is stale: run make docs' if check_only else 'written'}")
    return int(check_only and bool(stale))


def pages() -> dict[Path, str]:
    """Every generated page, by its path."""
    return {
        ROOT / "docs" / "errors.md": errors_page(),
        **schema.generated("node", "cni/node", NodeFile),
        **schema.generated("sriov", "cni/sriov", SriovConf),
        **schema.generated("userspace", "cni/userspace", UserspaceConf),
        **schema.generated("barewire-ipam", "ipam", IpamConf),
    }


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))

"""Writes the documents that are made from the code; with `--check` it only tells whether they are up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pydantic import BaseModel

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cni import errors  # noqa: E402 - found through the line above
from cni.config import schema  # noqa: E402 - found through the line above
from cni.host.vf_settings import SETTINGS, Field, Setting, shown  # noqa: E402
from cni.node.conf import NodeFile  # noqa: E402
from cni.sriov.conf import SriovConf  # noqa: E402
from cni.userspace.conf import UserspaceConf  # noqa: E402
from deviceplugin import conf as devices  # noqa: E402
from ipam.config.conf import Ipam, IpamConf  # noqa: E402

ERRORS_HEAD = """\
# Error codes

A plugin that fails prints one JSON object with `code`, `msg` and `details`; `details` begins with a hint. Codes below
100 are the CNI specification's. What to look at on a node: [troubleshooting.md](troubleshooting.md). This page is made from `cni/errors.py` by `make docs`.

| code | name | when | what to do |
|---|---|---|---|
"""

DECISIONS = ROOT / "docs" / "adr"
DECISIONS_HEAD = """\
# Decisions

One page for each decision: context, decision, consequences. A new one starts from [the template](0000-template.md); one
that replaces another says so in both. This page is made from their titles by `make docs`.

| | decision |
|---|---|
"""
_TITLE = re.compile(r"# (\d+)\. (.+)")


def decisions_page() -> str:
    """The titles of all decisions, in the order of their numbers. Raises ValueError at one without a number."""
    rows = []
    for path in sorted(DECISIONS.glob("0*.md")):
        title, name = path.read_text().partition("\n")[0], path.name
        if name == "0000-template.md":
            continue
        if (parts := _TITLE.fullmatch(title)) is None or int(parts[1]) != int(name[:4]):
            raise ValueError(f"{name} begins with {title!r}, not with its number")
        rows.append(f"| [{parts[1]}]({name}) | {parts[2]} |\n")
    return DECISIONS_HEAD + "".join(rows)


def errors_page() -> str:
    """The catalogue of errors as a table."""
    rows = [f"| {cls.code} | {cls.__name__} | {cls.cause} | {cls.remedy} |\n" for cls in errors.catalogue()]
    return ERRORS_HEAD + "".join(rows)


DEVICES_HEAD = """\
# Keys of the device plugin's configuration

`make docs` generates this page from `deviceplugin/conf.py`. For an introduction see [docs/deviceplugin.md](../deviceplugin.md).
"""


VF_SETTINGS_HEAD = """\
# Settings of a VF at its PF

ADD sends configured settings whose values differ, and always sends the MAC address. CHECK compares the settings. DEL
restores the found values of each message that ADD sent. A VF whose record is lost gets the clean values instead. With
`pfOnly`, only `mac` may be configured.
`make docs` generates this page from the rows in `cni/host/vf_settings.py`.

| key | sent with | values | clean |
|---|---|---|---|
"""


def vf_settings_page() -> str:
    """The rows of the settings of a VF as a table."""
    rules = schema.table(SriovConf)
    rows = [
        f"| `{field.key}` | {', '.join(f'`{one.key}`' for one in row.fields if one is not field) or '-'} "
        f"| {schema.values(rules[field.key])} | {_clean(row, field)} |\n"
        for row in SETTINGS.values()
        for field in row.fields
    ]
    return VF_SETTINGS_HEAD + "".join(rows)


def _clean(row: Setting, field: Field) -> str:
    if field.clean is not None:
        return f"`{shown(field.clean)}`"
    return "another address" if row.of_netdev else "the found value, which the mark's copy in /run/barewire contains"


def devices_page() -> str:
    """The keys of each object of the device plugin's configuration as a table."""
    sections: dict[str, type[BaseModel]] = {
        "The file": devices.File,
        "`resourceList`": devices.Resource,
        "`selectors`": devices.Selectors,
        "`auto`": devices.Automatic,
    }
    page = DEVICES_HEAD
    for title, model in sections.items():
        rows = [f"| `{name}` | {field.description} |\n" for name, field in model.model_fields.items()]
        page += f"\n## {title}\n\n{model.__doc__}\n\n| key | |\n|---|---|\n{''.join(rows)}"
    return page


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
        DECISIONS / "README.md": decisions_page(),
        ROOT / "docs" / "reference" / "deviceplugin.md": devices_page(),
        ROOT / "docs" / "reference" / "vf-settings.md": vf_settings_page(),
        **schema.generated("node", "cni/node", NodeFile),
        **schema.generated("sriov", "cni/sriov", SriovConf, [SriovConf]),
        **schema.generated("userspace", "cni/userspace", UserspaceConf, [UserspaceConf]),
        **schema.generated("barewire-ipam", "ipam/config", IpamConf, [Ipam, IpamConf]),
    }


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))

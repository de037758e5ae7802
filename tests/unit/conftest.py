"""Settings of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _short_waits() -> Iterator[None]:
    """A fake that refuses and a port that nobody listens on do not change their minds, so that waiting for them only costs
    time. No unit test measures these bounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cni.sriov.attach.MAC_SECONDS", 0.1)
        patch.setattr("cni.sriov.renewal.RESET_SECONDS", 0.1)
        patch.setattr("cni.sriov.renewal._PAUSE", 0.01)
        patch.setattr("ipam.stores.SECONDS", 1.0)
        yield

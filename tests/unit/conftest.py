"""Settings for the unit tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


def pytest_collection_finish() -> None:
    """Excludes modules and collected tests from garbage collection, which takes a sixth of the time otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50)


@pytest.fixture(scope="session", autouse=True)
def _short_waits() -> Iterator[None]:
    """Shortens waits: a fake that refuses, and a port without a listener, do not change, so waiting for them only costs
    time.

    No unit test measures these limits.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cni.sriov.attach.MAC_SECONDS", 0.1)
        patch.setattr("cni.sriov.renewal.RESET_SECONDS", 0.1)
        patch.setattr("cni.sriov.renewal._PAUSE", 0.01)
        patch.setattr("ipam.stores.SECONDS", 1.0)
        yield

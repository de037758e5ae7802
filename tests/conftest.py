"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# A shared or busy machine makes single examples slow; tests that promise a time measure it themselves.
settings.register_profile("barewire", deadline=None)
settings.load_profile("barewire")

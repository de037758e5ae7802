"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

from tests.soak import EXAMPLES

# A shared or busy machine makes single examples slow; tests that promise a time measure it themselves.
settings.register_profile("barewire", deadline=None, max_examples=EXAMPLES)
settings.load_profile("barewire")

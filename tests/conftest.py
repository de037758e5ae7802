"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

from tests.soak import EXAMPLES

# Single examples are slow on a shared or busy machine; tests that promise a time measure it themselves.
settings.register_profile("barewire", deadline=None, max_examples=EXAMPLES)
settings.load_profile("barewire")

"""How much a test with random values tries: a few in every run, many in `make matrix`."""

from __future__ import annotations

import os

EXAMPLES = 1000 if os.environ.get("BAREWIRE_MATRIX") else 50
"""Examples of a hypothesis test, unless it says otherwise."""

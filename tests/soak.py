"""The number of random values that a test tries: few by default, many in `make matrix`."""

from __future__ import annotations

import os

EXAMPLES = 1000 if os.environ.get("BAREWIRE_MATRIX") else 50
"""Examples of a hypothesis test, unless it sets its own number."""

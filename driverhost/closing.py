"""Closes descriptors that come from an application, where it may take long.

The last close of a socket may linger as long as its owner has chosen, and that of a file waits for its file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from threading import Thread


def close_aside(descriptors: Iterable[int]) -> None:
    """Closes the descriptors in another thread, so that no other work waits for it."""
    owned = list(descriptors)
    if not owned:
        return
    try:
        Thread(target=_close, args=(owned,), daemon=True).start()
    except RuntimeError:  # the limit of processes is reached
        _close(owned)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

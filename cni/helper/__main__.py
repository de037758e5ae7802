"""Entry point of the executable `barewire-helper`: `barewire-helper SOCKET` serves the launchers of its bundle."""

from __future__ import annotations

import sys

from cni.helper.start import main

if __name__ == "__main__":
    main(sys.argv[1:])

#!/bin/sh
# The checks of a change that run without a kernel: they need no root.
cd "$(dirname "$0")/.." || exit 1
exec .venv/bin/python build/lanes.py check

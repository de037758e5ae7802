#!/bin/sh
# What a change must pass before anything is run on a kernel: needs no root, takes less than a minute.
cd "$(dirname "$0")/.." || exit 1
exec .venv/bin/python build/lanes.py check

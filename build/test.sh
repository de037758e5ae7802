#!/bin/sh
# check, then every test that check did not run. All parts run; the exit code tells whether all passed.
cd "$(dirname "$0")/.." || exit 1
exec .venv/bin/python build/lanes.py

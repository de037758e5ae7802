#!/bin/sh
# check, then every test that check did not run. All parts run; the exit code tells whether all passed.
cd "$(dirname "$0")/.." || exit 1
failed=
build/timed.sh check build/check.sh || failed="$failed check"
for part in contract cli userspace lab; do
    build/timed.sh "$part" .venv/bin/python -m pytest "tests/$part" || failed="$failed $part"
done
[ -z "$failed" ] || { echo "tests: failed:$failed" >&2; exit 1; }

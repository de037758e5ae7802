#!/bin/sh
# What a change must pass before anything is run on a kernel: needs no root, takes less than a minute.
# Every check runs, so that one run shows all there is to correct.
cd "$(dirname "$0")/.." || exit 1
failed=
check() {
    echo "-- $*"
    .venv/bin/python -m "$@" || failed="$failed, $*"
}
check ruff format --check .
check ruff check .
check mypy
echo "-- lint-imports"
.venv/bin/lint-imports --no-logo || failed="$failed, lint-imports"
echo "-- docs"
.venv/bin/python build/docs.py --check || failed="$failed, docs"
check pytest -q tests/unit
[ -z "$failed" ] || { echo "check: failed: ${failed#, }" >&2; exit 1; }

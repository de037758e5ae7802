#!/bin/sh
# All set-up that `make demo` and `make test` need; quick when there is nothing to do.
set -eu
cd "$(dirname "$0")/.."
build/bootstrap.sh
build/freeze.sh
.venv/bin/python -m tests.lab.image

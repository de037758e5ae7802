#!/bin/sh
# check, then every test that check did not run. All parts run; the exit code tells whether all passed.
# The lab waits for its machine most of the time, and so do the others for theirs: they run beside it.
cd "$(dirname "$0")/.." || exit 1
failed=
run() { build/timed.sh "$1" .venv/bin/python -m pytest "tests/$1"; }

others() {
    rest=
    for part in contract cli userspace; do run "$part" || rest="$rest $part"; done
    echo "$rest" >.cache/others.failed
}

build/timed.sh check build/check.sh || failed="$failed check"
mkdir -p .cache
rm -f .cache/others.failed
others >.cache/others.log 2>&1 &
others=$!
run lab || failed="$failed lab"
wait "$others"
cat .cache/others.log
# Without this file the others did not come to their end.
failed="$failed$(cat .cache/others.failed 2>/dev/null || echo " contract, cli or userspace")"
[ -z "$failed" ] || { echo "tests: failed:$failed" >&2; exit 1; }

#!/bin/sh
# check, then every test that check did not run. All parts run; the exit code tells whether all passed.
# The lab waits for its machine most of the time, and the others for theirs: they run beside it.
cd "$(dirname "$0")/.." || exit 1
run() { build/timed.sh "$1" .venv/bin/python -m pytest "tests/$1"; }

others() {
    failed=
    build/timed.sh check build/check.sh || failed="$failed check"
    for part in contract cli userspace; do run "$part" || failed="$failed $part"; done
    echo "$failed" >.cache/others.failed
}

mkdir -p .cache
rm -f .cache/others.failed
others >.cache/others.log 2>&1 &
others=$!
failed=
run lab || failed=" lab"
wait "$others"
cat .cache/others.log
# Without this file the others did not come to their end.
failed="$failed$(cat .cache/others.failed 2>/dev/null || echo " check, contract, cli or userspace")"
[ -z "$failed" ] || { echo "tests: failed:$failed" >&2; exit 1; }

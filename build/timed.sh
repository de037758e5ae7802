#!/bin/sh
# Runs a command and says how long it took: timed.sh LABEL COMMAND...
label=$1
shift
started=$(date +%s)
"$@"
code=$?
[ "$code" = 0 ] && verdict=ok || verdict="failed ($code)"
echo "== $label: $verdict, $(($(date +%s) - started)) s"
exit "$code"

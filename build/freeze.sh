#!/bin/sh
# Builds dist/barewire (the bundle), dist/traced (the same programs for the tests, reporting their imports) and dist/bench (see
# tests/bench), when the sources, the spec, this script or the Python changed since the last time. build/bundles.py has
# them built with another Python (FREEZE_PYTHON, with its libraries in FREEZE_LIBRARIES) in another place (FREEZE_DIST).
set -eu
cd "$(dirname "$0")/.."
python=${FREEZE_PYTHON:-.venv/bin/python}
dist=${FREEZE_DIST:-dist}
work=.cache/pyinstaller${FREEZE_PYTHON:+-release}
started=$(date +%s%3N)

mkdir -p "$work"
exec 9>"$work/lock"
flock 9 # two builds at a time would write into each other's work directory

# PyInstaller clears its cache, which is one for all builds of a user otherwise: two at a time disturb each other.
export PYINSTALLER_CONFIG_DIR="$PWD/$work/config"
# The same bytes from the same sources: sets in the bytecode are written in hash order.
export PYTHONHASHSEED=1 SOURCE_DATE_EPOCH=315532800 PYTHONDONTWRITEBYTECODE=1
# Of an instruction only its line: the columns are a tenth of the bytecode, and no message has them.
export PYTHONNODEBUGRANGES=1

inputs() {
    find cni ipam tests/bench/veth_program.py build/launcher.sh build/pyinstaller.spec build/archive.py build/boot.py build/lean_os.py build/freeze.sh build/bundle_info.py build/elf.py build/libraries.py build/install.sh build/requirements.txt \
        pyproject.toml LICENSE -type f ! -name '*.pyc' 2>/dev/null | LC_ALL=C sort | xargs sha256sum
    "$python" -c 'import sys; print(sys.version, sys.base_prefix.rpartition("/")[2])'
    "${CC:-gcc}" --version
}

build=$(inputs | sha256sum | cut -c 1-12)
if grep -qx "build=$build" "$dist/barewire/bundle.info" 2>/dev/null && [ -d "$dist/traced" ] && [ -d "$dist/bench" ]; then
    echo "freeze: $dist/barewire is up to date (build $build)"
    exit 0
fi

echo "freeze: building with $("$python" -V)"
env ${FREEZE_LIBRARIES:+"LD_LIBRARY_PATH=$FREEZE_LIBRARIES"} "$python" -m PyInstaller --workpath "$work/work" --distpath "$work/dist" --noconfirm --clean \
    build/pyinstaller.spec >"$work/log" 2>&1 || {
    tail -n 30 "$work/log" >&2
    echo "freeze: PyInstaller failed; the whole output is in $work/log" >&2
    exit 1
}
for part in traced bench; do
    rm -rf "$work/dist/$part/_internal"
    ln -s ../barewire/_internal "$work/dist/$part/_internal"
done
"$python" build/libraries.py "$work/dist/barewire/_internal"
cp build/install.sh LICENSE "$work/dist/barewire/"
build/launcher.sh "$build" "$work/dist/barewire/launcher"
ln -s ../barewire/bundle.info "$work/dist/bench/bundle.info" # its helper is of the same build
"$python" build/bundle_info.py "$work/dist/barewire" "$build" >"$work/bundle.info"
mv "$work/bundle.info" "$work/dist/barewire/bundle.info"
(cd "$work/dist/barewire" && find . -type f | LC_ALL=C sort | xargs sha256sum) >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" "$work/dist/barewire/SHA256SUMS"

# A test that runs from the old bundle must not meet half a new one.
mkdir -p "$dist"
for part in barewire traced bench; do
    rm -rf "$work/old"
    [ ! -e "$dist/$part" ] || mv "$dist/$part" "$work/old"
    mv "$work/dist/$part" "$dist/$part"
done
rm -rf "$work/old"

sed 's/^/freeze: /' "$dist/barewire/bundle.info"
echo "freeze: $(du -sh "$dist/barewire" | cut -f 1) in $dist/barewire, made in $((($(date +%s%3N) - started) / 1000)) s"

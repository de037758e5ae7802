#!/bin/sh
# Builds dist/barewire-node, the bundle of the resident programs, when its sources, this script or the Python changed since the
# last time. The bundle of the plugins: build/freeze.sh.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
work=.cache/pyinstaller-node
bundle=$work/dist/barewire-node
started=$(date +%s%3N)

mkdir -p "$work"
exec 9>"$work/lock"
flock 9 # two builds at a time would write into each other's work directory

export PYTHONHASHSEED=1 SOURCE_DATE_EPOCH=315532800 PYTHONDONTWRITEBYTECODE=1

inputs() {
    find cni deviceplugin build/node.spec build/freeze_node.sh build/bundle_info.py build/elf.py build/run_paths.py build/requirements.txt LICENSE \
        -type f ! -name '*.pyc' 2>/dev/null | LC_ALL=C sort | xargs sha256sum
    "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
}

build=$(inputs | sha256sum | cut -c 1-12)
if grep -qx "build=$build" dist/barewire-node/bundle.info 2>/dev/null; then
    echo "freeze: dist/barewire-node is up to date (build $build)"
    exit 0
fi

"$python" -m PyInstaller --workpath "$work/work" --distpath "$work/dist" --noconfirm --clean \
    build/node.spec >"$work/log" 2>&1 || {
    tail -n 30 "$work/log" >&2
    echo "freeze: PyInstaller failed; the whole output is in $work/log" >&2
    exit 1
}
"$python" build/run_paths.py "$bundle/_internal"
cp LICENSE "$bundle/"
"$python" build/bundle_info.py "$bundle" "$build" | grep -v '^plugins=\|^tools=' >"$work/bundle.info"
mv "$work/bundle.info" "$bundle/bundle.info"

# A test that runs from the old bundle must not meet half a new one.
mkdir -p dist
rm -rf "$work/old"
[ ! -e dist/barewire-node ] || mv dist/barewire-node "$work/old"
mv "$bundle" dist/barewire-node
rm -rf "$work/old"

sed 's/^/freeze: /' dist/barewire-node/bundle.info
echo "freeze: $(du -sh dist/barewire-node | cut -f 1) in dist/barewire-node, made in $((($(date +%s%3N) - started) / 1000)) s"

#!/bin/sh
# `freeze_resident.sh node` builds dist/barewire-node, the bundle of the node's resident program, and `freeze_resident.sh kubevirt`
# that of KubeVirt's sidecar, when its sources, this script or the Python changed since the last time. The bundle of the plugins:
# build/freeze.sh, which has the variables FREEZE_*.
set -eu
cd "$(dirname "$0")/.."
case ${1-} in
    node) sources="deviceplugin resident" ;;
    kubevirt) sources="kubevirt resident" ;;
    *) echo "usage: $0 node|kubevirt" >&2 && exit 2 ;;
esac
name=barewire-$1
python=${FREEZE_PYTHON:-.venv/bin/python}
dist=${FREEZE_DIST:-dist}
work=.cache/pyinstaller${FREEZE_PYTHON:+-release}-$1
bundle=$work/dist/$name
started=$(date +%s%3N)

mkdir -p "$work"
exec 9>"$work/lock"
flock 9 # two builds at a time would write into each other's work directory

# PyInstaller clears its cache, which is one for all builds of a user otherwise: two at a time disturb each other.
export PYINSTALLER_CONFIG_DIR="$PWD/$work/config"
export PYTHONHASHSEED=1 SOURCE_DATE_EPOCH=315532800 PYTHONDONTWRITEBYTECODE=1

inputs() {
    find cni $sources build/resident.spec build/freeze_resident.sh build/bundle_info.py build/elf.py build/libraries.py build/requirements.txt LICENSE \
        -type f ! -name '*.pyc' 2>/dev/null | LC_ALL=C sort | xargs sha256sum
    "$python" -c 'import sys; print(sys.version, sys.base_prefix.rpartition("/")[2])'
}

build=$(inputs | sha256sum | cut -c 1-12)
if grep -qx "build=$build" "$dist/$name/bundle.info" 2>/dev/null; then
    echo "freeze: $dist/$name is up to date (build $build)"
    exit 0
fi

env ${FREEZE_LIBRARIES:+"LD_LIBRARY_PATH=$FREEZE_LIBRARIES"} "$python" -m PyInstaller --workpath "$work/work" --distpath "$work/dist" --noconfirm --clean \
    build/resident.spec -- "$name" >"$work/log" 2>&1 || {
    tail -n 30 "$work/log" >&2
    echo "freeze: PyInstaller failed; the whole output is in $work/log" >&2
    exit 1
}
"$python" build/libraries.py "$bundle/_internal"
cp LICENSE "$bundle/"
"$python" build/bundle_info.py "$bundle" "$build" | grep -v '^plugins=\|^tools=\|^resident=' >"$work/bundle.info"
mv "$work/bundle.info" "$bundle/bundle.info"
(cd "$bundle" && find . -type f | LC_ALL=C sort | xargs sha256sum) >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" "$bundle/SHA256SUMS"

# A test that runs from the old bundle must not meet half a new one.
mkdir -p "$dist"
rm -rf "$work/old"
[ ! -e "$dist/$name" ] || mv "$dist/$name" "$work/old"
mv "$bundle" "$dist/$name"
rm -rf "$work/old"

sed 's/^/freeze: /' "$dist/$name/bundle.info"
echo "freeze: $(du -sh "$dist/$name" | cut -f 1) in $dist/$name, made in $((($(date +%s%3N) - started) / 1000)) s"

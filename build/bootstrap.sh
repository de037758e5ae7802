#!/bin/sh
# Makes a Debian machine (12 or later, as root) able to build and test: the packages of build/packages.txt and
# tests/lab/packages.txt, and .venv with the versions of build/requirements.txt. Does only what is missing.
set -eu
cd "$(dirname "$0")/.."
lists="build/packages.txt tests/lab/packages.txt"
added_source=/etc/apt/sources.list.d/barewire-backports.sources
log=.cache/bootstrap.log
started=$(date +%s%3N)

say() {
    elapsed=$(($(date +%s%3N) - started))
    printf 'bootstrap %4d.%01d s  %s\n' $((elapsed / 1000)) $((elapsed % 1000 / 100)) "$1"
}

die() { # MESSAGE HINT
    printf 'bootstrap: %s\n  what to do: %s\n' "$1" "$2" >&2
    exit 1
}

logged() { # HINT COMMAND...: the command's output goes to the log, and its end to the terminal when it fails
    hint=$1
    shift
    "$@" >>"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        die "failed: $*" "$hint; the whole output is in $log"
    }
}

as_root() {
    [ "$(id -u)" = 0 ] || die "$1" "run build/bootstrap.sh once as root"
}

# Packages

wanted() { # one line each: name, or name/backports, or a pattern of names that hold a release's own numbers
    for list in $lists; do
        [ ! -f "$list" ] || sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' -e 's|/.*backports$|/backports|' "$list"
    done | sort -u
}

missing() {
    installed=.cache/installed-packages
    dpkg-query -W -f '${Package} ${db:Status-Status} ${Version}\n' >"$installed"
    wanted | awk -v bpo="$backports" '
        NR == FNR { if ($2 == "installed") version[$1] = $3; next }
        /[*]$/ { for (name in version) if (name ~ "^" $1 "$") next; print "^" $1 "$"; next }
        { split($1, part, "/") }
        { from = part[2] && bpo ? "/" bpo : "" }
        !(part[1] in version) || (from && version[part[1]] !~ /~bpo/) { print part[1] from }
    ' "$installed" -
}

add_backports() { # the lab takes its kernel from there too, so the suite is needed even when no package is missing
    etc=/etc/apt/sources.list
    sources=$(ls "$etc" "$etc".d/*.sources "$etc".d/*.list 2>/dev/null) || : # what there is of these
    stanza=$(awk -v release="$release" -f build/backports.awk $sources </dev/null) ||
        die "no apt source of $release is configured" "add Debian's $release to $etc.d, or $backports itself"
    [ -n "$stanza" ] || return 0
    as_root "the suite $backports is not configured"
    say "adding the suite $backports, from where $release comes"
    printf '# Made by build/bootstrap.sh of Barewire from the source of %s.\n%s\n' "$release" "$stanza" >"$added_source"
    rm -f /var/lib/apt/lists/*_dists_"$backports"_*Packages* # left by an earlier source: too old to trust
}

has_index() {
    ls /var/lib/apt/lists/*_dists_"$backports"_*Packages* >/dev/null 2>&1
}

update() {
    as_root "apt's package lists must be fetched"
    say "fetching package lists"
    logged "see which source fails" apt-get update -o Acquire::Retries=3
}

install_packages() {
    todo=$(missing)
    [ -n "$todo" ] || return 0
    as_root "packages are missing: $(echo $todo)"
    [ "$fresh_lists" = yes ] || update
    say "installing $(echo "$todo" | wc -l) packages and what they depend on"
    apt_install $(echo "$todo" | grep -v /)
    # The release as a preference, not as package/release: what these depend on has to come from there as well.
    apt_install --target-release="$backports" $(echo "$todo" | sed -n 's|/.*||p')
}

apt_install() { # [OPTION] PACKAGE...
    case $# in 0) return 0 ;; 1) case $1 in -*) return 0 ;; esac ;; esac
    logged "try the same command by hand" env DEBIAN_FRONTEND=noninteractive apt-get install --yes \
        --no-install-recommends -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

ensure_packages() {
    . /etc/os-release
    release=${VERSION_CODENAME:-}
    backports=
    fresh_lists=no
    [ "${VERSION_ID:-13}" != 12 ] || backports=$release-backports # Debian 13 itself has all that we take from there
    if [ -n "$backports" ]; then
        add_backports
        if ! has_index; then
            update
            fresh_lists=yes
            has_index || die "$backports could not be fetched" \
                "see $log; if the mirror lacks it, put a source that has it in place of $added_source"
        fi
    fi
    install_packages
}

# Python

probe='
import ctypes, ensurepip, os, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit(1)
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
if not os.path.exists(os.path.join(sysconfig.get_config_var("LIBDIR"), name)):
    ctypes.CDLL(name)  # PyInstaller puts it into the bundle; not every build of Python has it
print(os.path.realpath(sys._base_executable))
'

pyenv_python() { # VERSION: the newest such Python that pyenv has
    command -v pyenv >/dev/null || return 0
    found=$(pyenv versions --bare 2>/dev/null | grep "^$1\.[0-9]*\$" | sort -t. -k3n | tail -n 1)
    [ -z "$found" ] || echo "$(pyenv prefix "$found")/bin/python$1"
}

find_python() { # the pinned version if the machine has it, else the newest
    for version in "$(cat build/python-version)" 3.14 3.13 3.12 3.11; do
        # A pyenv shim is on PATH for each version that pyenv has, and fails when that version is not selected.
        for python in "python$version" "$(pyenv_python "$version")"; do
            if [ -n "$python" ] && "$python" -I -c "$probe" 2>/dev/null; then return 0; fi
        done
    done
    return 1
}

ensure_venv() {
    stamp=$(cat build/requirements.txt build/python-version | sha256sum)
    [ "$(cat .venv/bootstrapped 2>/dev/null)" != "$stamp" ] || ! .venv/bin/python -c pass 2>/dev/null || return 0
    python=$(find_python) || die "no Python 3.11 or later with a shared libpython" \
        "install python$(cat build/python-version), or Debian's python3 with libpython3-dev"
    if [ "$(.venv/bin/python -I -c "$probe" 2>/dev/null)" != "$python" ]; then
        say "making .venv with $("$python" -V)"
        logged "install python3-venv, or look at the log" "$python" -m venv --clear .venv
    fi
    say "installing the Python packages of build/requirements.txt"
    logged "is a package index reachable? pip config list shows which one is asked" \
        .venv/bin/python -m pip install --disable-pip-version-check --requirement build/requirements.txt
    echo "$stamp" >.venv/bootstrapped
}

mkdir -p .cache
: >"$log"
ensure_packages
ensure_venv
say "ready: $(.venv/bin/python -V)"

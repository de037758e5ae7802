#!/bin/sh
# Installs the Barewire CNI plugins on a node, upgrades or removes them. Needs a POSIX shell and nothing else.
#
#     install.sh [--host-root DIR] [--uninstall] [BIN_DIR]          BIN_DIR: /opt/cni/bin
#
# The bundle goes to BIN_DIR/.barewire-VERSION-BUILD/, and BIN_DIR/sriov becomes a relative symlink into it, so that it
# also works for a runtime that sees the host under another root. A bundle is never changed in place, and the one
# before the newest stays: a plugin that runs during an upgrade keeps its files.
# A program that a symlink replaces (the Go plugin) is kept in BIN_DIR/.barewire-replaced/; --uninstall puts it back.
#
# --host-root DIR: the node's root directory as seen from here, for an installer that runs in a container. BIN_DIR is
# the node's path; glibc is looked for under DIR, and the trial run happens in a chroot there.
set -eu

die() { # MESSAGE HINT
    echo "install.sh: $1" >&2
    echo "  what to do: $2" >&2
    exit 1
}

usage() {
    sed -n '4s/^# *//p' "$0" >&2
    exit 2
}

# The request

host_root=
uninstall=no
bin_dir=
while [ $# -gt 0 ]; do
    case $1 in
    --host-root) [ $# -ge 2 ] || usage; host_root=${2%/}; shift ;;
    --uninstall) uninstall=yes ;;
    -*) usage ;;
    *) [ -z "$bin_dir" ] || usage; bin_dir=$1 ;;
    esac
    shift
done
bin_dir=${bin_dir:-/opt/cni/bin}
here=$(cd "$(dirname "$0")" && pwd)
bundle=$here
[ -f "$bundle/bundle.info" ] || bundle=$here/../dist/barewire
target=$host_root$bin_dir # the node's BIN_DIR as seen from here

info() { # KEY: a value of the bundle's description
    sed -n "s/^$1=//p" "$bundle/bundle.info"
}

# What the host must be

host_glibc() { # its version, read from the library itself: the node need not have ldd or getconf
    for libc in "$host_root"/lib64/libc.so.6 "$host_root"/lib/*-linux-gnu/libc.so.6 "$host_root"/usr/lib64/libc.so.6 \
        "$host_root"/usr/lib/*-linux-gnu/libc.so.6; do
        [ -f "$libc" ] || continue
        tr -c '\040-\176' '\n' <"$libc" | sed -n 's/^GNU C Library.* release version \([0-9][0-9.]*[0-9]\).*/\1/p'
        return
    done
}

older() { # A B: whether version A comes before version B
    [ "${1%%.*}" -lt "${2%%.*}" ] || { [ "${1%%.*}" -eq "${2%%.*}" ] && [ "$(minor "$1")" -lt "$(minor "$2")" ]; }
}

minor() {
    rest=${1#*.}
    echo "${rest%%.*}"
}

require_glibc() {
    has=$(host_glibc)
    needs=$(info glibc)
    [ -n "$has" ] || die "no glibc found under ${host_root:-/}; the bundle needs glibc $needs or later" \
        "install on a distribution with glibc, or say --host-root when the node's root is elsewhere"
    ! older "$has" "$needs" || die "this host has glibc $has; the bundle needs $needs or later" \
        "use a bundle frozen on an older distribution (make freeze there)"
}

require_working() { # BUNDLE in BIN_DIR, before it gets its name: catches another architecture and a noexec mount
    answer=$(
        export CNI_COMMAND=VERSION
        printf '{"cniVersion":"1.0.0"}' | on_node "$bin_dir/$1/$(info plugins | cut -d ' ' -f 1)" 2>&1
    ) || {
        rm -rf "${target:?}/$1"
        die "the plugin does not run on this host: $answer" \
            "check that $bin_dir is not mounted noexec and the bundle is for $(uname -m)"
    }
}

on_node() {
    if [ -n "$host_root" ]; then chroot "$host_root" "$@"; else "$@"; fi
}

# Installing

copy_bundle() { # under another name first: a half-made copy is never taken for a bundle
    [ ! -d "$target/$new" ] || return 0
    partial=.barewire-partial.$$
    rm -rf "$target"/.barewire-partial.*
    mkdir "$target/$partial"
    cp -R "$bundle/." "$target/$partial/"
    require_working "$partial"
    mv "$target/$partial" "$target/$new"
}

is_ours() { # PATH: whether it is a symlink that we made
    [ -L "$1" ] && case $(readlink "$1") in .barewire-*) true ;; *) false ;; esac
}

keep_replaced() { # NAME: a copy, so that there is a plugin under this name at any time
    [ -e "$target/$1" ] || [ -L "$target/$1" ] || return 0
    ! is_ours "$target/$1" || return 0
    [ ! -d "$target/$1" ] || die "$bin_dir/$1 is a directory" "move it away"
    mkdir -p "$target/.barewire-replaced"
    cp -pP "$target/$1" "$target/.barewire-replaced/$1.new"
    mv -f "$target/.barewire-replaced/$1.new" "$target/.barewire-replaced/$1"
    echo "kept the replaced $bin_dir/$1 in $bin_dir/.barewire-replaced/"
}

link_plugin() { # NAME
    keep_replaced "$1"
    ln -sf "$new/$1" "$target/.barewire-link.$$"
    mv -f "$target/.barewire-link.$$" "$target/$1"
    echo "$bin_dir/$1 -> $new/$1"
}

current() { # the bundle that a plugin's link names now
    for name in $(info plugins) $(info tools); do
        ! is_ours "$target/$name" || { link=$(readlink "$target/$name") && echo "${link%%/*}" && return; }
    done
}

remove_bundles_except() { # NAME NAME
    for old in "$target"/.barewire-*-*; do
        case ${old##*/} in
        "$1" | "$2" | .barewire-replaced) ;;
        *) [ ! -d "$old" ] || rm -rf "$old" ;;
        esac
    done
}

install_plugins() {
    [ -f "$bundle/bundle.info" ] || die "there is no bundle at $bundle" "run make freeze, or the install.sh of a bundle"
    new=.barewire-$(info version)-$(info build)
    require_glibc
    mkdir -p "$target"
    previous=$(current)
    copy_bundle
    for name in $(info plugins) $(info tools); do link_plugin "$name"; done
    # Installing the same bundle twice must not count as a generation.
    [ "$previous" = "$new" ] || remove_bundles_except "$new" "$previous"
}

# Removing

uninstall_plugins() {
    records=$(find "$host_root/var/lib/cni/barewire" -type f -name '*.json' 2>/dev/null | wc -l)
    [ "$records" -eq 0 ] || echo "warning: $records attachments are still recorded; their DEL needs these plugins" >&2
    for path in "$target"/*; do
        is_ours "$path" || continue
        kept=$target/.barewire-replaced/${path##*/}
        if [ -e "$kept" ] || [ -L "$kept" ]; then mv -f "$kept" "$path"; else rm -f "$path"; fi
        echo "removed the link ${path##*/}"
    done
    rm -rf "$target"/.barewire-*
}

umask 022
if [ "$uninstall" = yes ]; then uninstall_plugins; else install_plugins; fi

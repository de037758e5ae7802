#!/bin/sh
# Installs the Barewire CNI plugins on a node, upgrades, repairs, verifies or removes them.
#
#     install.sh [--host-root DIR] [--helper] [--verify | --uninstall [--force]] [BIN_DIR]          BIN_DIR: /opt/cni/bin
#
# The bundle goes to BIN_DIR/.barewire-VERSION-BUILD/, and BIN_DIR/sriov becomes a small script that starts the program in
# there: whoever overwrites BIN_DIR/sriov overwrites the script only. A bundle is never changed in place: a damaged one is
# replaced by a copy with another name, and the one before the newest stays, so that a plugin that runs keeps its files.
# A program that an entry replaces (the Go plugin) is kept in BIN_DIR/.barewire-replaced/; --uninstall puts it back.
#
# --host-root DIR: the node's root directory as seen from here, for an installer that runs in a container. BIN_DIR is
# the node's path; glibc is looked for under DIR, and the trial run happens in a chroot there.
# --helper: entries are launchers, which hand a call over to a resident process, and start the program when there is none; a
# unit of systemd starts that process (docs/helper.md). Without --helper, a unit that is there goes.
# --verify: changes nothing, and ends with 0 when BIN_DIR is as this install.sh would leave it, with 1 when it is not.
# --force: removes the plugins although attachments live, which nobody can take off then.
#
# Needs a POSIX shell with what coreutils or busybox bring; `sha256sum` to verify; `flock`, or a /proc in its place.
# docs/adr/0019-entries-beside-the-bundle.md says why it is made like this.
set -eu
export LC_ALL=C # the words of sha256sum, and bytes for sed
umask 022
LOCK_SECONDS=300

warn() { # MESSAGE
    echo "install.sh: warning: $1" >&2
}

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
action=install
force=no
helper=no
bin_dir=
while [ $# -gt 0 ]; do
    case $1 in
    --host-root) [ $# -ge 2 ] || usage; host_root=${2%/}; shift ;;
    --verify | --uninstall) [ "$action" = install ] || usage; action=${1#--} ;;
    --force) force=yes ;;
    --helper) helper=yes ;;
    -*) usage ;;
    *) [ -z "$bin_dir" ] || usage; bin_dir=$1 ;;
    esac
    shift
done
[ "$force" = no ] || [ "$action" = uninstall ] || usage
bin_dir=${bin_dir:-/opt/cni/bin}
case $bin_dir in
/*) ;;
*) [ -z "$host_root" ] || usage; bin_dir=$(pwd)/$bin_dir ;;
esac
bin_dir=$(echo "$bin_dir" | sed 's|//*|/|g; s|/$||') # the entries have it in them, in one spelling
case $bin_dir in *[\'\"\\]*) die "$bin_dir has a quote or a backslash" "install into a directory without" ;; esac
here=$(cd "$(dirname "$0")" && pwd)
bundle=$here
[ -f "$bundle/bundle.info" ] || bundle=$here/../dist/barewire

info() { # KEY: a value of the bundle's description
    sed -n "s/^$1=//p" "$bundle/bundle.info"
}

seen_here() { # PATH of the node: the same place as seen from here. The node's links are followed within the node's root.
    at=
    rest=$1
    links=0
    while [ -n "$rest" ]; do
        part=${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
        case $part in
        '' | .) continue ;;
        ..) at=${at%/*}; continue ;;
        esac
        if [ -L "$host_root$at/$part" ]; then
            links=$((links + 1))
            [ "$links" -le 40 ] || die "$1 leads through too many symbolic links" "look for a loop of links in it"
            link=$(readlink "$host_root$at/$part")
            case $link in /*) at= ;; esac
            rest=$link/$rest
        else
            at=$at/$part
        fi
    done
    echo "$host_root$at"
}

on_node() {
    if [ -n "$host_root" ]; then chroot "$host_root" "$@"; else "$@"; fi
}

# What the host must be

host_glibc() { # its version, read from the library itself: the node need not have ldd or getconf
    for folder in /lib64 /lib /usr/lib64 /usr/lib; do
        seen=$(seen_here "$folder")
        for libc in "$seen"/libc.so.6 "$seen"/*-linux-gnu/libc.so.6; do
            libc=$(seen_here "${libc#"$host_root"}")
            [ -f "$libc" ] || continue
            tr -c '\040-\176' '\n' <"$libc" | sed -n 's/^GNU C Library.* release version \([0-9][0-9.]*[0-9]\).*/\1/p'
            return
        done
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
        "use a bundle of a release, or of make bundles, which needs glibc 2.28; one of make freeze needs the build machine's"
}

require_working() { # BUNDLE in BIN_DIR
    write_entry "$(first_plugin)" "$1" .barewire-entry.trial
    require_answer .barewire-entry.trial
    rm -f "$target/.barewire-entry.trial"
}

first_plugin() {
    info plugins | cut -d ' ' -f 1
}

require_answer() { # ENTRY, started as a runtime does: catches another architecture, a noexec mount, no shell
    answer=$(
        export CNI_COMMAND=VERSION
        printf '{"cniVersion":"1.0.0"}' | on_node "$bin_dir/$1" 2>&1
    ) || {
        remove_leftovers
        die "the plugin does not run on this host: $answer" \
            "check that $bin_dir is not mounted noexec, that the host has /bin/sh, and that the bundle is for $(uname -m)"
    }
}

# Checksums

differences() { # DIRECTORY: the files in it that are not as this bundle's SHA256SUMS say, and those that it does not name
    [ -d "$1" ] || { echo "the directory is missing" && return; }
    sums=$bundle/SHA256SUMS
    names=$(sed 's/^[^ ]* [ *]//' "$sums")
    [ "$(cat "$1/SHA256SUMS" 2>&1)" = "$(cat "$sums")" ] || echo ./SHA256SUMS
    echo "$names" | while read -r name; do [ -f "$1/$name" ] || echo "$name"; done
    ! can_verify || { cd "$1" && sha256sum -c "$sums" 2>/dev/null; } | sed '/: OK$/d; s/: FAILED.*//'
    # A listed name is there twice at least: what is there once is a file that the list does not name.
    { echo "$names"; echo "$names"; cd "$1" && find . ! -type d ! -path ./SHA256SUMS; } | sort | uniq -u
}

damage() { # DIRECTORY: how many files differ, and one of them; nothing when all are right
    all=$(differences "$1" | sort -u)
    [ -z "$all" ] || echo "$(echo "$all" | wc -l) of them: $(echo "$all" | head -n 1)"
}

can_verify() {
    command -v sha256sum >/dev/null
}

require_intact_source() {
    [ -f "$bundle/bundle.info" ] && [ -f "$bundle/SHA256SUMS" ] ||
        die "there is no bundle at $bundle" "run make freeze, or the install.sh of a bundle"
    can_verify || warn "sha256sum is missing: no file of the bundle is verified, only that all are there"
    wrong=$(damage "$bundle")
    [ -z "$wrong" ] || die "files of the bundle $bundle are damaged ($wrong)" "copy the bundle to this machine anew"
}

# One installer at a time

lock_directory() { # ends with this process, or its EXIT trap
    patience=$(($(date +%s) + LOCK_SECONDS))
    if command -v flock >/dev/null; then
        # The directory itself is locked: of a lock file it could be the removed one, when another installer uninstalls.
        exec 9<"$target"
        until flock -n 9; do await_lock "another install.sh is at work in $bin_dir"; done
    else
        lock=$target/.barewire-lock
        me=$(identity $$)
        trap 'exit 1' HUP INT TERM
        trap unlock EXIT
        until ln -s "$me" "$lock" 2>/dev/null; do
            drop_stale_lock
            await_lock "another install.sh holds $bin_dir/.barewire-lock ($(readlink "$lock" || echo gone))"
        done
    fi
}

await_lock() { # MESSAGE when the patience ends
    [ "$(date +%s)" -lt "$patience" ] || die "$1, for more than $LOCK_SECONDS s" "wait for it, or end it"
    sleep 0.2 2>/dev/null || sleep 1
}

identity() { # PID: names a process for good: boot, PID namespace, PID, start
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    echo "$(cat /proc/sys/kernel/random/boot_id)/$(readlink /proc/self/ns/pid)/$1/$(echo "${stat##*) }" | cut -d ' ' -f 20)"
}

drop_stale_lock() { # only one process at a time removes it, and only the one that it has looked at
    holder=$(readlink "$lock") || return 0
    ! alive "$holder" || return 0
    mkdir "$lock.breaking" 2>/dev/null || {
        [ -z "$(find "$lock.breaking" -mmin +10 2>/dev/null)" ] || rmdir "$lock.breaking"
        return 0
    }
    [ "$(readlink "$lock")" != "$holder" ] || rm -f "$lock"
    rmdir "$lock.breaking"
}

alive() { # IDENTITY: whether that process may be alive
    case $holder in
    "${me%/*/*}"/*)
        pid=${1%/*}
        [ "$(identity "${pid##*/}")" = "$1" ]
        ;;
    "${me%%/*}"/*) # of another container: only the lock's age tells
        [ -z "$(find "$lock" -mmin +10 2>/dev/null)" ]
        ;;
    *) false ;; # before a reboot
    esac
}

unlock() {
    [ "$(readlink "$lock")" != "$me" ] || rm -f "$lock"
}

# Entries

entry() { # NAME BUNDLE: the file that starts a program of a bundle
    case "$helper $(info tools) " in
    no* | *" $1 "*) script_entry "$@" ;;
    *) launcher_entry "$@" ;;
    esac
}

launcher_entry() { # NAME BUNDLE: the last four lines are how the launcher, and install.sh, know it
    cat "$bundle/launcher"
    printf '\n# barewire-entry: %s\n%s\n%s\n%s\n' "$2" "$1" "$bin_dir" "$(helper_socket "$2")"
}

script_entry() { # NAME BUNDLE: the second line is how install.sh knows it
    cat <<END
#!/bin/sh
# barewire-entry: $2
# Made by install.sh of Barewire. It starts the program in the directory of that name beside it.
bundle=\${0%/*}/$2
[ -d "\$bundle" ] || bundle='$bin_dir/$2' # it was called by a link that is elsewhere
[ ! -x "\$bundle/$1" ] || exec "\$bundle/$1" "\$@"
echo '{"cniVersion": "1.0.0", "code": 5, "msg": "$bin_dir/$2/$1 is missing", "details": "run install.sh of Barewire again"}'
exit 1
END
}

write_entry() { # NAME BUNDLE FILE
    entry "$1" "$2" >"$target/$3"
    chmod 755 "$target/$3"
}

leads_to() { # PATH: the bundle that our entry there starts; nothing when it is not ours
    if [ -L "$1" ]; then
        link=$(readlink "$1")
        case $link in .barewire-*/*) echo "${link%%/*}" ;; esac # as long as bundles were not verified, entries were links
    elif [ -f "$1" ]; then
        { sed -n '2p; 2q' "$1"; tail -n 4 "$1" | sed -n '1p'; } | sed -n 's/^# barewire-entry: //p' | head -n 1
    fi
}

is_as_made() { # NAME BUNDLE: whether the entry is what `entry` says, to the letter
    path=$target/$1
    [ ! -L "$path" ] && [ -x "$path" ] && [ "$(leads_to "$path")" = "$2" ] && [ "$(fingerprint <"$path")" = "$(entry "$1" "$2" | fingerprint)" ]
}

fingerprint() { # of stdin. A shell keeps no zeros in a variable, and not every busybox has cksum.
    for tool in cksum sha256sum md5sum; do
        ! command -v "$tool" >/dev/null || { "$tool" && return; }
    done
    tr -d '\000'
}

are_as_made() { # BUNDLE: all entries
    for name in $(info plugins) $(info tools); do
        is_as_made "$name" "$1" || return 1
    done
}

current() { # the bundle that the entries start now
    for name in $(info plugins) $(info tools); do
        led=$(leads_to "$target/$name")
        [ -z "$led" ] || { echo "$led" && return; }
    done
}

exists() { # PATH, also of a link that leads nowhere
    [ -e "$1" ] || [ -L "$1" ]
}

# The helper

unit=barewire-helper.service

helper_socket() { # BUNDLE: one for each, so that a launcher never meets another bundle's helper
    echo "/run/barewire/helper-${1#.barewire-}.sock"
}

unit_text() { # BUNDLE
    cat <<END
# Made by install.sh of Barewire.
[Unit]
Description=Barewire helper, which has the CNI plugins loaded
# Each call that finds no helper is slow, so that systemd never gives up.
StartLimitIntervalSec=0

[Service]
ExecStart="$(echo "$bin_dir" | sed 's/%/%%/g')/$1/barewire-helper" $(helper_socket "$1")
Restart=always
RestartSec=1
# A child that serves a call is not ended in the middle of it: it ends by itself.
KillMode=process
# A lack of memory that ends one child does not end the others.
OOMPolicy=continue
OOMScoreAdjust=-999
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
END
}

unit_file() {
    echo "$(seen_here /etc/systemd/system)/$unit"
}

is_our_unit() {
    [ "$(sed 1q "$(unit_file)" 2>/dev/null)" = "# Made by install.sh of Barewire." ]
}

manage() ( # ARGUMENTS of systemctl, which does nothing in a chroot without that variable. PATH is the container's.
    export SYSTEMD_IGNORE_CHROOT=1 PATH="$PATH:/usr/bin:/bin"
    on_node systemctl "$@"
)

start_helper() { # BUNDLE. The plugins work without it, so that nothing here makes an installation fail.
    command="$bin_dir/$1/barewire-helper $(helper_socket "$1")"
    if [ ! -d "$(seen_here /run/systemd/system)" ]; then
        warn "this node has no systemd: let its supervisor run \`$command\`"
        return
    fi
    verb=start
    if [ "$(cat "$(unit_file)" 2>/dev/null)" != "$(unit_text "$1")" ]; then
        { unit_text "$1" >"$(unit_file).new" && mv -f "$(unit_file).new" "$(unit_file)"; } || {
            warn "$unit cannot be written, and the plugins work without it: let the node's supervisor run \`$command\`"
            return 0
        }
        manage daemon-reload || :
        verb=restart
    fi
    { manage --quiet enable "$unit" && manage "$verb" "$unit"; } ||
        warn "the helper does not start, and the plugins work without it; see journalctl -u $unit"
}

remove_helper() {
    is_our_unit || return 0
    manage --quiet disable --now "$unit" || warn "the helper could not be ended: systemctl disable --now $unit"
    rm -f "$(unit_file)"
    manage daemon-reload || :
    echo "removed $unit"
}

verify_helper() { # BUNDLE
    if [ "$helper" = no ]; then
        ! is_our_unit || wrong "there is a unit $unit, and no --helper"
    elif [ ! -d "$(seen_here /run/systemd/system)" ]; then
        echo "ok: without systemd, whether a helper runs is not known"
    elif [ "$(cat "$(unit_file)" 2>/dev/null)" != "$(unit_text "$1")" ]; then
        wrong "$unit is not as install.sh makes it"
    elif ! manage --quiet is-active "$unit"; then
        wrong "$unit is not running"
    else
        echo "ok: $unit"
    fi
}

# Installing

choose_bundle() { # sets `new`: an intact copy of this bundle that is there, preferably the one in use, or a free name
    case $previous in
    "$base" | "$base"-*)
        new=$previous
        wrong=$(damage "$target/$new")
        [ -n "$wrong" ] || return 0
        warn "files of $bin_dir/$new are damaged ($wrong); it is replaced by a fresh copy"
        ;;
    esac
    new=$base
    copy=1
    while exists "$target/$new" && [ -n "$(damage "$target/$new")" ]; do
        copy=$((copy + 1))
        new=$base-$copy
    done
}

copy_bundle() { # under another name first: a half-made copy is never taken for a bundle
    partial=.barewire-partial.$$
    mkdir "$target/$partial"
    cp -R "$bundle/." "$target/$partial/" || {
        remove_leftovers # or a full disk would stay full
        die "cannot copy the bundle to $bin_dir" "see the message above; the bundle needs $(du -sk "$bundle" | cut -f 1) KiB"
    }
    wrong=$(damage "$target/$partial")
    [ -z "$wrong" ] || {
        remove_leftovers
        die "the copy in $bin_dir is not what was copied ($wrong)" "look for errors of the file system or the disk in the kernel's log"
    }
    require_working "$partial"
    mv "$target/$partial" "$target/$new"
}

remove_leftovers() { # of installers that were killed: under the lock there is no other
    rm -rf "$target"/.barewire-partial.* "$target"/.barewire-entry.*
}

keep_replaced() { # NAME: a copy, so that there is a plugin under this name at any time
    exists "$target/$1" && [ -z "$(leads_to "$target/$1")" ] || return 0
    [ ! -x "$target/${previous:-none}/$1" ] || warn "another installer has replaced $bin_dir/$1; Barewire's is put back. \
Remove that installer: it will do so again (README, Replacing)"
    mkdir -p "$target/.barewire-replaced"
    cp -pP "$target/$1" "$target/.barewire-replaced/$1.new"
    mv -f "$target/.barewire-replaced/$1.new" "$target/.barewire-replaced/$1"
    echo "kept the replaced $bin_dir/$1 in $bin_dir/.barewire-replaced/"
}

put_entries() { # all that they lead to is on the disk before the first one leads there
    changed=
    for name in $(info plugins) $(info tools); do
        ! is_as_made "$name" "$new" || continue
        keep_replaced "$name"
        write_entry "$name" "$new" ".barewire-entry.$name"
        changed="$changed $name"
    done
    [ -n "$changed" ] || return 0
    sync_target
    for name in $changed; do
        mv -f "$target/.barewire-entry.$name" "$target/$name"
        echo "$bin_dir/$name starts $new/$name"
    done
    sync_target
}

sync_target() { # that file system only, where `sync` can: another one that hangs is none of ours
    sync -f "$target" 2>/dev/null || sync
}

remove_bundles_except() { # NAME NAME
    for old in "$target"/.barewire-*-*; do
        case ${old##*/} in
        "$1" | "$2") ;;
        *) [ ! -d "$old" ] || rm -rf "$old" ;;
        esac
    done
}

install_plugins() {
    require_intact_source
    [ "$helper" = no ] || [ -f "$bundle/launcher" ] || die "this bundle has no launcher" "use a bundle of this version"
    require_glibc
    for name in $(info plugins) $(info tools); do
        [ -L "$target/$name" ] || [ ! -d "$target/$name" ] || die "$bin_dir/$name is a directory" "move it away"
    done
    mkdir -p "$target"
    lock_directory
    remove_leftovers
    base=.barewire-$(info version)-$(info build)
    previous=$(current)
    choose_bundle
    if [ ! -d "$target/$new" ]; then
        copy_bundle
    elif are_as_made "$new"; then
        require_answer "$(first_plugin)" # nothing is written, so that this works on a read-only file system
    else
        require_working "$new"
    fi
    [ "$helper" = no ] || start_helper "$new"
    put_entries
    [ "$helper" = yes ] || remove_helper
    # Installing the same bundle twice must not count as a generation.
    [ "$previous" = "$new" ] || remove_bundles_except "$new" "$previous"
}

# Verifying

verify_plugins() {
    require_intact_source
    base=.barewire-$(info version)-$(info build)
    state=0
    used=$(current)
    case $used in
    '') wrong "no entry in $bin_dir starts Barewire" ;;
    "$base" | "$base"-*) verify_bundle ;;
    *) wrong "$bin_dir/$used is another version than this $base" ;;
    esac
    for name in $(info plugins) $(info tools); do verify_entry "$name"; done
    verify_helper "${used:-none}"
    can_verify || wrong "sha256sum is missing: no file of the bundle is verified"
    [ "$state" = 0 ] || echo "  what to do: run this install.sh without --verify, after what replaced an entry is removed" >&2
    exit "$state"
}

verify_bundle() {
    found=$(damage "$target/$used")
    if [ -n "$found" ]; then wrong "files of $bin_dir/$used are damaged ($found)"; else echo "ok: $bin_dir/$used"; fi
}

verify_entry() { # NAME
    if is_as_made "$1" "${used:-none}"; then
        echo "ok: $bin_dir/$1"
    elif ! exists "$target/$1"; then
        wrong "$bin_dir/$1 is missing"
    elif [ -n "$(leads_to "$target/$1")" ]; then
        wrong "$bin_dir/$1 is not as install.sh made it"
    else
        wrong "$bin_dir/$1 is not Barewire's: another installer has put it there"
    fi
}

wrong() { # MESSAGE
    echo "wrong: $1"
    state=1
}

# Removing

uninstall_plugins() {
    [ -d "$target" ] || return 0
    lock_directory
    refuse_with_attachments
    for path in "$target"/*; do
        [ -n "$(leads_to "$path")" ] || continue
        kept=$target/.barewire-replaced/${path##*/}
        if exists "$kept"; then mv -f "$kept" "$path"; else rm -f "$path"; fi
        echo "removed $bin_dir/${path##*/}"
    done
    remove_helper
    remove_leftovers
    remove_bundles_except '' ''
    rm -rf "$target/.barewire-replaced"
}

refuse_with_attachments() {
    state_directory=$(seen_here /var/lib/cni/barewire)
    records=0
    names=
    for record in "$state_directory"/*/*.json "$state_directory"/*/*.json.damaged; do
        [ -f "$record" ] || continue
        records=$((records + 1))
        [ "$records" -gt 5 ] || names="$names ${record#"$state_directory"/}"
    done
    [ "$records" -gt 0 ] || return 0
    [ "$force" = no ] || {
        warn "$records attachments are still recorded; nothing takes them off without these plugins"
        return 0
    }
    die "$records attachments live on this node:$names$([ "$records" -le 5 ] || echo ' ...'); only these plugins can take them off" \
        "remove their pods; \`$bin_dir/barewire gc --apply\` removes what pods that are gone have left. Or say --force"
}

target=$(seen_here "$bin_dir")
"${action}_plugins"

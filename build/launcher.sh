#!/bin/sh
# launcher.sh BUILD FILE [OPTION...]: compiles the launcher. Nothing of a libc is linked: any Linux runs it.
set -eu
build=$1
file=$2
shift 2
exec "${CC:-gcc}" -Os -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -DBUILD="\"$build\"" \
    -static -nostdlib -ffreestanding -fno-builtin -fno-stack-protector -fno-pie -no-pie -fno-asynchronous-unwind-tables \
    -fno-tree-loop-distribute-patterns -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,norelro -s "$@" \
    -o "$file" "$(dirname "$0")/../cni/helper/launcher.c"

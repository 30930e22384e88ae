# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Builds the test guests' kernel, initial RAM disk and disks in build/guest; the recipe is in
# tests/guest. `guest_image_build [--generic]` is the entry. Source common.sh and apt-source.sh
# first.
#
# Nothing is installed on the host, no loop device is used, and mmdebstrap's mounts are in a mount
# namespace that ends with it. Each stage has a stamp with a checksum of its inputs, and its output
# has another name until it is whole: an interrupted build goes on with the stage that it was in.

GUEST_DIR=$HOTSNAP_BUILD/guest
GUEST_RECIPE=$HOTSNAP_ROOT/tests/guest
GUEST_SUITE=bookworm
GUEST_PACKAGES=(mmdebstrap debian-archive-keyring e2fsprogs kmod gcc libc6-dev util-linux)
GUEST_PROGRAMS=(hs-chatter hs-pgdriver hs-disktag hs-writer)
# Drivers in the initial RAM disk. The full kernel has ext4's checksum as a module, and more drivers.
GUEST_MODULES=(virtio_pci virtio_blk virtio_scsi virtio_net virtio_rng virtio_balloon virtio_console sd_mod
    ata_piix ext4 bridge 8021q macvlan bonding)
GUEST_MODULES_GENERIC=(crc32c_generic ahci e1000 e1000e ata_generic)

# The machine's mirrors, but always of the guests' suite; lists of our own, so that the machine's
# need not be fresh.
GUEST_APT=(
    -o "Dir::Etc::sourcelist=$GUEST_DIR/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::Lists=$GUEST_DIR/apt/lists" -o "Dir::Cache=$GUEST_DIR/apt/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3
)

# --- stamps ------------------------------------------------------------------------------------

# guest_key FILE|STRING...: a checksum of the contents of the files and of the strings.
guest_key() {
    local item
    for item in "$@"; do
        if [[ -f $item ]]; then
            cat -- "$item"
        else
            printf '%s\n' "$item"
        fi
    done | sha256sum | cut -d' ' -f1
}

# guest_fresh STAGE KEY OUTPUT...
guest_fresh() {
    local stage=$1 key=$2 output
    shift 2
    for output in "$@"; do
        [[ -e $GUEST_DIR/$output ]] || return 1
    done
    [[ -e $GUEST_DIR/stamps/$stage && $(<"$GUEST_DIR/stamps/$stage") == "$key" ]]
}

guest_done() { printf '%s\n' "$2" >"$GUEST_DIR/stamps/$1"; }

# guest_stage STAGE TITLE "OUTPUT..." "INPUT..." COMMAND...: run the command unless the outputs
# were made from the same inputs. Result in $REPLY: the stage's key, as an input for later stages.
guest_stage() {
    local stage=$1 title=$2 key
    local -a outputs inputs
    read -ra outputs <<<"$3"
    read -ra inputs <<<"$4"
    shift 4
    key=$(guest_key "${inputs[@]}" "$(declare -f "$1" guest_ext4)")
    if ! guest_fresh "$stage" "$key" "${outputs[@]}"; then
        rm -f "$GUEST_DIR/stamps/$stage"
        export GUEST_STAGE_KEY=$key
        # A shell of its own: bash ignores errexit in all that runs on the left of ||.
        # shellcheck disable=SC2016 # expanded by that shell
        run_step "$title" "guest-$stage" bash -c '
            for library in common apt-source guest-image; do source "$1/$library.sh"; done
            "${@:2}"' "guest-$stage" "$HOTSNAP_ROOT/scripts/lib" "$@" ||
            die "the test guests could not be made (stage $stage)" \
                "see build/logs/guest-$stage.log; mend the cause and run this again"
        guest_done "$stage" "$key"
    fi
    REPLY=$key
}

# --- stages ------------------------------------------------------------------------------------

guest_apt_lists() {
    local main security
    main=$(machine_mirrors | awk '$1 == "main" { print $2; exit }')
    security=$(machine_mirrors | awk '$1 == "security" { print $2; exit }')
    [[ -n $main ]] || {
        echo "apt on this machine has no Debian archive configured"
        return 1
    }
    mkdir -p "$GUEST_DIR"/apt/{lists,cache/archives}/partial
    {
        printf 'deb %s %s main\n' "$main" "$GUEST_SUITE"
        [[ -z $security ]] || printf 'deb %s %s-security main\n' "$security" "$GUEST_SUITE"
    } >"$GUEST_DIR/apt/sources.list"
    apt-get "${GUEST_APT[@]}" update
}

# The userland, and the files of an initialized PostgreSQL cluster, each as a directory.
guest_userland() {
    local tree=$GUEST_DIR/userland packages
    packages=$(grep -v '^#' "$GUEST_RECIPE/packages" | paste -sd,)
    rm -rf --one-file-system "$tree" "$tree.partial"
    # The namespaces end with the step, and every process and mount inside with them.
    unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
        mmdebstrap --mode=root --variant=essential --format=directory --include="$packages" \
        --keyring="$APT_KEYRING" \
        --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
        --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --customize-hook="'$GUEST_RECIPE/customize-userland' \"\$1\"" \
        "$GUEST_SUITE" "$tree.partial" "$GUEST_DIR/apt/sources.list"
    rm -rf "$GUEST_DIR/pgdata"
    mv "$tree.partial/srv/pg" "$GUEST_DIR/pgdata"
    install -d "$tree.partial/srv/pg"
    mv "$tree.partial" "$tree"
}

guest_programs() {
    local program
    mkdir -p "$GUEST_DIR/programs"
    for program in "${GUEST_PROGRAMS[@]}"; do
        gcc -std=c11 -O2 -static -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror \
            "$GUEST_RECIPE/src/$program.c" "$GUEST_RECIPE/src/hs-tag.c" \
            -o "$GUEST_DIR/programs/$program"
    done
}

# guest_ext4 NAME LABEL SIZE DIRECTORY: a sparse, wholly initialized file system, so that no guest
# spends its first minutes on initializing it. It is NAME-KEY.raw, and NAME.raw a link to it: an
# overlay is good for the one file only that it was made on, so a disk is never overwritten.
guest_ext4() {
    local name=$1 label=$2 size=$3 directory=$4 file
    file=$name-${GUEST_STAGE_KEY:0:12}.raw
    rm -f "$GUEST_DIR/$name.partial" "$GUEST_DIR/$name.link"
    mke2fs -q -t ext4 -L "$label" -m 0 -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 \
        -d "$directory" "$GUEST_DIR/$name.partial" "$size"
    mv "$GUEST_DIR/$name.partial" "$GUEST_DIR/$file"
    chmod 444 "$GUEST_DIR/$file"
    ln -s "$file" "$GUEST_DIR/$name.link"
    mv -T "$GUEST_DIR/$name.link" "$GUEST_DIR/$name.raw"
}

guest_rootfs() {
    local lib=$GUEST_DIR/userland/usr/lib/hotsnap
    rm -rf "$lib"
    install -d "$lib"
    install -t "$lib" "$GUEST_RECIPE/init" "$GUEST_RECIPE/cache-report" \
        "${GUEST_PROGRAMS[@]/#/$GUEST_DIR/programs/}"
    guest_ext4 rootfs HSROOT 1280M "$GUEST_DIR/userland"
}

# The database's files, which the userland was made with, are for a disk of their own.
guest_pgdata() { guest_ext4 pgdata HSPG 512M "$GUEST_DIR/pgdata"; }

# guest_prune: remove the disks of earlier recipes; bundles and overlays on them are lost with them.
guest_prune() {
    local file
    for file in "$GUEST_DIR"/{rootfs,pgdata}-*.raw; do
        [[ ! -e $file || $file -ef $GUEST_DIR/rootfs.raw || $file -ef $GUEST_DIR/pgdata.raw ]] ||
            rm -f -- "$file"
    done
}

# guest_kernel FLAVOR SUFFIX MODULE...: FLAVOR of Debian's kernels (cloud-amd64, amd64).
guest_kernel() {
    local flavor=$1 suffix=$2 work=$GUEST_DIR/kernel-$1 image version tree
    shift 2
    rm -rf "$work"
    mkdir -p "$work"/{deb,root,initrd/{bin,proc,sys,dev,root}}
    # The metapackage names the current image; its own dependency is the one that is wanted.
    image=$(apt-cache "${GUEST_APT[@]}" depends "linux-image-$flavor" |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [[ -n $image ]] || {
        echo "$GUEST_SUITE has no kernel linux-image-$flavor"
        return 1
    }
    (cd "$work/deb" && apt-get "${GUEST_APT[@]}" download "$image" busybox-static)
    dpkg -x "$work"/deb/linux-image-*.deb "$work/root"
    dpkg -x "$work"/deb/busybox-static_*.deb "$work/root"
    version=${image#linux-image-}
    tree=$work/initrd/lib/modules/$version
    depmod -b "$work/root" "$version"
    mkdir -p "$tree"
    guest_copy_modules "$work/root" "$version" "$tree" "$@"
    cp "$work/root/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$tree/"
    depmod -b "$work/initrd" "$version"
    guest_initrd_files "$work/root" "$work/initrd"
    (cd "$work/initrd" && find . -print0 | sort -z |
        ./bin/busybox cpio -0 -o -H newc >"$GUEST_DIR/initrd$suffix.img.partial")
    cp "$work/root/boot/vmlinuz-$version" "$GUEST_DIR/vmlinuz$suffix"
    mv "$GUEST_DIR/initrd$suffix.img.partial" "$GUEST_DIR/initrd$suffix.img"
    rm -rf "$work"
}

# Copy the modules and their dependencies; those built into the kernel are no files.
guest_copy_modules() {
    local from=$1 version=$2 to=$3 module
    shift 3
    for module in "$@"; do
        modprobe --dirname "$from" --set-version "$version" --show-depends "$module" |
            awk '$1 == "insmod" { print $2 }' || {
            echo "kernel $version has no module $module"
            return 1
        }
    done | sort -u | xargs -r cp -t "$to"
}

guest_initrd_files() {
    local from=$1 to=$2 applet
    install -m 755 "$GUEST_RECIPE/initrd-init" "$to/init"
    install -m 755 "$from/bin/busybox" "$to/bin/busybox"
    for applet in sh cat mkdir mount modprobe findfs sleep poweroff switch_root; do
        ln -s busybox "$to/bin/$applet"
    done
}

# -----------------------------------------------------------------------------------------------

# guest_image_build [--generic]: bring build/guest up to date.
guest_image_build() {
    local userland programs lists kernel_inputs
    ((EUID == 0)) || die "making the test guests needs root" "run this with sudo"
    need_packages "${GUEST_PACKAGES[@]}"
    mkdir -p "$GUEST_DIR/stamps"
    # A lock of its own: the guests can be made while the libraries or QEMU are built.
    exec {guest_lock_fd}>>"$GUEST_DIR/.lock"
    if ! flock -n "$guest_lock_fd"; then
        log "the test guests are being made by another script: waiting for it"
        flock "$guest_lock_fd"
    fi
    guest_stage lists "guest: read $GUEST_SUITE's package index" "apt/sources.list" \
        "$GUEST_SUITE" guest_apt_lists
    lists=$REPLY
    guest_stage userland "guest: make the Debian userland" "userland pgdata" \
        "$GUEST_SUITE $GUEST_RECIPE/packages $GUEST_RECIPE/customize-userland $lists" guest_userland
    userland=$REPLY
    guest_stage programs "guest: compile the guest programs" \
        "${GUEST_PROGRAMS[*]/#/programs/}" "$(echo "$GUEST_RECIPE"/src/*.[ch])" guest_programs
    programs=$REPLY
    guest_stage pgdata "guest: make the database's disk" pgdata.raw "$userland" guest_pgdata
    guest_stage rootfs "guest: make the root disk" rootfs.raw \
        "$GUEST_RECIPE/init $GUEST_RECIPE/cache-report $userland $programs" guest_rootfs
    kernel_inputs="$GUEST_RECIPE/initrd-init $lists"
    guest_stage kernel "guest: fetch the kernel" "vmlinuz initrd.img" \
        "$kernel_inputs ${GUEST_MODULES[*]}" guest_kernel cloud-amd64 '' "${GUEST_MODULES[@]}"
    [[ ${1-} != --generic ]] ||
        guest_stage kernel-generic "guest: fetch the full kernel" \
            "vmlinuz-generic initrd-generic.img" \
            "$kernel_inputs ${GUEST_MODULES[*]} ${GUEST_MODULES_GENERIC[*]}" \
            guest_kernel amd64 -generic "${GUEST_MODULES[@]}" "${GUEST_MODULES_GENERIC[@]}"
}

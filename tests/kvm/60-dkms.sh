#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# usage: tests/kvm/60-dkms.sh
#
# The DKMS package, as a host with the level-1 machine's kernel would install and remove it: its
# own scripts run dkms, which builds, installs and removes the modules. All of that happens in a
# mount namespace where /usr/src, /var/lib/dkms and /lib/modules are folders of the test. The
# machine's own folders stay as they are, and that is checked. Nothing is taken from other builds,
# so most of the time goes into compiling: about two minutes on two processors. The default tier
# only looks into the package: build-kvm compiles the same source, with the same Makefile.
# shellcheck disable=SC2317 # the checks are called by try

# timeout: 900

# shellcheck source=../../scripts/lib/all.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/lib/all.sh"
# shellcheck source=../../scripts/lib/kvm-build.sh
source "$HOTSNAP_ROOT/scripts/lib/kvm-build.sh"

MODULES=(kvm kvm-amd kvm-intel)
failed=0

# try NAME COMMAND...: the command prints the faults that it finds.
try() {
    local name=$1 complaint start=$SECONDS
    shift
    if complaint=$("$@" 2>&1) && [[ -z $complaint ]]; then
        echo "ok $name # $((SECONDS - start)) s"
    else
        echo "not ok $name - $(tail -n 5 <<<"${complaint:-it ended with an error}" | tr '\n' ' ')"
        failed=1
    fi
}

# The folders to mount on must exist; those made for it are removed after the test.
make_mount_points() {
    local folder
    for folder in /usr/src /var/lib/dkms /lib/modules; do
        [[ ! -d $folder ]] || continue
        mkdir "$folder"
        on_exit "rmdir $folder"
    done
}

# Runs COMMAND... with the test's folders in the places where dkms and the package look.
on_the_host() {
    # shellcheck disable=SC2016 # expanded by that shell
    unshare --mount --propagation private bash -euc '
        mount --bind "$1/src" /usr/src
        mount --bind "$1/dkms" /var/lib/dkms
        mount --bind "$1/modules" /lib/modules
        shift
        "$@"' on-the-host "$work" "$@"
}

# The host's folders: the kernel's modules and headers, its source, and the package's files.
make_host() {
    local kernel=$1
    mkdir -p "$work"/{src,dkms,source}
    cp -a "$kernel/root/lib/modules" "$work/modules"
    kvm_unpack_headers "$release" "$work/headers"
    ln -s "$work/headers/usr/src/linux-headers-$release" "$work/modules/$release/build"
    apt_fetch_package linux-source-6.12 "$KVM_SUITE" ||
        die "$KVM_SUITE has no package linux-source-6.12"
    dpkg -x "$REPLY" "$work/source"
    mv "$work/source/usr/src/linux-source-6.12.tar.xz" "$work/src/"
    dpkg -x "$package" "$work/package"
    dpkg -e "$package" "$work/control"
    cp -a "$work"/package/usr/src/hotsnap-kvm-* "$work/src/"
}

check_contents() {
    local listed file
    listed=$(dpkg-deb -c "$package" | awk '{ print $6 }')
    for file in dkms.conf Makefile prepare patches/series overlay/arch/x86/kvm/hotsnap.c \
        overlay/include/uapi/linux/kvm_hotsnap.h; do
        grep -qxF "./usr/src/hotsnap-kvm-$version/$file" <<<"$listed" || echo "there is no $file"
    done
    ! grep -vE '^\./(usr/(src/(hotsnap-kvm-.*)?)?)?$' <<<"$listed" || echo "files in other places"
    ! grep -r '@VERSION@' "$work"/{control,package} || echo "a version is not filled in"
}

# version_of MODULE: the version that modinfo gives for the module that modprobe would load.
version_of() {
    local file
    file=$(on_the_host modprobe -S "$release" --show-depends "$1" | awk 'END { print $2 }')
    on_the_host modinfo -F version "$file"
}

check_modules() {
    local module wanted file magic
    wanted=$(sed -nE 's/^\+MODULE_VERSION\("(.*)"\);$/\1/p' "$KVM_PATCHES"/patches/*.patch | sort -u)
    [[ -n $wanted ]] || echo "the series gives the modules no version"
    for module in "${MODULES[@]}"; do
        file=$(echo "$work/modules/$release/updates/dkms/$module".ko*)
        if [[ ! -e $file ]]; then
            echo "there is no $module"
            continue
        fi
        [[ $(version_of "$module") == "$wanted" ]] || echo "modprobe loads another $module"
        [[ $(modinfo -F version "$file") == "$wanted" ]] || echo "$module has another version"
        magic=$(modinfo -F vermagic "$file")
        [[ $magic == "$(modinfo -F vermagic "$stock/$module.ko")" && $magic == "$release "* ]] ||
            echo "$module is for '$magic'"
    done
}

check_removed() {
    local module
    for module in "${MODULES[@]}"; do
        ! compgen -G "$work/modules/$release/updates/dkms/$module.ko*" || echo "$module stays"
        [[ -z $(version_of "$module") ]] || echo "modprobe does not load the kernel's own $module"
    done
}

check_machine() {
    [[ $(machine_state) == "$before" ]] || echo "the machine's own folders have changed"
}

machine_state() {
    find /lib/modules /usr/src /var/lib/dkms -printf '%p %T@ %l\n' 2>/dev/null | sort | sha256sum
}

((EUID == 0)) || {
    echo "skip dkms - a mount namespace needs root"
    exit
}
take_build_lock
need_package_sets kvm dkms
work=$(mktemp -d "$HOTSNAP_BUILD/hotsnap-test-XXXXXX")
# shellcheck disable=SC2016 # expanded at the end
on_exit 'rm -rf --one-file-system "$work"'
make_mount_points
before=$(machine_state)
kernel=$("$HOTSNAP_ROOT/tests/support/level1/kernel" "$KVM_SUITE") || {
    echo "skip dkms - there is no kernel of $KVM_SUITE"
    exit
}
release=$(basename "$kernel"/root/lib/modules/*)
stock=$kernel/root/lib/modules/$release
kvm_dkms_package
package=$REPLY
version=$(dpkg-deb -f "$package" Version)
make_host "$kernel"
echo "# $(basename "$package") on $release"
try dkms-contents check_contents
try dkms-kernels-own-before check_removed
if [[ ${HOTSNAP_TIER-} == default ]]; then
    echo "# left to --all: building, installing and removing the modules by dkms"
    exit "$failed"
fi
# The output of dkms is of interest only when dkms fails.
install_log=$HOTSNAP_LOGS/dkms-install.log
start=$SECONDS
on_the_host sh "$work/control/postinst" configure >"$install_log" 2>&1 || true
echo "# built and installed in $((SECONDS - start)) s"
if ! on_the_host dkms status -m hotsnap-kvm -v "$version" 2>/dev/null | grep -q "$release.*: installed"; then
    tail -n 20 "$install_log" "$work"/dkms/hotsnap-kvm/*/build/make.log | sed 's/^/# /'
fi
try dkms-modules check_modules
on_the_host sh "$work/control/prerm" remove >"$HOTSNAP_LOGS/dkms-remove.log" 2>&1 || true
try dkms-removed check_removed
try dkms-machine-untouched check_machine
exit "$failed"

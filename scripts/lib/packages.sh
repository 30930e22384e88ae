# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The Debian packages that each job needs; `need_package_sets SET...` installs the missing ones.
# Source common.sh first.

declare -A PACKAGE_SETS=(
    # a compiler and the tools of every build here
    [tools]="gcc g++ libc6-dev make ninja-build pkgconf git ccache xz-utils dpkg-dev util-linux
        python3 python3-venv ca-certificates debian-archive-keyring"
    # snapshot/ and coordinator/
    [libs]="libaio-dev libxxhash-dev nlohmann-json3-dev"
    # their tests
    [tests]="libgtest-dev librapidcheck-dev"
    # QEMU with the features that scripts/lib/builds.sh enables
    [qemu]="libglib2.0-dev libpixman-1-dev zlib1g-dev libaio-dev libslirp-dev libfdt-dev
        libcap-ng-dev libgnutls28-dev flex bison perl rsync"
    # firmware for a QEMU that has none bundled (see --firmwarepath in builds.sh)
    [firmware]="seabios qemu-system-data ipxe-qemu ovmf"
    # the operator's command, and the VM tests
    [operator]="python3 python3-xxhash iproute2 util-linux mount e2fsprogs tar zstd"
    # certificates for the VM tests
    [certificates]="gnutls-bin openssl"
    # the patched KVM: kbuild's programs come with the kernel's headers
    [kvm]="gcc make patch xz-utils kmod libelf1 dpkg-dev"
    # to try the package of its modules
    [dkms]="dkms"
    # a computer with VMX and EPT, emulated, to run it in
    [bochs]="bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso cpio"
    # the style checks
    [style]="clang-format shellcheck pyflakes3 git perl python3"
)

need_package_sets() {
    local name
    local -a packages=()
    for name in "$@"; do
        [[ -n ${PACKAGE_SETS[$name]-} ]] ||
            die "no package set is called '$name'" "the sets are: ${!PACKAGE_SETS[*]}"
        # shellcheck disable=SC2206 # split on purpose: names of Debian packages
        packages+=(${PACKAGE_SETS[$name]})
    done
    need_packages "${packages[@]}"
}

# ensure_meson: QEMU 10.0 wants meson 1.5, Debian 12 has 1.0; its backports have a newer one.
# Needs apt-source.sh.
ensure_meson() {
    local wanted=1.5.0 have
    have=$(/usr/bin/meson --version 2>/dev/null || echo 0)
    ! dpkg --compare-versions "$have" ge "$wanted" || return 0
    apt_fetch_package meson bookworm-backports ||
        die "meson $wanted or newer is needed and bookworm-backports has none" \
            "install a newer meson package, then run this again"
    install_packages "$REPLY"
}

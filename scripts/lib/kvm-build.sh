# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Builds the patched KVM for a kernel of Debian, in build/kvm: its headers and its source come from
# the archive, kvm-patches/ adds the rest. Source through all.sh.

KVM_DIR=$HOTSNAP_BUILD/kvm
KVM_PATCHES=$HOTSNAP_ROOT/kvm-patches
# Debian 12's kernels are built with Debian 12's compiler; backports has Linux 6.12.
KVM_SUITE=bookworm-backports

# The newest release of a flavour (cloud-amd64, amd64) that the suite has, in $REPLY.
kvm_newest_release() {
    apt_prepare
    REPLY=$(apt-cache "${APT_OPTIONS[@]}" show "linux-image-$1/$KVM_SUITE" 2>/dev/null |
        sed -nE 's/^Depends: linux-image-([0-9][^ ]*).*/\1/p' | head -n 1)
    [[ -n $REPLY ]] || die "$KVM_SUITE has no kernel linux-image-$1" "name one with --kernel"
}

# The releases that --kernel can build, one a line, in $REPLY: those that the suite has headers of.
kvm_releases() {
    apt_prepare
    REPLY=$(apt-cache "${APT_OPTIONS[@]}" pkgnames linux-headers-6.12. |
        sed -nE 's/^linux-headers-([^-]+-(cloud-)?amd64)$/\1/p' | sort -V)
}

# kvm_must_have RELEASE
kvm_must_have() {
    kvm_releases
    grep -qxF "$1" <<<"$REPLY" ||
        die "$KVM_SUITE has no kernel $1 for --kernel; it has: ${REPLY//$'\n'/, }" \
            "for other kernels of 6.12 there is 'scripts/build-kvm --dkms', which builds on their host"
}

# Identifies all that the modules are made from.
kvm_recipe() {
    (cd "$KVM_PATCHES" && find . -type f ! -name '*.md' -print0 | sort -z | xargs -0 sha256sum |
        sha256sum | cut -c 1-12)
}

kvm_unpack_headers() {
    local release=$1 to=$2 base package
    base=${release%-"$(kvm_flavour "$release")"}
    rm -rf "$to"
    for package in "linux-headers-$release" "linux-headers-$base-common" "linux-kbuild-$base"; do
        apt_fetch_package "$package" "$KVM_SUITE" ||
            die "$KVM_SUITE has no package $package"
        dpkg -x "$REPLY" "$to"
    done
    # The packages expect to be installed.
    sed -i "s#/usr/src/#$to/usr/src/#" "$to/usr/src/linux-headers-$release/Makefile"
}

# 6.12.95+deb12-cloud-amd64: cloud-amd64
kvm_flavour() { sed -E 's/^[^-]*-//' <<<"$1"; }

# build_kvm RELEASE: leaves the folder with kvm.ko, kvm-amd.ko and kvm-intel.ko in $REPLY.
build_kvm() {
    local release=$1 recipe folder work kvm_lock
    recipe=$(kvm_recipe)
    folder=$KVM_DIR/$release.$recipe
    work=$KVM_DIR/$release.partial
    # Tests that run at the same time share the build lock's holder.
    mkdir -p "$KVM_DIR"
    exec {kvm_lock}>>"$KVM_DIR/.lock"
    flock "$kvm_lock"
    if [[ ! -e $folder ]]; then
        kvm_must_have "$release"
        rm -rf "$KVM_DIR/$release".*
        mkdir -p "$work"
        kvm_unpack_headers "$release" "$work/headers"
        apt_fetch_package linux-source-6.12 "$KVM_SUITE" ||
            die "$KVM_SUITE has no package linux-source-6.12"
        run_step "unpack and patch KVM of $release" kvm-prepare kvm_prepare "$REPLY" "$work" \
            "$release" || die "the series does not apply" "see build/logs/kvm-prepare.log"
        run_step "build KVM for $release" kvm-build make -f "$KVM_PATCHES/Makefile" \
            "TREE=$work/tree" "KDIR=$work/headers/usr/src/linux-headers-$release" \
            "-j$HOTSNAP_JOBS" modules ||
            die "the modules do not compile" "see build/logs/kvm-build.log"
        cp "$work"/tree/arch/x86/kvm/{kvm,kvm-amd,kvm-intel}.ko "$work/"
        strip --strip-debug "$work"/*.ko
        rm -rf "$work"/{tree,headers}
        mv "$work" "$folder"
    fi
    exec {kvm_lock}>&-
    REPLY=$folder
}

kvm_prepare() {
    local package=$1 work=$2 release=$3
    dpkg -x "$package" "$work/source"
    "$KVM_PATCHES/prepare" "$work/source/usr/src/linux-source-6.12.tar.xz" "$work/tree" "$release"
    rm -rf "$work/source"
}

# Applies the series to the newest sources of 6.12.x that can be had: the upstream one of Debian 13,
# and that of Debian 12's security updates. The versions, in $REPLY.
kvm_apply_to_newest() {
    local versions work=$KVM_DIR/newest
    apt_fetch_source linux 6.12. orig || die "no suite has a source of Linux 6.12"
    kvm_apply "$REPLY"
    versions=$REPLY
    if apt_fetch_package linux-source-6.12 bookworm-security; then
        rm -rf "$work.source"
        dpkg -x "$REPLY" "$work.source"
        kvm_apply "$work.source/usr/src/linux-source-6.12.tar.xz"
        versions+=" $REPLY"
        rm -rf "$work.source"
    fi
    REPLY=$versions
}

# kvm_apply TARBALL: does the series apply? Its version, in $REPLY.
kvm_apply() {
    mkdir -p "$KVM_DIR"
    "$KVM_PATCHES/prepare" "$1" "$KVM_DIR/newest" || die "the series does not apply"
    REPLY=$(cat "$KVM_DIR/newest/VERSION")
    rm -rf "$KVM_DIR/newest"
}

# A package for an operator's host, where DKMS builds the modules for each 6.12 kernel; in $REPLY.
kvm_dkms_package() {
    local version tree package source
    version=$(sed -nE "s/^ *version: '([^']+)'.*/\1/p" "$HOTSNAP_ROOT/meson.build" | head -n 1)
    tree=$KVM_DIR/dkms
    package=$KVM_DIR/hotsnap-kvm-dkms_${version}_all.deb
    source=$tree/usr/src/hotsnap-kvm-$version
    rm -rf "$tree"
    mkdir -p "$source" "$tree/DEBIAN"
    cp -R "$KVM_PATCHES"/{overlay,patches,prepare,Makefile} "$source/"
    sed "s/@VERSION@/$version/" "$KVM_PATCHES/dkms/dkms.conf.in" >"$source/dkms.conf"
    for file in control postinst prerm; do
        sed "s/@VERSION@/$version/" "$KVM_PATCHES/dkms/$file.in" >"$tree/DEBIAN/$file"
    done
    chmod 755 "$tree/DEBIAN"/{postinst,prerm}
    dpkg-deb --root-owner-group -b "$tree" "$package" >/dev/null
    rm -rf "$tree"
    REPLY=$package
}

# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The builds under build/: the libraries with their tests (host), the fork (qemu), and the same
# QEMU without the series (qemu-stock). Each is configured once and then left to ninja; it is
# configured anew when its configuration changes. Source through all.sh.

# Where Debian's packages put firmware; Debian's source package of QEMU holds none.
QEMU_FIRMWARE=(/usr/share/qemu /usr/share/seabios /usr/lib/ipxe/qemu)

# QEMU's features: those that the project's tests and an operator need, no others.
QEMU_CONFIGURE=(
    --python=/usr/bin/python3 --target-list=x86_64-softmmu --disable-download
    --without-default-features --disable-install-blobs
    --firmwarepath="$(IFS=: && echo "${QEMU_FIRMWARE[*]}")"
    --enable-system --enable-tools --enable-tcg --enable-kvm --enable-slirp --enable-linux-aio
    --enable-cap-ng --enable-vhost-user --enable-vhost-net --enable-vhost-kernel
    --enable-vhost-vdpa --enable-pixman --enable-fdt=system --enable-coroutine-pool
    --extra-cflags=-g1 --enable-membarrier --enable-malloc-trim --enable-vnc --enable-trace-backends=log
    # For TLS between members; GnuTLS 3.7 takes 1.0 and 1.1 for normal, too.
    --enable-gnutls --tls-priority=NORMAL:-VERS-TLS1.1:-VERS-TLS1.0
    # Formats of golden images that labs have.
    --enable-vmdk --enable-vdi --enable-vhdx --enable-vpc --enable-qed
)
# The storage daemon serves exported disks. The last is for a test: a process that writes guest memory
# behind the back of QEMU.
QEMU_PROGRAMS=(qemu-system-x86_64 qemu-img qemu-io storage-daemon/qemu-storage-daemon
               contrib/vhost-user-blk/vhost-user-blk)
# The sweeps over all commands, devices and machines, and the tests of code that the fork changes.
QEMU_TESTS=(qmp-cmd-test test-hmp qom-test test-netfilter test-filter-mirror migration-test)

# run_ninja NAME LOG DIR TARGET...
run_ninja() {
    local name=$1 logname=$2 dir=$3
    shift 3
    NINJA_STATUS='[%f/%t] ' run_step "$name" "$logname" \
        nice -n 5 ninja -C "$dir" -j "$HOTSNAP_JOBS" "$@"
}

# configure_once DIR LABEL NAME STAMP COMMAND...: run COMMAND to configure the build folder DIR,
# unless it was configured with the same command and STAMP already. A changed one starts from
# nothing.
configure_once() {
    local dir=$1 label=$2 name=$3 stamp
    shift 3
    stamp=$(printf '%q ' "$@")
    shift
    if [[ -e $dir/build.ninja && $(cat "$dir/hotsnap-configured" 2>/dev/null) == "$stamp" ]]; then
        return 0
    fi
    rm -rf -- "$dir"
    mkdir -p "$dir"
    run_step "configure $name" "configure-$label" "$@" ||
        die "$name could not be configured" "the whole log: build/logs/configure-$label.log"
    printf '%s\n' "$stamp" >"$dir/hotsnap-configured"
}

# configure_host DIR FLAGS [MESON-ARGUMENT...]: the libraries and their tests; other folders than
# build/host hold the same with a sanitizer. Line tables are enough for a backtrace, and to compile
# without the rest of the debug information takes a third less time.
configure_host() {
    local dir=$1 label=${1##*/} flags="-g1 $2"
    need_package_sets tools libs tests
    ensure_meson
    # Named compilers keep meson from choosing ccache with a cache outside of the checkout.
    configure_once "$dir" "$label" "the libraries ($label)" "" \
        env CC=gcc CXX=g++ /usr/bin/meson setup "-Dc_args=$flags" "-Dcpp_args=$flags" "${@:3}" \
        "$dir" "$HOTSNAP_ROOT"
}

# build_libraries: the archives that QEMU links, in build/host; tests take much longer to compile.
build_libraries() {
    configure_host "$HOTSNAP_BUILD/host" ""
    run_ninja "build the libraries" build-libraries "$HOTSNAP_BUILD/host" \
        snapshot/libhotsnap-snapshot.a coordinator/libhotsnap-coordinator.a \
        coordinator/base/libhotsnap-base.a ||
        die "the libraries do not compile" "the whole log: build/logs/build-libraries.log"
}

# build_tests DIR TARGET: in a folder that is configured.
build_tests() {
    local dir=$1 label=${1##*/}
    run_ninja "build the libraries ($label)" "build-$label" "$dir" "$2" ||
        die "the libraries do not compile" "the whole log: build/logs/build-$label.log"
}

# build_host TARGET: of build/host; "all" is the libraries and all tests.
build_host() {
    configure_host "$HOTSNAP_BUILD/host" ""
    build_tests "$HOTSNAP_BUILD/host" "$1"
}

# build_sanitized NAME SANITIZERS PARTS: build/host-NAME, with the tests of these PARTS and the code
# that they need, no more. A report ends the program, so that a test which provokes one fails.
build_sanitized() {
    local dir=$HOTSNAP_BUILD/host-$1
    configure_host "$dir" -fno-sanitize-recover=all "-Db_sanitize=$2" -Db_lundef=false \
        -Doptimization=1 "-Dtest_parts=$3"
    build_tests "$dir" meson-test-prereq
}

# A compiler for both builds of QEMU with a cache inside build/: the stock build and the fork's
# have most of their objects in common. The fork's has the include folders of our libraries in
# every command line; files included from them are hashed as part of the source anyway.
write_cached_compiler() {
    local wrapper=$HOTSNAP_BUILD/ccache/cc text
    text="#!/bin/sh
export CCACHE_DIR='$HOTSNAP_BUILD/ccache/cache' CCACHE_BASEDIR='$HOTSNAP_BUILD'
export CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=2G CCACHE_COMPILERCHECK=content
export CCACHE_IGNOREOPTIONS='-I$HOTSNAP_ROOT/* -I../host/* -pthread'
exec ccache gcc \"\$@\""
    mkdir -p "$HOTSNAP_BUILD/ccache"
    if [[ $(cat "$wrapper" 2>/dev/null) != "$text" ]]; then
        printf '%s\n' "$text" >"$wrapper"
        chmod +x "$wrapper"
    fi
}

# build_qemu_tree TOP LABEL NAME LIBRARIES CONFIGURE-ARGUMENT...: build TOP/qemu-src in TOP/qemu.
# LABEL names the logs; LIBRARIES is pkg-config's answer about ours: when that changes, QEMU must be
# configured anew. Sources are named by relative paths, so that the compiler's command lines are
# the same for every TOP, and the cache serves one from the other.
build_qemu_tree() {
    local dir=$1/qemu label=$2 name=$3 libraries=$4
    shift 4
    write_cached_compiler
    configure_once "$dir" "$label" "$name" "$QEMU_SOURCE_KIND $QEMU_SOURCE_PATH $libraries" \
        env -C "$dir" ../qemu-src/configure --cc="$HOTSNAP_BUILD/ccache/cc" \
        "${QEMU_CONFIGURE[@]}" "$@"
    link_firmware "$dir"
    run_ninja "build $name" "build-$label" "$dir" "${QEMU_PROGRAMS[@]}" ||
        die "$name does not compile" "the whole log: build/logs/build-$label.log"
}

# A QEMU that runs from its build folder looks for every path below its qemu-bundle/. A link that is
# there stays: one may start right now.
link_firmware() {
    local path
    for path in "${QEMU_FIRMWARE[@]}"; do
        mkdir -p "$1/qemu-bundle${path%/*}"
        [[ $(readlink "$1/qemu-bundle$path") == "$path" ]] || ln -sfn "$path" "$1/qemu-bundle$path"
    done
}

# The fork. It links the libraries' archives, which ninja watches by their paths.
build_qemu() {
    local libraries
    local -a hotsnap=()
    need_package_sets tools qemu firmware operator # the command comes with it
    ensure_meson
    choose_qemu_source "${QEMU_SOURCE_GIVEN-}"
    import_series "$HOTSNAP_BUILD/qemu-src" "$HOTSNAP_ROOT/qemu"
    # The option exists once the series adds it; then the fork must not be built without.
    ! grep -q "^option('hotsnap'" "$HOTSNAP_BUILD/qemu-src/meson_options.txt" ||
        hotsnap=(--enable-hotsnap)
    export PKG_CONFIG_PATH=$HOTSNAP_BUILD/host/meson-uninstalled
    libraries=$(pkg-config --cflags --libs hotsnap)
    build_qemu_tree "$HOTSNAP_BUILD" qemu "the fork of QEMU" "$libraries" "${hotsnap[@]}"
    unset PKG_CONFIG_PATH
}

build_qtests() {
    run_ninja "build QEMU's qtests" build-qtests "$HOTSNAP_BUILD/qemu" \
        "${QEMU_TESTS[@]/#/tests/qtest/}" || die "QEMU's qtests do not compile"
}

# Without the series; in a folder of its own, so that its paths are like those of the fork.
build_stock() {
    local top=$HOTSNAP_BUILD/stock
    need_package_sets tools qemu firmware
    ensure_meson
    choose_qemu_source "${QEMU_SOURCE_GIVEN-}"
    import_series "$top/qemu-src"
    build_qemu_tree "$top" qemu-stock "stock QEMU" ""
    ln -sfn stock/qemu "$HOTSNAP_BUILD/qemu-stock"
    ln -sfn stock/qemu-src "$HOTSNAP_BUILD/qemu-stock-src"
}

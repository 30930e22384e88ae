# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Where QEMU's source comes from: Debian's source package, or a tree or tarball that the user
# names. Source common.sh and apt-source.sh first.

QEMU_SERIES=10.0. # the versions this fork is for

# resolve_qemu_source [VERSION|DIR|TARBALL]: find the source without unpacking it. Without an
# argument: the newest 10.0.x that can be had. Sets QEMU_SOURCE_KIND (dsc, tarball, directory),
# QEMU_SOURCE_PATH, QEMU_SOURCE_NAME (for people) and QEMU_SOURCE_ID (changes when the content
# does). Status 1: no such version can be had (any more).
# shellcheck disable=SC2034 # its results are read by the scripts that source this file
resolve_qemu_source() {
    local what=${1:-$QEMU_SERIES}
    if [[ -d $what ]]; then
        [[ -x $what/configure && -e $what/qapi/qapi-schema.json ]] ||
            die "$what is not a QEMU source tree: it has no configure or no qapi/qapi-schema.json" \
                "name the top folder of the tree"
        QEMU_SOURCE_KIND=directory
        QEMU_SOURCE_PATH=$(cd -- "$what" && pwd -P)
    elif [[ -f $what ]]; then
        QEMU_SOURCE_KIND=tarball
        QEMU_SOURCE_PATH=$(realpath -- "$what")
    elif [[ $what == "$QEMU_SERIES"* && $what != */* ]]; then
        # Upstream's tarball alone is the last resort: it lacks Debian's patches.
        if apt_fetch_source qemu "$what" dsc; then
            QEMU_SOURCE_KIND=dsc
        elif apt_fetch_source qemu "$what" orig; then
            QEMU_SOURCE_KIND=tarball
        else
            return 1
        fi
        QEMU_SOURCE_PATH=$REPLY
    else
        die "--qemu-source $what: neither a folder, nor a file, nor a version $QEMU_SERIES*" \
            "name a QEMU source tree, a source tarball, or a version such as ${QEMU_SERIES}2"
    fi
    QEMU_SOURCE_NAME=$(basename -- "$QEMU_SOURCE_PATH")
    QEMU_SOURCE_ID="$QEMU_SOURCE_KIND $(fingerprint "$QEMU_SOURCE_PATH")"
}

# choose_qemu_source GIVEN: resolve the source that the user names now or named in an earlier run,
# else Debian's; "debian" forgets the earlier choice.
choose_qemu_source() {
    local given=$1 kept=$HOTSNAP_BUILD/qemu-source
    case $given in
    debian) rm -f -- "$kept" && given= ;;
    '') [[ ! -e $kept ]] || given=$(<"$kept") ;;
    *)
        [[ ! -e $given ]] || given=$(realpath -- "$given")
        resolve_qemu_source "$given" ||
            die "the mirror has no QEMU $given (any more)" "name another version, or a source tree"
        printf '%s\n' "$given" >"$kept"
        return 0
        ;;
    esac
    [[ -z $given ]] || log "QEMU's source: $given, as chosen before ('--qemu-source debian' undoes it)"
    resolve_qemu_source "$given" ||
        die "no QEMU ${given:-$QEMU_SERIES*} can be had from this machine's Debian mirror" \
            "name a source tree or tarball: --qemu-source DIR|TARBALL"
}

# The checksum of a file; for a folder, that of its files' names, sizes and times.
fingerprint() {
    if [[ -d $1 ]]; then
        find "$1" \( -path "$1/.git" -o -type d -path "$1/build*" \) -prune -o \
            -type f -printf '%P %s %T@\n' |
            sort | sha256sum | cut -d' ' -f1
    else
        sha256sum -- "$1" | cut -d' ' -f1
    fi
}

# unpack_qemu_source INTO: put the resolved source into the folder INTO, which must not exist.
unpack_qemu_source() {
    local into=$1
    case $QEMU_SOURCE_KIND in
    dsc)
        # Debian's keyring need not know the uploader: apt has verified the package already.
        dpkg-source --no-check --no-copy -x "$QEMU_SOURCE_PATH" "$into"
        rm -rf -- "$into/.pc"
        ;;
    tarball)
        mkdir -p -- "$into"
        tar -C "$into" --strip-components=1 --no-same-owner -xf "$QEMU_SOURCE_PATH"
        ;;
    directory)
        mkdir -p -- "$into"
        rsync -a --exclude=.git --exclude='/build*/' -- "$QEMU_SOURCE_PATH/" "$into/"
        ;;
    esac
    [[ -x $into/configure ]] || {
        log "$QEMU_SOURCE_PATH holds no QEMU source: there is no configure at its top"
        return 1
    }
    drop_missing_wheel "$into"
}

# Debian's repacked tarball lacks the wheel of pycotap, which only QEMU's functional tests use; a
# patch of Debian's drops the requirement. Without that patch the same has to be done here.
drop_missing_wheel() {
    compgen -G "$1/python/wheels/pycotap-*.whl" >/dev/null || [[ ! -e $1/pythondeps.toml ]] ||
        sed -i 's/^pycotap = /#&/' "$1/pythondeps.toml"
}

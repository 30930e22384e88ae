# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Downloads from suites of Debian that the machine itself does not use, through an apt
# configuration of our own under build/apt: the machine's lists, cache and sources are left alone.
# The mirror is the one that the machine's apt is configured with. All downloads are verified: the
# suite's signature by Debian's keyring, each file by the checksum in the suite's signed index.
#
# Versions vanish from a mirror, sometimes while an index still names them; so callers ask for a
# prefix of versions, and "not to be had" is an answer (status 1), not an accident.
#
# Two programs may ask at the same time: one of them waits (apt_alone).
#
# Source common.sh first. Functions leave their result in $REPLY: a command substitution would run
# their steps in a subshell, out of reach of the cleanup on an interrupt.

APT_DIR=$HOTSNAP_BUILD/apt
APT_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
APT_OPTIONS=(
    -o "Dir::Etc::sourcelist=$APT_DIR/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::Lists=$APT_DIR/lists" -o "Dir::Cache=$APT_DIR/cache"
    # apt's own unprivileged user may be unable to enter the checkout.
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3 -q=2
)

# Suites asked for, as "archive:suite:type[+type]". Updates and proposed-updates may hold a newer
# version than the last point release; not every mirror carries all of them.
APT_SUITES=(
    main:trixie:deb-src
    security:trixie-security:deb-src
    main:trixie-updates:deb-src
    main:trixie-proposed-updates:deb-src
    main:bookworm-backports:deb-src+deb
    security:bookworm-security:deb # Linux 6.12 for Debian 12, often newer than backports'
)

# Print "main URI" and "security URI" as the machine's apt configuration has them.
machine_mirrors() {
    # shellcheck disable=SC2016 # apt's own fields, not the shell's
    apt-get indextargets --format '$(CREATED_BY) $(RELEASE) $(COMPONENT) $(SITE)' |
        awk '$1 == "Packages" && $3 == "main" && $2 !~ /backports/ {
                 kind = $2 ~ /security/ ? "security" : "main"
                 if (!seen[kind]++) print kind, $4
             }'
}

write_sources_list() {
    local mirrors entry archive suite types type uri
    mirrors=$(machine_mirrors)
    # apt names only suites that it has lists of; a new machine may have none yet.
    if [[ -z $mirrors ]] && ((EUID == 0)); then
        apt-get update
        mirrors=$(machine_mirrors)
    fi
    for entry in "$@"; do
        IFS=: read -r archive suite types <<<"$entry"
        uri=$(awk -v kind="$archive" '$1 == kind { print $2; exit }' <<<"$mirrors")
        [[ -n $uri ]] || continue
        for type in ${types//+/ }; do
            printf '%s [signed-by=%s] %s %s main\n' "$type" "$APT_KEYRING" "$uri" "$suite"
        done
    done >"$APT_DIR/sources.list"
    [[ -s $APT_DIR/sources.list ]] ||
        die "apt on this machine has no Debian archive configured" \
            "add one to /etc/apt/sources.list.d, so that 'apt-get update' works"
}

# apt_alone COMMAND...: no other program uses our apt meanwhile.
apt_alone() {
    local apt_lock status=0
    if [[ -n ${apt_held-} ]]; then
        "$@"
        return
    fi
    local apt_held=1
    mkdir -p "$APT_DIR"
    exec {apt_lock}>>"$APT_DIR/.lock"
    flock "$apt_lock"
    "$@" || status=$?
    exec {apt_lock}>&-
    return "$status"
}

# Update our own lists; suites that the mirror does not carry are dropped.
apt_update() {
    local entry suite
    local -a carried=()
    mkdir -p "$APT_DIR"/{lists,cache/archives}/partial "$APT_DIR/source" "$APT_DIR/packages"
    write_sources_list "${APT_SUITES[@]}"
    apt-get "${APT_OPTIONS[@]}" update && return 0
    for entry in "${APT_SUITES[@]}"; do
        suite=${entry#*:} suite=${suite%:*}
        ! compgen -G "$APT_DIR/lists/*_dists_${suite}_InRelease" >/dev/null || carried+=("$entry")
    done
    ((${#carried[@]})) || return 1
    write_sources_list "${carried[@]}"
    apt-get "${APT_OPTIONS[@]}" update
}

# The lists are used for a day before they are fetched again.
apt_prepare() { apt_alone apt_prepare_alone; }

apt_prepare_alone() {
    [[ -z $(find "$APT_DIR/lists.stamp" -mmin -1440 2>/dev/null) ]] || return 0
    run_step "read the package indexes of Debian 13 and of backports" apt-indexes apt_update ||
        die "the package indexes could not be read" "is the machine's apt usable? try 'apt-get update'"
    touch "$APT_DIR/lists.stamp"
}

# apt_source_versions PACKAGE PREFIX: versions in the indexes whose upstream version starts with
# PREFIX (10.0. or 10.0.2), newest first, one a line.
apt_source_versions() {
    local package=$1 prefix=$2 version upstream listed
    local -a found=()
    apt_prepare
    REPLY=
    listed=$(apt-cache "${APT_OPTIONS[@]}" showsrc "$package" | sed -n 's/^Version: //p' | sort -u)
    for version in $listed; do
        upstream=${version#*:}
        # 10.0.2 must not match 10.0.20
        [[ $upstream != "$prefix"* || ${upstream#"$prefix"} == [0-9]* && $prefix != *. ]] ||
            found+=("$version")
    done
    ((${#found[@]})) || return 1
    REPLY=$(printf '%s\n' "${found[@]}" | newest_first)
}

# Sort Debian versions by Debian's rules.
newest_first() {
    local line other at
    local -a sorted=()
    while read -r line; do
        at=0
        for other in "${sorted[@]}"; do
            dpkg --compare-versions "$line" lt "$other" || break
            at=$((at + 1))
        done
        sorted=("${sorted[@]:0:at}" "$line" "${sorted[@]:at}")
    done
    printf '%s\n' "${sorted[@]}"
}

# apt_source_files PACKAGE VERSION: "URI NAME SHA256" of each file of a source package. Asked
# from an empty folder: apt says nothing of files it finds already there.
apt_source_files() {
    local empty
    empty=$(mktemp -d)
    (cd "$empty" && apt-get "${APT_OPTIONS[@]}" source --download-only --print-uris "$1=$2") |
        sed -nE "s/^'([^']+)' ([^ ]+) [0-9]+ SHA256:([0-9a-f]{64}).*/\1 \2 \3/p"
    rmdir "$empty"
}

# Download URI to FILE unless it is there, verified; status 1 when the mirror has it no more.
apt_download() {
    local uri=$1 file=$2 sum=$3
    if [[ -e $file ]] && sha256sum --status -c <<<"$sum  $file"; then
        return 0
    fi
    rm -f -- "$file.part"
    /usr/lib/apt/apt-helper "${APT_OPTIONS[@]}" download-file "$uri" "$file.part" "SHA256:$sum" &&
        sha256sum --status -c <<<"$sum  $file.part" && mv -- "$file.part" "$file"
}

# apt_fetch_source PACKAGE PREFIX [dsc|orig]: download the newest source package that can be had
# whole (dsc), or the newest upstream tarball alone (orig). Result: the path of the .dsc, or of the
# tarball. An earlier download is used again without asking the mirror.
apt_fetch_source() {
    apt_alone apt_fetch_source_alone "$@"
}

apt_fetch_source_alone() {
    local package=$1 prefix=$2 what=${3:-dsc} version
    local kept=$APT_DIR/source/$package-$prefix-$what.sha256
    if [[ -e $kept ]] && (cd "$APT_DIR/source" && sha256sum --status -c "$kept"); then
        source_main_file "$kept"
        return 0
    fi
    apt_source_versions "$package" "$prefix" || return 1
    for version in $REPLY; do
        if HOTSNAP_FAILURE_LINES=0 run_step "download $package $version ($what)" "download-$package" \
            download_source "$package" "$version" "$what" "$kept"; then
            source_main_file "$kept"
            return 0
        fi
        log "$package $version is in the index, but the mirror has no longer all of it ($what)"
    done
    return 1
}

download_source() {
    local package=$1 version=$2 what=$3 kept=$4 uri name sum
    : >"$kept.new"
    while read -r uri name sum; do
        [[ $what == dsc || $name == *.orig.tar.* && $name != *.asc ]] || continue
        apt_download "$uri" "$APT_DIR/source/$name" "$sum" || return 1
        printf '%s  %s\n' "$sum" "$name" >>"$kept.new"
    done < <(apt_source_files "$package" "$version")
    [[ -s $kept.new ]] && mv "$kept.new" "$kept"
}

source_main_file() {
    local name
    name=$(awk '$2 ~ /\.dsc$/ { print $2; found = 1; exit } { last = $2 }
                END { if (!found) print last }' "$1")
    REPLY=$APT_DIR/source/$name
}

# apt_fetch_package PACKAGE SUITE: download a binary package of one suite. Result: its path. (As
# above, apt is asked from an empty folder.)
apt_fetch_package() {
    apt_alone apt_fetch_package_alone "$@"
}

apt_fetch_package_alone() {
    local package=$1 suite=$2 uri name sum empty
    apt_prepare
    empty=$(mktemp -d)
    read -r uri name sum < <(cd "$empty" &&
        apt-get "${APT_OPTIONS[@]}" download --print-uris "$package/$suite" |
        sed -nE "s/^'([^']+)' ([^ ]+) [0-9]+ SHA256:([0-9a-f]{64}).*/\1 \2 \3/p")
    rmdir "$empty"
    [[ -n $uri ]] || return 1
    # apt writes the epoch's colon as %3a, which apt-get install does not take as a file name
    name=${name//%3a/_}
    run_step "download $package of $suite" "download-$package" \
        apt_download "$uri" "$APT_DIR/packages/$name" "$sum" || return 1
    REPLY=$APT_DIR/packages/$name
}

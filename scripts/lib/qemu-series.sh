# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The fork as commits: QEMU's source as one commit, the overlay as the next, then one commit for
# each patch of the series. Source common.sh and qemu-source.sh first.
#
# Commits are made in git's object store and index alone; no file of the tree is touched before
# all of them are there. Then one `git checkout` moves the tree to the last commit: it writes only
# the files that differ, so that the build sees only those as changed, and a series that does not
# apply leaves the tree as it was. Names and dates are fixed: equal content gives equal commits.
#
# Refs: refs/hotsnap/base (the source), refs/hotsnap/overlay, refs/hotsnap/imported (the tip as
# it was imported; later commits on HEAD are the developer's).

# series_git TREE ARGUMENT...: git in TREE, deaf to the user's own configuration
series_git() {
    local tree=$1
    shift
    env -u GIT_DIR -u GIT_WORK_TREE GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 \
        GIT_COMMITTER_NAME=hotsnap GIT_COMMITTER_EMAIL=hotsnap@localhost \
        GIT_COMMITTER_DATE='2025-01-01T00:00:00Z' \
        git -c safe.directory='*' -c gc.auto=0 -c core.autocrlf=false -c core.hooksPath=/dev/null \
        -c core.fsync=none -c core.looseCompression=0 \
        -C "$tree" "$@"
}

# commit_index TREE INDEX MESSAGE-FILE [PARENT]: commit the content of INDEX; prints the commit.
# The author comes from GIT_AUTHOR_*, and is the committer where that is not set.
commit_index() {
    local tree=$1 index=$2 message=$3 parent=${4-} content
    content=$(GIT_INDEX_FILE=$index series_git "$tree" write-tree)
    GIT_AUTHOR_NAME=${GIT_AUTHOR_NAME:-hotsnap} GIT_AUTHOR_EMAIL=${GIT_AUTHOR_EMAIL:-hotsnap@localhost} \
        GIT_AUTHOR_DATE=${GIT_AUTHOR_DATE:-2025-01-01T00:00:00Z} \
        series_git "$tree" commit-tree "$content" ${parent:+-p "$parent"} -F "$message"
}

# commit_base TREE: the resolved source as refs/hotsnap/base, in the repository TREE, which is
# made if needed. The source is unpacked beside it and not kept.
commit_base() {
    local tree=$1 unpacked=$1.unpacked index
    if [[ ! -e $tree/.git ]]; then
        mkdir -p "$tree"
        series_git "$tree" init -q --template= -b hotsnap
    fi
    index=$tree/.git/hotsnap-index
    rm -rf -- "$unpacked" "$index"
    on_exit "rm -rf -- '$unpacked'"
    run_step "unpack $QEMU_SOURCE_NAME" "unpack-$QEMU_SOURCE_NAME" unpack_qemu_source "$unpacked" ||
        die "$QEMU_SOURCE_PATH could not be unpacked"
    GIT_INDEX_FILE=$index series_git "$tree" --work-tree="$unpacked" add -A -f .
    rm -rf -- "$unpacked"
    printf 'base: %s\n' "$QEMU_SOURCE_NAME" >"$index.message"
    series_git "$tree" update-ref refs/hotsnap/base "$(commit_index "$tree" "$index" "$index.message")"
    rm -f -- "$index" "$index.message"
}

# commit_overlay TREE INDEX OVERLAY: prints the commit on top of refs/hotsnap/base.
# A file of QEMU's own in the overlay would hide later changes of QEMU to it, so it is refused.
commit_overlay() {
    local tree=$1 index=$2 overlay=$3 file
    GIT_INDEX_FILE=$index series_git "$tree" read-tree refs/hotsnap/base
    if [[ -d $overlay ]]; then
        while IFS= read -r -d '' file; do
            ! series_git "$tree" cat-file -e "refs/hotsnap/base:$file" 2>/dev/null ||
                die "qemu/overlay/$file exists in QEMU's source too" \
                    "the overlay is for new files: change this one with a patch in qemu/patches"
        done < <(cd "$overlay" && find . -type f -printf '%P\0')
        GIT_INDEX_FILE=$index series_git "$tree" --work-tree="$overlay" add --ignore-removal -f .
    fi
    printf 'overlay: the new files of the fork\n' >"$index.message"
    commit_index "$tree" "$index" "$index.message" "$(series_git "$tree" rev-parse refs/hotsnap/base)"
}

# series_names PATCHES: the names in PATCHES/series, in order; none when there is no series.
series_names() {
    [[ ! -e $1/series ]] || sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "$1/series"
}

# commit_patch TREE INDEX PATCH PARENT: apply PATCH to INDEX and print the new commit. All of a
# hunk's context must match (no fuzz); only line numbers may differ. git's own messages, offsets
# included, go to standard error.
commit_patch() {
    local tree=$1 index=$2 patch=$3 parent=$4 header
    local -x GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE
    header=$(series_git "$tree" mailinfo -b --encoding=UTF-8 "$index.body" "$index.diff" <"$patch")
    GIT_AUTHOR_NAME=$(sed -n 's/^Author: //p' <<<"$header")
    GIT_AUTHOR_EMAIL=$(sed -n 's/^Email: //p' <<<"$header")
    GIT_AUTHOR_DATE=$(sed -n 's/^Date: //p' <<<"$header")
    {
        sed -n 's/^Subject: //p' <<<"$header" | grep . || basename -- "$patch"
        printf '\n'
        cat -- "$index.body"
    } >"$index.message"
    GIT_INDEX_FILE=$index series_git "$tree" apply --cached --verbose --whitespace=nowarn \
        "$index.diff" || return 1
    commit_index "$tree" "$index" "$index.message" "$parent"
}

# commit_series TREE FORK: overlay and patches of the folder FORK (qemu/) on top of
# refs/hotsnap/base. Result in $REPLY: the last commit; nothing is checked out.
commit_series() {
    local tree=$1 fork=$2 index=$1/.git/hotsnap-index name tip
    rm -f -- "$index"
    tip=$(commit_overlay "$tree" "$index" "$fork/overlay")
    series_git "$tree" update-ref refs/hotsnap/overlay "$tip"
    for name in $(series_names "$fork/patches"); do
        [[ -e $fork/patches/$name ]] ||
            die "qemu/patches/series names $name, which is not there" "correct the series"
        tip=$(commit_patch "$tree" "$index" "$fork/patches/$name" "$tip" 2>"$index.errors") || {
            sed 's/^/  | /' "$index.errors" >&2
            die "$name does not apply to $QEMU_SOURCE_NAME" \
                "'scripts/qemu-rebase' reports on every patch; correct this one, then run this again"
        }
    done
    rm -f -- "$index" "$index".*
    REPLY=$tip
}

# series_stamp FORK: changes when a file of the overlay or the series does
series_stamp() {
    local fork=$1
    local -a parts=()
    [[ ! -d $fork/overlay ]] || parts+=(overlay)
    [[ ! -d $fork/patches ]] || parts+=(patches)
    ((${#parts[@]})) || { echo none; return; }
    (cd "$fork" && find "${parts[@]}" -type f -printf '%m ' -exec sha256sum {} \;) |
        sort -k3 | sha256sum | cut -d' ' -f1
}

# import_series TREE [FORK]: bring TREE to the resolved source with FORK's series (without FORK:
# the bare source); only changes are made. Refuses to lose work of the developer in TREE,
# unless QEMU_IMPORT_FORCE is set.
import_series() {
    local tree=$1 fork=${2-} stamp tip
    stamp="1 $QEMU_SOURCE_ID ${fork:+$(series_stamp "$fork")}"
    if [[ -e $tree/.git/hotsnap-stamp && $(<"$tree/.git/hotsnap-stamp") == "$stamp" ]]; then
        return 0
    fi
    if [[ $(cat "$tree/.git/hotsnap-source" 2>/dev/null) != "$QEMU_SOURCE_ID" ]]; then
        commit_base "$tree"
        printf '%s\n' "$QEMU_SOURCE_ID" >"$tree/.git/hotsnap-source"
    fi
    if [[ -n $fork ]]; then
        commit_series "$tree" "$fork"
    else
        REPLY=$(series_git "$tree" rev-parse refs/hotsnap/base)
    fi
    tip=$REPLY
    move_tree "$tree" "$tip"
    series_git "$tree" update-ref refs/hotsnap/imported "$tip"
    printf '%s\n' "$stamp" >"$tree/.git/hotsnap-stamp"
    log "${tree#"$HOTSNAP_ROOT"/}: $QEMU_SOURCE_NAME" \
        "${fork:+with $(series_git "$tree" rev-list --count refs/hotsnap/overlay.."$tip") patches}"
}

# move_tree TREE TIP: make the files those of the commit TIP. The developer's uncommitted changes
# stay where TIP does not change the same file; a move that would lose any is refused, unless
# QEMU_IMPORT_FORCE is set.
move_tree() {
    local tree=$1 tip=$2 head imported file said
    if [[ -z ${QEMU_IMPORT_FORCE-} ]] &&
        imported=$(series_git "$tree" rev-parse -q --verify refs/hotsnap/imported); then
        head=$(series_git "$tree" rev-parse HEAD)
        [[ $head == "$imported" ]] || series_git "$tree" diff --quiet "$head" "$tip" ||
            die "$tree has commits that were not exported" \
                "run scripts/qemu-export first, or drop them with scripts/qemu-import --force"
        # A file that was edited here and exported since is the same in TIP: no conflict.
        while IFS= read -r -d '' file; do
            ! series_git "$tree" diff --quiet "$tip" -- "$file" ||
                series_git "$tree" add -f -- "$file"
        done < <(series_git "$tree" diff -z --name-only HEAD)
        said=$(series_git "$tree" checkout -q -B hotsnap "$tip" 2>&1) || {
            printf '%s\n' "$said" >&2
            die "$tree has changes that are not committed" \
                "commit them and run scripts/qemu-export, or drop them: scripts/qemu-import --force"
        }
    else
        series_git "$tree" reset -q --hard "$tip"
    fi
}

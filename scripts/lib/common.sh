# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Every bash script of this project starts with these lines:
#
#     # shellcheck source=lib/common.sh
#     source "$(dirname -- "${BASH_SOURCE[0]}")/lib/common.sh"
#
# Strict mode, the root of the checkout ($HOTSNAP_ROOT, $HOTSNAP_BUILD), messages, cleanup, long
# steps with progress, and the build lock. Messages go to standard error, so that standard output
# is free for a script's result.

set -Eeuo pipefail
shopt -s inherit_errexit

HOTSNAP_ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
HOTSNAP_BUILD=$HOTSNAP_ROOT/build
HOTSNAP_LOGS=$HOTSNAP_BUILD/logs
HOTSNAP_JOBS=${HOTSNAP_JOBS:-$(nproc)}
export HOTSNAP_ROOT HOTSNAP_BUILD HOTSNAP_LOGS HOTSNAP_JOBS

# Builds and checks use Debian's tools only: an interpreter that a version manager put first in
# PATH does not see Debian's Python packages.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME

# --- messages ----------------------------------------------------------------------------------

log() { printf '%s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die MESSAGE [WHAT TO DO]
die() {
    printf '%s: error: %s\n' "${0##*/}" "$1" >&2
    [[ $# -lt 2 ]] || printf '  %s\n' "$2" >&2
    exit 1
}

# The comment block under the SPDX line of the running script (from its 4th line) is its --help.
print_usage() {
    awk 'NR <= 3 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"
}

elapsed_text() {
    local seconds=$1
    if ((seconds >= 60)); then
        printf '%dm%02ds' $((seconds / 60)) $((seconds % 60))
    else
        printf '%ds' "$seconds"
    fi
}

# --- cleanup -----------------------------------------------------------------------------------

cleanup_commands=()
step_pid=
step_must_finish=

# on_exit COMMAND: run it at the script's end, for whatever reason; the last one added runs first.
on_exit() { cleanup_commands=("$1" "${cleanup_commands[@]}"); }

run_cleanup() {
    local status=$? command
    trap '' INT TERM
    trap - EXIT
    end_step
    for command in "${cleanup_commands[@]}"; do
        eval "$command" || true
    done
    exit "$status"
}

# End the running step with all its processes. dpkg must not be cut off in the middle: a
# step that says so is waited for.
end_step() {
    [[ -n $step_pid ]] || return 0
    if [[ -n $step_must_finish ]]; then
        log "letting the package installation finish first"
    else
        kill -TERM -- "-$step_pid" 2>/dev/null || true
    fi
    wait "$step_pid" 2>/dev/null || true
    step_pid=
}

trap run_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# --- long steps --------------------------------------------------------------------------------

# run_step NAME LOG COMMAND...: run the command with its output in build/logs/LOG.log and show
# that it is alive: a spinner on a terminal, otherwise a line every ten seconds, both with the
# last [done/total] counter found in the log (ninja prints one). On failure the log's last lines
# ($HOTSNAP_FAILURE_LINES of them) are shown and the command's status is returned.
run_step() {
    local name=$1 logfile=$HOTSNAP_LOGS/$2.log start=$SECONDS status=0
    shift 2
    mkdir -p "$HOTSNAP_LOGS"
    [[ -t 2 ]] || log "$name ..."
    # Job control gives the step a process group of its own, so that an interrupt can end all of
    # it. The lock's descriptor is closed, so that nothing left behind could hold the lock.
    set -m
    if [[ -n ${lock_fd-} ]]; then
        "$@" </dev/null >"$logfile" 2>&1 {lock_fd}>&- &
    else
        "$@" </dev/null >"$logfile" 2>&1 &
    fi
    step_pid=$!
    set +m
    show_progress "$name" "$logfile" "$start"
    wait "$step_pid" || status=$?
    step_pid=
    if ((status == 0)); then
        log "$name: done in $(elapsed_text $((SECONDS - start)))"
    else
        log "$name: FAILED (status $status) after $(elapsed_text $((SECONDS - start)));" \
            "see ${logfile#"$HOTSNAP_ROOT"/}"
        tail -n "${HOTSNAP_FAILURE_LINES:-40}" -- "$logfile" | sed 's/^/  | /' >&2
    fi
    return "$status"
}

show_progress() {
    local name=$1 logfile=$2 start=$3 next_line=10 turn=0 marks="|/-\\" tick seconds
    exec {tick}<> <(:)
    while kill -0 "$step_pid" 2>/dev/null; do
        # A read that never succeeds: a pause without a process of its own.
        read -rt 0.2 -u "$tick" || true
        seconds=$((SECONDS - start))
        if [[ -t 2 ]]; then
            turn=$(((turn + 1) % 4))
            printf '\r%s %s %s %s\e[K' "${marks:turn:1}" "$name" "$(counter_of "$logfile")" \
                "$(elapsed_text "$seconds")" >&2
        elif ((seconds >= next_line)); then
            next_line=$((seconds + 10))
            log "$name ... $(counter_of "$logfile") $(elapsed_text "$seconds")"
        fi
    done
    exec {tick}<&-
    [[ ! -t 2 ]] || printf '\r\e[K' >&2
}

counter_of() {
    tail -c 8192 -- "$1" | grep -aoE '\[[0-9]+/[0-9]+\]' | tail -n 1 || true
}

# --- packages ----------------------------------------------------------------------------------

# missing_packages NAME...: those of the Debian packages that are not installed, one a line.
missing_packages() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            printf '%s\n' "$package"
    done
}

# need_packages NAME...: install those that are missing; nothing is upgraded or removed.
need_packages() {
    local -a missing
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    install_packages "${missing[@]}"
}

# install_packages NAME|./FILE.deb...
install_packages() {
    local -a command=(env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=900
        install --no-install-recommends --no-remove)
    ((EUID == 0)) || die "these packages are missing: $*" \
        "run 'sudo apt-get install --no-install-recommends $*', or this script as root"
    step_must_finish=1
    # A new machine has no package lists yet; an old one may list packages that its mirror no longer
    # has, which only shows when they are asked for.
    apt-cache show "$@" >/dev/null 2>&1 || update_package_lists
    if ! HOTSNAP_FAILURE_LINES=0 run_step "install ${#} package(s)" apt-install "${command[@]}" "$@"; then
        update_package_lists
        run_step "install ${#} package(s)" apt-install "${command[@]}" "$@" ||
            die "apt-get could not install: $*" "see the log above; repair apt, then run this again"
    fi
    step_must_finish=
}

update_package_lists() {
    run_step "update the package lists" apt-update \
        env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=900 update || true
}

# --- the build lock ----------------------------------------------------------------------------

# take_build_lock: one script at a time writes to build/. A script that is called by the holder
# of the lock sees HOTSNAP_LOCK_HELD and goes on.
take_build_lock() {
    [[ -z ${HOTSNAP_LOCK_HELD-} ]] || return 0
    mkdir -p "$HOTSNAP_BUILD"
    exec {lock_fd}>>"$HOTSNAP_BUILD/.lock"
    if ! flock -n "$lock_fd"; then
        log "another build or check is running in this checkout: waiting for it"
        flock "$lock_fd"
    fi
    export HOTSNAP_LOCK_HELD=1
}

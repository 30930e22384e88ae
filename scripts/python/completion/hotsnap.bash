# SPDX-License-Identifier: GPL-2.0-or-later
#
# Completion of hotsnap for bash; in a checkout:  source scripts/python/completion/hotsnap.bash
# shellcheck shell=bash

# Asks the command itself, so that tags and members are those of the cluster at hand.
_hotsnap_names() { # FILTER COMMAND...: the values of a JSON key, one a line
    local key=$1
    shift
    "${COMP_WORDS[0]}" "${file[@]}" "$@" --json 2>/dev/null |
        sed -n "s/^ *\"$key\": \"\(.*\)\",\$/\1/p"
}

_hotsnap() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local command='' word words='' i file=() recovery=()
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        -f | --file) file=(--file "${COMP_WORDS[++i]}") ;;
        --as) recovery=(--as "${COMP_WORDS[++i]}") ;;
        -*) ;;
        *) command=${command:-$word} ;;
        esac
    done

    case $previous in
    --as)
        mapfile -t COMPREPLY < <(compgen -W "$(_hotsnap_names name recovery ls)" -- "$current")
        return
        ;;
    esac
    [[ $command == restore ]] || file+=("${recovery[@]}") # there it is one to be made
    case $previous in
    -f | --file | --svg | --nbd | --archive)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --initiator)
        mapfile -t COMPREPLY < <(compgen -W "$(_hotsnap_names member ps)" -- "$current")
        return
        ;;
    --engine)
        mapfile -t COMPREPLY < <(compgen -W 'auto kvm uffd' -- "$current")
        return
        ;;
    --mode)
        mapfile -t COMPREPLY < <(compgen -W 'hot precopy stop-and-copy' -- "$current")
        return
        ;;
    --cut)
        mapfile -t COMPREPLY < <(compgen -W 'causal barrier' -- "$current")
        return
        ;;
    --memory)
        mapfile -t COMPREPLY < <(compgen -W 'lazy full' -- "$current")
        return
        ;;
    --format)
        mapfile -t COMPREPLY < <(compgen -W 'qcow2 raw' -- "$current")
        return
        ;;
    --group)
        mapfile -t COMPREPLY < <(compgen -W "$(_hotsnap_names name group ls)" -- "$current")
        return
        ;;
    --bandwidth | --timeout | --hold-timeout | --within | --keep | --keep-hourly | --keep-daily | --prefix | \
        --max-failures | --select | --quiesce-timeout) return ;;
    esac

    case $command in
    '') words='up ps snapshot group every ship ls show verify restore export import rm recovery down'
        words+=' --file --as --version --help' ;;
    up) words='--fresh' ;;
    snapshot)
        words='--initiator --group --select --cut --hold-timeout --note --bandwidth --mode --engine --within'
        words+=' --strict --timeout --quiesce --quiesce-timeout'
        ;;
    every)
        words='--keep --keep-hourly --keep-daily --prefix --max-failures --status'
        words+=' --initiator --group --select --cut --hold-timeout --bandwidth --mode --engine --within'
        words+=' --strict --timeout --quiesce --quiesce-timeout'
        ;;
    ship) words='--group --select --keep --follow --new --list --verify --take' ;;
    show) words='--svg' ;;
    restore) words='--replace --force-stop --memory --bandwidth --window --no-verify --timeout' ;;
    export) words='--format --nbd --archive --no-images --no-verify' ;;
    import) words='--host-images --no-verify' ;;
    down) words='--force' ;;
    esac
    if [[ $command ]]; then
        words+=' --json --file --as --help'
        case $command in
        ship)
            if [[ $current != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -d -- "$current")
                return
            fi
            ;;
        show | verify | restore | rm)
            [[ $current == -* ]] || words=$(_hotsnap_names tag ls)
            ;;
        export)
            if [[ $current != -* && $previous == export ]]; then
                words=$(_hotsnap_names tag ls)
            elif [[ $current != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -d -- "$current")
                return
            fi
            ;;
        import)
            if [[ $current != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -f -- "$current")
                return
            fi
            ;;
        recovery)
            [[ $current == -* ]] || words="ls rm $(_hotsnap_names name recovery ls)"
            ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _hotsnap hotsnap scripts/hotsnap ./scripts/hotsnap

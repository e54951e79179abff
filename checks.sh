# shellcheck shell=bash
# Sourced by the scripts before they do anything: a wrong setting is one line on stderr and exit code 2.

refuse() { # refuse WORDS...
    echo "error: $*" >&2
    exit 2
}

_found() { printf 'found %s=%q' "$1" "${!1}"; }

require_whole() { # require_whole LEAST NAME...: each variable holds one whole number of at most ten digits
    local least=$1 name
    for name in "${@:2}"; do
        if ! [[ ${!name} =~ ^(0|[1-9][0-9]{0,9})$ ]] || ((${!name} < least)); then
            refuse "$(_found "$name"), expected a whole number from $least"
        fi
    done
}

require_number() { # require_number NAME...: each variable holds one number of at least 0, such as 100, 0.06 or 3e-4
    local name
    for name in "$@"; do
        [[ ${!name} =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$ ]] || refuse "$(_found "$name"), expected a number of at least 0"
    done
}

require_list() { # require_list CHECK NAME: every word in the variable passes CHECK, require_number or "require_whole LEAST"
    local words word
    read -ra words <<<"${!2}"
    [[ ${#words[@]} -gt 0 ]] || refuse "$(_found "$2"), expected at least one value"
    for word in "${words[@]}"; do
        (declare "$2=$word" && $1 "$2") || exit 2
    done
}

require_name() { # require_name NAME...: each variable names something, and no flag
    local name
    for name in "$@"; do
        [[ -n ${!name} ]] || refuse "$(_found "$name"), expected a name: unset it to get the default"
        [[ ${!name} != -* ]] || refuse "$(_found "$name"), which would be read as a flag: write ./${!name} for a file of that name"
    done
}

count_cores() { # prints how many cores this shell may use, not counting the second threads of a core
    local cores allowed
    cores=$(lscpu -p=core,socket 2>/dev/null | grep -v '^#' | sort -u | wc -l)
    allowed=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    echo $((cores > 0 && cores < allowed ? cores : allowed))
}

refuse_empty() { # refuse_empty NAME...: a variable that is set, but to nothing, was meant to hold something
    local name
    for name in "$@"; do
        [[ -z ${!name+set} ]] || require_name "$name"
    done
}

require_one_of() { # require_one_of NAME VALUE...
    local value
    for value in "${@:2}"; do
        [[ ${!1} != "$value" ]] || return 0
    done
    refuse "$(_found "$1"), expected $(printf '%s' "$2"; printf ' or %s' "${@:3}")"
}

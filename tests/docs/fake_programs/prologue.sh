# Comes before the blocks of a page. `run` goes on beside the page instead of holding it up, and is drained at its end.
set -euo pipefail
daemon=

flowstate-daemon() {
    if [[ $1 != run && ${3-} != run ]] || [[ $1 != run && $1 != --config ]]; then
        command flowstate-daemon "$@"
        return
    fi
    command flowstate-daemon "$@" >>"$HANDBOOK/daemon.log" 2>&1 </dev/null &
    daemon=$!
    for _ in {1..75}; do
        if command flowstate-daemon "${@:1:$#-1}" health --ready >/dev/null 2>&1; then return; fi
        kill -0 "$daemon" || break
        sleep 0.2
    done
    echo "the daemon did not become ready"
    return 1
}

farewell() {
    local code=$?
    if [[ $daemon ]]; then
        kill -TERM "$daemon"
        wait "$daemon" || code=$?
    fi
    exit "$code"
}
trap farewell EXIT

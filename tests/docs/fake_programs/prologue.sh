# Runs before the blocks of a page: starts `run` in the background and drains it at the end of the page.
set -euo pipefail
daemon=

flowstate-daemon() {
    if [[ $1 != run && ${3-} != run ]] || [[ $1 != run && $1 != --config ]]; then
        command flowstate-daemon "$@"
        return
    fi
    command flowstate-daemon "$@" >>"$DOCS_FOLDER/daemon.log" 2>&1 </dev/null &
    daemon=$!
    for _ in {1..75}; do
        if command flowstate-daemon "${@:1:$#-1}" health --ready >/dev/null 2>&1; then return; fi
        kill -0 "$daemon" || break
        sleep 0.2
    done
    echo "the daemon did not become ready"
    return 1
}

stop_daemon() {
    local code=$?
    if [[ $daemon ]]; then
        kill -TERM "$daemon"
        wait "$daemon" || code=$?
    fi
    exit "$code"
}
trap stop_daemon EXIT

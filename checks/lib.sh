# shellcheck shell=bash
# What the checks share: a temporary folder, certificates, servers, and saying what was expected.
#
# A check is a function that `check NAME FUNCTION` runs in a subshell under `set -e`; what it starts
# by `start_server` or notes by `remember` ends with it. Waiting is polling for an event with a bound.

set -euo pipefail

checks=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$checks")
LEGATUS=$(realpath -m "${LEGATUS:-$repository/target/release/legatus}")
export LEGATUS
# 1: the counts of the issue, which take long.
# shellcheck disable=SC2034  # for the scripts
full=${CHECKS_FULL:-0}
# shellcheck disable=SC2034
if [[ ${1:-} == --full ]]; then full=1; fi

[[ -x $LEGATUS ]] || { echo "FAIL no program at $LEGATUS (cargo build --release, or set LEGATUS)"; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/legatus-checks.XXXXXX")
# Others than root run calls too; they may pass, but not look.
chmod 711 "$work"
out=$work/stdout
err=$work/stderr
status=0
ran=()
failures=0
pids=()
mounts=()
namespaces=()
servers=0

# Nothing of the user's may decide how a check ends.
unset LEGATUS_CONFIG LEGATUS_LOG NOTIFY_SOCKET LISTEN_FDS LISTEN_PID
export XDG_CONFIG_HOME=$work/config LC_ALL=C.UTF-8 NO_COLOR=1
pki=$work/pki
export LEGATUS_CERT=$pki/alice.crt LEGATUS_KEY=$pki/alice.key LEGATUS_CA=$pki/ca.crt

if ((EUID == 0)); then run_as=(--run-as root); else run_as=(); fi

# --- running checks ---------------------------------------------------------------------------

# check NAME COMMAND...: runs it; says `ok NAME`, with the time if it took long, or `FAIL NAME` with
# everything that it said.
check() {
    local name=$1 result=0 begun=$SECONDS took=
    shift
    if [[ -n ${CHECKS_ONLY:-} && ! $name =~ $CHECKS_ONLY ]]; then return; fi
    set +e
    (
        pids=() mounts=() namespaces=()
        trap clean_up EXIT
        trap 'echo "line $LINENO: failed: $BASH_COMMAND" >&2' ERR
        set -eE
        "$@"
    ) >"$work/said" 2>&1
    result=$?
    set -e
    if ((SECONDS - begun >= 10)); then took=" ($((SECONDS - begun)) s)"; fi
    case $result in
    0) echo "ok $name$took" ;;
    77) echo "skipped $name: $(tail -n 1 "$work/said")" ;;
    *)
        failures=$((failures + 1))
        echo "FAIL $name"
        sed 's/^/    /' "$work/said"
        ;;
    esac
}

# The last line of a script.
finish() {
    exit $((failures > 0))
}

# Leaves a check that this machine does not allow.
skip() {
    echo "$*"
    exit 77
}

need_root() {
    ((EUID == 0)) || skip "needs root"
}

fail() {
    trap - ERR
    {
        echo "$*"
        if ((${#ran[@]})); then
            echo "ran: ${ran[*]@Q} (status $status)"
            sed 's/^/stdout: /' "$out" 2>/dev/null | cut -c1-300 | head -n 20
            sed 's/^/stderr: /' "$err" 2>/dev/null | cut -c1-300 | head -n 20
        fi
        if [[ -f ${server_log:-} ]]; then tail -n 5 "$server_log" | sed 's/^/server: /' | cut -c1-400; fi
    } >&2
    exit 1
}

remember() {
    pids+=("$@")
}

clean_up() {
    local pid folder name
    trap - ERR
    set +e
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do
        for _ in {1..60}; do
            running "$pid" || break
            sleep 0.05
        done
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    for folder in "${mounts[@]}"; do umount "$folder"; done
    for name in "${namespaces[@]}"; do ip netns delete "$name"; done
}

leave() {
    clean_up
    if [[ ${KEEP:-} ]]; then echo "kept $work"; else rm -rf "$work"; fi
}
trap leave EXIT
trap 'exit 130' INT TERM

# --- waiting ----------------------------------------------------------------------------------

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || fail "waited in vain: $what"
        sleep 0.05
    done
}

# Whether a process is there and no zombie.
running() {
    local state
    state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) && [[ $state && $state != Z ]]
}

gone() {
    ! running "$1"
}

# await_exit SECONDS PID: sets `status` to its exit status.
await_exit() {
    await "$1" "process $2 ends" gone "$2"
    status=0
    wait "$2" || status=$?
}

# --- saying what is expected --------------------------------------------------------------------

# run COMMAND...: sets `status`; what it says is in the files $out and $err.
run() {
    ran=("$@")
    status=0
    "$@" >"$out" 2>"$err" || status=$?
}

# The program under test, bounded in time.
legatus() {
    timeout -k 5 "${limit:-60}" "$LEGATUS" "$@"
}

# start COMMAND...: in the background, interruptible although a script starts it; sets `started`.
# `start COMMAND >FILE` empties the file before it returns. `COMMAND >FILE &` does so a moment later, and whoever
# waits for a line in the file may find the one of the command before.
start() {
    env --default-signal=INT,QUIT,PIPE "$@" <&0 &
    started=$!
    remember "$started"
}

# start_fed COMMAND...: as start; what is written to descriptor 8 is its standard input.
start_fed() {
    rm -f "$work/fifo"
    mkfifo "$work/fifo"
    exec 9<>"$work/fifo"
    start "$@" <"$work/fifo" 9>&-
    exec 8>"$work/fifo" 9>&-
}

expect_status() {
    local wanted
    for wanted in "$@"; do
        if [[ $status == "$wanted" ]]; then return; fi
    done
    fail "exit status $status instead of $*"
}

# expect_out TEXT: exactly this text at standard output, without regard to a last newline.
expect_out() {
    [[ $(<"$out") == "$1" ]] || fail "standard output is not ${1@Q}"
}

# expect_err PATTERN: an extended regular expression somewhere at standard error.
expect_err() {
    grep -Eqi -- "$1" "$err" || fail "standard error does not tell ${1@Q}"
}

expect_no_err() {
    [[ ! -s $err ]] || fail "standard error is not empty"
}

# same WHAT EXPECTED ACTUAL
same() {
    [[ $2 == "$3" ]] || fail "$1: ${3@Q} instead of ${2@Q}"
}

# below WHAT LIMIT ACTUAL
below() {
    (($3 <= $2)) || fail "$1: $3 is more than $2"
}

# --- certificates and servers -------------------------------------------------------------------

make_pki() {
    "$LEGATUS" pki quickstart --dir "$pki" --server localhost --san 127.0.0.1 --client alice >"$out" ||
        { echo "FAIL make certificates"; exit 1; }
}

# serve_again [ARG...]: a server at the port and with the state of the last one, which has ended. Its
# port may have become the near end of some connection meanwhile, for as long as that lasts.
serve_again() {
    local listen=127.0.0.1:$port state_dir=$state deadline=$((SECONDS + 60))
    while :; do
        launch_server --listen "$listen" "${run_as[@]}" "$@"
        await 10 "the server listens, or has failed" listens_or_has_failed
        if said_port; then break; fi
        ((SECONDS < deadline)) || fail "the port $listen never came free"
        sleep 0.5
    done
    host=127.0.0.1:$port
}

listens_or_has_failed() {
    said_port || gone "$server_pid"
}

# start_server [ARG...]: sets server_pid, port, host, state, server_out, server_log.
# With `inside=(COMMAND...)` it runs there, such as in a network namespace.
start_server() {
    launch_server --listen "${listen:-127.0.0.1:0}" "${run_as[@]}" "$@"
    await 10 "the server says where it listens" said_port
    host=127.0.0.1:$port
}

said_port() {
    port=$(sed -n '1s/^listening on .*:\([0-9]*\)$/\1/p' "$server_out")
    [[ $port ]]
}

launch_server() {
    servers=$((servers + 1))
    local folder=$work/server.$BASHPID.$servers
    mkdir "$folder"
    state=${state_dir:-$folder/state} server_out=$folder/out server_log=$folder/log
    port=
    "${inside[@]}" "$LEGATUS" serve --cert "$pki/localhost.crt" --key "$pki/localhost.key" --ca "$pki/ca.crt" \
        --state-dir "$state" "$@" >"$server_out" 2>"$server_log" &
    server_pid=$!
    remember "$server_pid"
}
inside=()

# The server still takes calls.
expect_server_alive() {
    local said
    said=$(legatus shell "$host" -- echo alive) || fail "the server takes no calls any more"
    same "the server's answer" alive "$said"
}

# A process and all that descend from it, one a line; without those that are only there to be forked.
process_tree() {
    ps -e -o pid=,ppid=,comm= | awk -v root="$1" '
        $3 != "legatus-forks" { parent[$1] = $2 }
        END { for (p in parent) { for (q = p; q && q != root; q = parent[q]); if (q == root) print p } }'
}

# Resident memory of a process and all that descend from it, KiB.
tree_memory() {
    ps -e -o pid=,ppid=,rss= | awk -v root="$1" '
        { parent[$1] = $2; rss[$1] = $3 }
        END {
            for (p in parent) { for (q = p; q && q != root; q = parent[q]); if (q == root) sum += rss[p] }
            print sum + 0
        }'
}

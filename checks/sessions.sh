#!/usr/bin/env bash
# Sessions: what survives a network that fails, a killed client, a killed, restarted or upgraded server.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

command -v python3 >/dev/null || { echo "FAIL python3 is not installed"; exit 1; }
make_pki
if ((full)); then flips=500 sessions=200; else flips=40 sessions=20; fi

# --- what the checks share ------------------------------------------------------------------------

# A proxy before the server that fails at random; sets `flaky`, a host.
start_proxy() {
    rm -f "$work/flips"
    start python3 "$checks/flipping_proxy.py" 127.0.0.1 "$port" --count "$work/flips" "$@" >"$work/proxy.port"
    await 10 "the proxy listens" grep -q . "$work/proxy.port"
    flaky=127.0.0.1:$(<"$work/proxy.port")
}

flipped() {
    cat "$work/flips" 2>/dev/null || echo 0
}

# session_of NAME: its id.
session_of() {
    legatus --json sessions "$host" | sed -n "s/^{\"id\":\"\([^\"]*\)\",\"name\":\"$1\".*/\1/p"
}

# Ends whatever a check has left, whose holders outlive the server.
end_all() {
    local id
    for id in $(legatus --json sessions "$host" | sed 's/^{"id":"\([^"]*\)".*/\1/'); do
        legatus end "$host" "$id" || true
    done
}

no_holder_left() {
    local folder=$state/sessions
    [[ ! $(find "$folder" -type s) ]]
}

# again COMMAND...: the call was never begun if it says so, because the proxy was down just then.
again() {
    local try
    for try in {1..50}; do
        run "$@"
        if ((status != 255)) || ! grep -Eq 'unavailable' "$err"; then return 0; fi
    done
    fail "unavailable $try times"
}

# --- connections that fail --------------------------------------------------------------------------

interactive_through_a_failing_network() {
    start_server
    start_proxy --up 0.1 --down 0.05
    python3 "$checks/interactive_client.py" "$LEGATUS" "$flaky" "$work/flips" "$flips" >"$work/said-by-client" ||
        fail "$(<"$work/said-by-client")"
    end_all
}

output_through_a_failing_network() {
    start_server
    start_proxy
    local wanted
    wanted=$(seq 1 20000000 | sha256sum)
    while (($(flipped) < flips)); do
        again timeout 300 "$LEGATUS" shell "$flaky" -- seq 1 20000000
        expect_status 0
        same "digest after $(flipped) flips" "$wanted" "$(sha256sum <"$out")"
    done
    # That an outcome has arrived may be lost, too: it is kept then.
    end_all
}

input_through_a_failing_network() {
    start_server
    start_proxy
    seq 1 10000000 >"$work/input"
    local wanted
    wanted=$(sha256sum <"$work/input")
    upload() { timeout 300 "$LEGATUS" shell "$flaky" -- sha256sum <"$work/input"; }
    while (($(flipped) < flips)); do
        again upload
        expect_status 0
        expect_out "$wanted"
    done
    end_all
}

scripts_through_a_failing_network() {
    start_server
    start_proxy
    { echo '#!/bin/sh'; seq -f 'echo line %.0f' 1 50000; echo 'cat; exit 9'; } >"$work/script"
    local wanted
    wanted=$({ seq -f 'line %.0f' 1 50000; seq 1 100000; } | sha256sum)
    script() { seq 1 100000 | timeout 300 "$LEGATUS" shell "$flaky" --script "$work/script"; }
    local until=$((flips / 4))
    while (($(flipped) < until)); do
        again script
        expect_status 9
        same "digest after $(flipped) flips" "$wanted" "$(sha256sum <"$out")"
    done
    end_all
}

# --- servers that end -----------------------------------------------------------------------------

survives_its_server() {
    start_server
    local number name
    for ((number = 1; number <= sessions; number++)); do
        run legatus shell "$host" --detach --name "job$number" -- sh -c "
            echo before $number; while [ ! -e '$work/go' ]; do sleep 0.1; done; echo after $number; exit $((number % 200))"
        expect_status 0
        expect_out "job$number"
    done
    start "$LEGATUS" shell "$host" -- sh -c "echo with a client; while [ ! -e '$work/go' ]; do sleep 0.1; done; echo goes on; exit 4" \
        >"$work/attached.out" 2>"$work/attached.err" </dev/null
    local client=$started
    await 10 "the attached one runs" grep -q client "$work/attached.out"
    "$@"
    serve_again
    same "sessions after the restart" $((sessions + 1)) "$(legatus --json sessions "$host" | wc -l)"
    touch "$work/go"
    await_exit 40 "$client"
    expect_status 4
    same "output of the attached one" $'with a client\ngoes on' "$(<"$work/attached.out")"
    grep -q 'connection lost' "$work/attached.err" || fail "the client does not say that the connection was lost"
    for ((number = 1; number <= sessions; number++)); do
        run legatus attach "$host" "job$number"
        expect_status $((number % 200))
        expect_out "before $number"$'\n'"after $number"
    done
    rm "$work/go"
    await 10 "no holder is left" no_holder_left
}

by_kill() {
    kill -KILL "$server_pid"
    await 10 "the server is gone" gone "$server_pid"
}

by_term() {
    kill -TERM "$server_pid"
    await 45 "the server is gone" gone "$server_pid"
}

by_upgrade() {
    by_kill
    cp "$LEGATUS" "$work/upgraded"
    LEGATUS=$work/upgraded
}

survives_a_restart() {
    start_server --drain-timeout 1
    start "$LEGATUS" shell "$host" -- sh -c "echo begun; while [ ! -e '$work/go' ]; do sleep 0.1; done; echo goes on" \
        >"$work/attached.out" 2>"$work/attached.err" </dev/null
    local client=$started
    await 10 "it runs" grep -q begun "$work/attached.out"
    run legatus restart "$host"
    expect_status 0
    await 10 "the old server is gone" gone "$server_pid"
    touch "$work/go"
    await_exit 20 "$client"
    expect_status 0
    same "output" $'begun\ngoes on' "$(<"$work/attached.out")"
    rm "$work/go"
    legatus shutdown "$host"
}

# --- people -------------------------------------------------------------------------------------------

detach_attach_and_end() {
    start_server
    run legatus shell "$host" --detach -- sh -c 'echo $$; setsid sleep 1000 & exec sleep 1001'
    expect_status 0
    local id
    id=$(<"$out")
    run legatus sessions "$host"
    grep -q "^${id:0:12} .* alice .* runs " "$out" || fail "it is not listed: $(<"$out")"
    start "$LEGATUS" attach "$host" "$id" --read-only >"$work/watched" 2>"$err" </dev/null
    await 10 "what it has said is shown" grep -q . "$work/watched"
    kill -INT "$started"
    await_exit 10 "$started"
    expect_status 0
    running "$(<"$work/watched")" || fail "whoever only watched has ended it"
    run legatus end "$host" "${id:0:8}"
    expect_status 0
    await 10 "the command ends" gone "$(<"$work/watched")"
    run legatus attach "$host" "$id"
    expect_status 130
    expect_err 'cancelled'
    run legatus attach "$host" "$id"
    expect_status 255
    expect_err 'no session'
}

ended_sessions_are_forgotten() {
    start_server
    run legatus shell "$host" --detach --name brief -- sh -c 'until test -e "$0"; do sleep 0.05; done; exit 3' "$work/may end"
    expect_status 0
    : >"$work/may end"
    await 10 "it is listed as ended" lists ' brief .* exit 3  *shell '
    run legatus end "$host" brief
    expect_status 0
    await 10 "its outcome is wanted no more" lists_no ' brief '
}

detached_calls_that_end_at_once_are_kept() {
    start_server
    local number id
    for number in {1..20}; do
        run legatus shell "$host" --detach -- sh -c "echo quick $number; exit $number"
        expect_status 0
        id=$(<"$out")
        run legatus attach "$host" "$id"
        expect_status "$number"
        expect_out "quick $number"
    done
    await 10 "no holder is left" no_holder_left
    # Its end is noted once, and only once.
    local ends
    ends=$(grep '"event":"end"' "$state/audit.jsonl" | grep -c "$id") || true
    same "ends of the last in the audit" 1 "$ends"
    run legatus shell "$host" --detach -- /no/such/program
    expect_status 127
    expect_err 'cannot run'
    run legatus shell local --detach -- true
    expect_status 255
    expect_err 'cannot be detached'
    end_all
}

no_name_means_no_session() {
    start_server
    run legatus shell "$host" --detach -- sleep 1000
    expect_status 0
    run legatus end "$host" ''
    expect_status 2
    run legatus attach "$host" ''
    expect_status 2
    same "sessions" 1 "$(legatus --json sessions "$host" | wc -l)"
    end_all
}

# A user may stop the process that holds a session: others must not wait for it.
stopped_holders_are_left_out() {
    start_server
    local id
    # shellcheck disable=SC2016
    run legatus shell "$host" --detach --name stopped -- sh -c 'echo $PPID >"$0"; sleep 1; kill -STOP $PPID; exec sleep 1000' \
        "$work/holder"
    run legatus shell "$host" --detach --name lively -- sleep 1000
    expect_status 0
    await 10 "the holder is known" test -s "$work/holder"
    await 10 "it is stopped" grep -q '^State:.*stopped' "/proc/$(<"$work/holder")/status"
    run timeout 60 "$LEGATUS" end "$host" lively
    expect_status 0
    run timeout 60 "$LEGATUS" attach "$host" lively
    expect_status 130
    grep -q '"event":"wish".*"identity":"alice".*end ' "$state/audit.jsonl" || fail "who ended it is not in the audit"
    kill -CONT "$(<"$work/holder")"
    run legatus end "$host" stopped
    expect_status 0
    end_all
}

lists() {
    legatus sessions "$host" | grep -q -- "$1"
}

lists_no() {
    legatus sessions "$host" >"$work/listed" && ! grep -q -- "$1" "$work/listed"
}

signals_reach_it() {
    start_server
    run legatus shell "$host" --detach --name trapped -- sh -c \
        'trap "echo got it; exit 3" USR1; echo ready; : >"$0"; while :; do sleep 0.1; done' "$work/trapped"
    await 10 "it can be told something" test -e "$work/trapped"
    run legatus end "$host" trapped --signal USR1
    expect_status 0
    run legatus attach "$host" trapped
    expect_status 3
    expect_out $'ready\ngot it'
}

others_are_kept_out() {
    start_server
    legatus pki issue --dir "$pki" --client bob >/dev/null
    run legatus shell "$host" --detach --name private -- sleep 1000
    local id
    id=$(session_of private)
    bob() { legatus --cert "$pki/bob.crt" --key "$pki/bob.key" "$@"; }
    run bob sessions "$host"
    same "what bob sees" 1 "$(wc -l <"$out")"
    run bob attach "$host" "$id"
    expect_status 255
    run bob end "$host" "$id"
    expect_status 255
    run legatus end "$host" private
    expect_status 0
    kill "$server_pid"
    await 10 "the server is gone" gone "$server_pid"
    printf '[[rule]]\nidentity = "bob"\naction = "allow"\nothers = true\n' >"$work/policy.toml"
    start_server --policy "$work/policy.toml"
    run bob shell "$host" --detach --name bobs -- sleep 1000
    expect_status 0
    run bob end "$host" bobs
    expect_status 0
    end_all
}

lost_clients_are_waited_for() {
    start_server
    start "$LEGATUS" shell "$host" --linger 3 -- sh -c 'echo $$; setsid sleep 1000 & sleep 1001' >"$work/pid" 2>"$err" </dev/null
    await 10 "it runs" grep -q . "$work/pid"
    kill -KILL "$started"
    sleep 1
    running "$(<"$work/pid")" || fail "a lost client ends the call at once"
    await 10 "nobody came back" gone "$(<"$work/pid")"
}

goodbyes_end_it() {
    start_server
    local signal
    for signal in TERM HUP; do
        start "$LEGATUS" shell "$host" -- sh -c 'echo $$; sleep 1001' >"$work/pid" 2>"$err" </dev/null
        await 10 "it runs" grep -q . "$work/pid"
        kill "-$signal" "$started"
        await 10 "it ends with its client" gone "$(<"$work/pid")"
        await_exit 10 "$started"
        expect_status 130
    done
    legatus shell "$host" -- sh -c "echo \$\$ >'$work/pid'; while echo x; do :; done" | head -n 1 >"$out" || true
    await 10 "it ends when nobody reads" gone "$(<"$work/pid")"
    await 10 "no holder is left" no_holder_left
}

# --- trees of processes -----------------------------------------------------------------------------

sleepers() {
    pgrep -f -x "sleep $mark" | wc -l
}

has_sleepers() {
    (($(sleepers) >= $1))
}

no_sleepers() {
    ! has_sleepers 1
}

# ends_a_tree COMMAND...: a command that ignores what asks it to end, starts one daemon after the other
# and is ended; COMMAND is run before.
ends_a_tree() {
    # No other check sleeps so long.
    mark=1$BASHPID.5
    run legatus shell "$host" --detach --name tree -- sh -c "
        trap '' TERM HUP INT
        setsid sh -c 'setsid sleep $mark & exec sleep $mark' &
        (setsid sleep $mark &)
        while :; do (setsid sleep $mark &); sleep 0.05; done"
    expect_status 0
    await 20 "it has daemons" has_sleepers 12
    "$@"
    run legatus end "$host" tree
    expect_status 0
    await 15 "the whole tree ends" no_sleepers
    run legatus attach "$host" tree
    expect_status 130
    await 10 "no holder is left" no_holder_left
}

group_of_sleeper() {
    sed -n 's/^0:://p' "/proc/$(pgrep -f -x -o "sleep $mark")/cgroup"
}

trees_end_in_their_group() {
    need_root
    local root
    root=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
    [[ $root && -w $root/cgroup.procs ]] || skip "needs cgroup v2"
    mkdir "$root/legatus.check" 2>/dev/null || skip "may not make control groups"
    rmdir "$root/legatus.check"
    start_server
    group=
    ends_a_tree note_group
    [[ $group == */legatus.* ]] || fail "it is in no group of its own, but in $group"
    await 10 "the group is removed" group_is_removed "$root"
}

note_group() {
    group=$(group_of_sleeper)
}

group_is_removed() {
    [[ ! -e $1$group ]]
}

trees_end_without_groups() {
    need_root
    unshare --mount true 2>/dev/null || skip "may not make a mount namespace"
    # shellcheck disable=SC2016
    inside=(unshare --mount sh -c 'umount --lazy --all --types cgroup2 || exit 1; exec "$@"' sh)
    start_server
    group=
    ends_a_tree note_group
    [[ $group != */legatus.* ]] || fail "there are groups after all"
}

# --- limits -----------------------------------------------------------------------------------------

identities_have_limits() {
    start_server --max-sessions-per-identity 2
    local number
    for number in 1 2; do
        run legatus shell "$host" --detach --name "job$number" -- sleep 1000
        expect_status 0
    done
    run legatus shell "$host" --detach --name job3 -- sleep 1000
    expect_status 255
    expect_err 'limit of 2 sessions'
    # Also those that a former server has started are counted.
    kill -KILL "$server_pid"
    await 10 "the server is gone" gone "$server_pid"
    serve_again --max-sessions-per-identity 2
    await 10 "they are counted again" is_at_its_limit
    run legatus end "$host" job1
    expect_status 0
    run legatus attach "$host" job1
    expect_status 130
    await 10 "one may be started again" starts_one
    end_all
}

is_at_its_limit() {
    run legatus shell "$host" --detach -- sleep 1000
    local result=$status id
    if ((result == 0)); then
        id=$(<"$out")
        legatus end "$host" "$id"
        # Until its end is fetched it counts.
        legatus attach "$host" "$id" || true
    fi
    ((result == 255))
}

starts_one() {
    legatus shell "$host" --detach -- sleep 1000
}

is_listed() {
    id=$(legatus --json sessions "$host" | sed 's/^{"id":"\([^"]*\)".*/\1/')
    [[ $id ]]
}

# The output of a client that was lost waits on disk where the server lets it.
output_waits_on_disk() {
    start_server --session-spill 64
    start "$LEGATUS" shell "$host" -- sh -c "echo begun; until [ -e '$work/go' ]; do sleep 0.1; done
        seq 1 6000000; touch '$work/said'; exit 5" >"$work/partly" 2>"$err" </dev/null
    await 10 "it runs" grep -q begun "$work/partly"
    local id=
    await 10 "it is listed" is_listed
    kill -KILL "$started"
    touch "$work/go"
    # 46 MB, of which memory holds 8.
    await 30 "it has said everything although nobody listens" test -e "$work/said"
    run legatus attach "$host" "$id"
    expect_status 5
    same "digest" "$( (echo begun; seq 1 6000000) | sha256sum)" "$(sha256sum <"$out")"
    rm "$work/go" "$work/said"
}

# --- paste and flood ----------------------------------------------------------------------------------

a_paste_arrives_whole() {
    start_server
    python3 "$checks/flooding_client.py" "$LEGATUS" "$host" paste 10000000 "$work/pasted" || fail "not whole"
}

a_flood_is_stopped() {
    start_server
    # Measured alone it takes some milliseconds; the machine may have others to run.
    local within=100
    if ((!full)); then within=2000; fi
    python3 "$checks/flooding_client.py" "$LEGATUS" "$host" flood "$within" || fail "not stopped"
}

# --- whose rights ---------------------------------------------------------------------------------------

identities_have_users() {
    need_root
    echo secret >"$work/roots"
    chmod 600 "$work/roots"
    {
        printf 'accept-env = ["LANG", "OK_*"]\n[[user]]\nidentity = "alice"\nuser = "nobody"\n'
        printf 'groups = ["games"]\nshell = "/bin/sh"\numask = "027"\nno-new-privs = true\nmax-open-files = 77\n'
    } >"$work/server.toml"
    local run_as=()
    legatus pki issue --dir "$pki" --client stranger >/dev/null
    start_server --config "$work/server.toml"
    run legatus shell "$host" -- id -un
    expect_out nobody
    run legatus shell "$host" -- id -Gn
    expect_out "$(id -gn nobody) games"
    run legatus shell "$host" -- cat "$work/roots"
    expect_status 1
    run legatus cp "$host:$work/roots" "$work/stolen"
    ((status != 0)) || fail "a copy reads what only root may"
    run legatus cp "$work/server.toml" "$host:/etc/legatus-check"
    ((status != 0)) || fail "a copy writes where only root may"
    run legatus shell "$host" -c 'umask; ulimit -n; grep NoNewPrivs /proc/self/status'
    expect_out $'0027\n77\nNoNewPrivs:\t1'
    run legatus shell "$host" --env OK_A=1 --env BAD=2 -- env
    grep -q '^OK_A=1$' "$out" || fail "an accepted variable is missing"
    if grep -q '^BAD=' "$out"; then fail "a variable that is not accepted is there"; fi
    run legatus shell "$host" -- sh -c 'ls /proc/self/fd | tr "\n" " "'
    expect_out '0 1 2 3 '
    run legatus shell "$host" --detach --name mine -- sleep 1000
    expect_status 0
    run legatus --json sessions "$host"
    grep -q '"user":"nobody"' "$out" || fail "the session does not tell its user"
    run legatus end "$host" mine
    expect_status 0
    run legatus --cert "$pki/stranger.crt" --key "$pki/stranger.key" shell "$host" -- true
    expect_status 255
    expect_err 'denied'
    end_all
}

# --- verdicts -------------------------------------------------------------------------------------------

# Each end of a call in each mode, on a terminal and without: exit status and JSON tell the same, as
# documented.
verdicts() {
    start_server
    local how mode tty
    for how in 'exit 0' 'exit 3' 'exit 255' 'kill -9 $$' 'kill -15 $$'; do
        for mode in command line script login; do
            for tty in '' -t; do
                verdict_of "$mode" "$tty" "$how"
                case $how in
                exit*) expect_verdict "${how#exit }" "\"kind\":\"exit\",\"status\":${how#exit }" ;;
                *9*) expect_verdict 137 '"kind":"signal","status":137,"signal":9' ;;
                *) expect_verdict 143 '"kind":"signal","status":143,"signal":15' ;;
                esac
                expect_usage
            done
        done
    done
    for mode in command line script login; do
        for tty in '' -t; do
            verdict_of "$mode" "$tty" 'sleep 1000' --timeout 300ms
            expect_verdict 124 '"kind":"timeout","status":124'
            expect_usage
            expect_err '^legatus: timeout:'
            verdict_of "$mode" "$tty" 'kill -TERM "$CLIENT"; sleep 1000'
            expect_verdict 130 '"kind":"cancelled","status":130'
            expect_err '^legatus: cancelled:'
        done
    done
}

# Those for which legatus itself has the status 255, and says so.
verdicts_of_ours() {
    local mode tty
    printf '[[rule]]\nidentity = "nobody-here"\naction = "allow"\n' >"$work/none.toml"
    start_server --policy "$work/none.toml"
    for mode in command line script login; do
        for tty in '' -t; do
            verdict_of "$mode" "$tty" 'exit 0'
            expect_verdict 255 '"kind":"denied","status":255'
            expect_err '^legatus: denied:'
        done
    done
    for mode in command line script login; do
        for tty in '' -t; do
            start_server
            # It is the server that this kills, whose client is to wait for nobody.
            verdict_of "$mode" "$tty" "kill -KILL $server_pid; sleep 1000" --linger 0
            expect_verdict 255 '"kind":"lost","status":255'
            expect_err '^legatus: lost:'
        done
    done
}

# What a command took is told whenever it had begun, and its bytes exactly.
usage_is_told() {
    start_server
    run sh -c "printf 12345 | '$LEGATUS' --json shell $host -- sh -c 'cat; echo error >&2; kill -9 \$\$'"
    expect_status 137
    grep -q '"input_bytes":5,"output_bytes":11}}$' "$out" || fail "the bytes are wrong"
    run legatus --json shell "$host" --timeout 300ms -- sh -c 'echo begun; while :; do :; done'
    expect_status 124
    grep -Eq '"cpu_seconds":[0-9]*\.?0*[1-9].*"output_bytes":6}}$' "$out" || fail "what it took is wrong"
}

expect_usage() {
    grep -q '"usage":{"seconds":[0-9.]*,"cpu_seconds":[0-9.]*,"peak_memory_bytes":[1-9][0-9]*,"input_bytes":[0-9]*,"output_bytes":[0-9]*}}' \
        "$out" || fail "no usage"
}

# verdict_of MODE TTY COMMAND [FLAG...]: runs it; CLIENT is the client's process there.
verdict_of() {
    local mode=$1 tty=$2 command=$3
    shift 3
    local call=(--json shell "$host" ${tty:+"$tty"} "$@" --env "CLIENT=@")
    case $mode in
    command) call+=(-- sh -c "$command") ;;
    line) call+=(-c "$command") ;;
    script) printf '#!/bin/sh\n%s\n' "$command" >"$work/script"; call+=(--script "$work/script") ;;
    # An interactive shell ignores what would end it.
    login) command="exec sh -c '$command'" ;;
    esac
    ran=("${call[@]}")
    status=0
    # The client takes the place of the shell that knows its process id.
    # shellcheck disable=SC2016
    { if [[ $mode == login ]]; then printf '%s\n' "$command"; fi; } |
        timeout -k 5 60 bash -c 'exec "$0" "${@/#CLIENT=@/CLIENT=$$}"' "$LEGATUS" "${call[@]}" >"$out" 2>"$err" || status=$?
}

expect_verdict() {
    expect_status "$1"
    local last
    last=$(tail -n 1 "$out")
    [[ $last == "{\"outcome\":{$2"* ]] || fail "${ran[*]}: $last"
    same "outcomes" 1 "$(grep -c '^{"outcome"' "$out")"
}

other_verdicts() {
    start_server
    run legatus --json --connect-timeout 2 shell 127.0.0.1:1 -- true
    expect_verdict 255 '"kind":"unavailable","status":255'
    run legatus --json shell "$host" --cwd /no/such/folder -- true
    expect_verdict 255 '"kind":"failed","status":255'
    start "$LEGATUS" --json shell "$host" --linger 0 -- sh -c 'echo runs; exec sleep 1000' >"$out" 2>"$err" </dev/null
    await 10 "the call runs" grep -q runs "$out"
    kill -KILL "$server_pid"
    await_exit 20 "$started"
    expect_verdict 255 '"kind":"lost","status":255'
}

check "each identity has its user" identities_have_users
check "every end of a call has its verdict in every mode" verdicts
check "every refusal and loss has its verdict in every mode" verdicts_of_ours
check "what a command took is told with its bytes" usage_is_told
check "calls that never ran, or were lost, say so" other_verdicts
check "an interactive session through a failing network is exact" interactive_through_a_failing_network
check "output through a failing network is exact" output_through_a_failing_network
check "input through a failing network is exact" input_through_a_failing_network
check "scripts through a failing network are exact" scripts_through_a_failing_network
check "sessions survive kill -9 of the server" survives_its_server by_kill
check "sessions survive an upgraded server" survives_its_server by_upgrade
check "sessions survive the end of the server" survives_its_server by_term
check "an attached session survives a restart" survives_a_restart
check "a detached session is listed, watched and ended" detach_attach_and_end
check "an ended session that is ended is forgotten" ended_sessions_are_forgotten
check "a detached call that ends at once is kept" detached_calls_that_end_at_once_are_kept
check "no name means no session" no_name_means_no_session
check "a holder that was stopped delays nobody" stopped_holders_are_left_out
check "signals reach a session" signals_reach_it
check "sessions of others are out of reach" others_are_kept_out
check "a lost client is waited for" lost_clients_are_waited_for
check "goodbyes end a call" goodbyes_end_it
check "a tree of processes ends in its control group" trees_end_in_their_group
check "a tree of processes ends without control groups" trees_end_without_groups
check "an identity has a limit of sessions" identities_have_limits
check "output waits on disk" output_waits_on_disk
check "10 MB pasted into a file arrive whole" a_paste_arrives_whole
check "a flood for a slow terminal is stopped by Ctrl-C" a_flood_is_stopped
finish

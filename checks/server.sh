#!/usr/bin/env bash
# The server: who may do what, what is written down, and how it starts, reloads, drains, restarts and
# survives lost peers.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
"$LEGATUS" pki issue --dir "$pki" --client bob >"$out"

as_bob() {
    LEGATUS_CERT=$pki/bob.crt LEGATUS_KEY=$pki/bob.key legatus "$@"
}

does_not_start() {
    local pattern=$1
    shift
    run timeout 10 "$LEGATUS" serve --listen 127.0.0.1:0 --state-dir "${state_dir:-$work/refusing}" "$@"
    ((status != 0 && status != 124)) || fail "it starts all the same"
    expect_err "$pattern"
    [[ ! -s $out ]] || fail "it says that it listens"
}

server_pair=(--cert "$pki/localhost.crt" --key "$pki/localhost.key" --ca "$pki/ca.crt")

refuses_to_start() {
    if ((EUID == 0)); then
        does_not_start '--run-as' "${server_pair[@]}"
        does_not_start 'no-such-user' "${server_pair[@]}" --run-as no-such-user
    fi
    unset LEGATUS_CERT LEGATUS_KEY LEGATUS_CA
    does_not_start '--cert' "${run_as[@]}"
    does_not_start '--ca' "${run_as[@]}" --cert "$pki/localhost.crt" --key "$pki/localhost.key"
    does_not_start 'no/such/policy' "${server_pair[@]}" "${run_as[@]}" --policy /no/such/policy
    echo 'rule = 7' >"$work/broken.toml"
    does_not_start 'broken\.toml.*not valid' "${server_pair[@]}" "${run_as[@]}" --policy "$work/broken.toml"
    does_not_start 'cannot listen' "${server_pair[@]}" "${run_as[@]}" --listen 192.0.2.1:1
    start_server
    does_not_start 'in use' "${server_pair[@]}" "${run_as[@]}" --listen "127.0.0.1:$port"
}

runs_as_another_user() {
    need_root
    local run_as=(--run-as nobody)
    start_server
    run legatus shell "$host" -- id -un
    expect_out nobody
    run legatus shell "$host" -- sh -c 'cat /etc/shadow; id -G; touch /root/x; grep -E "^Cap(Eff|Prm|Bnd)" /proc/self/status'
    if grep -q root: "$out"; then fail "it reads what only root may"; fi
    grep -qx "$(id -G nobody)" "$out" || fail "it keeps groups of root"
    grep -Eqx 'CapEff:\s0+' "$out" || fail "it keeps capabilities"
}

nothing_is_inherited() {
    local leaked=leaked
    export leaked
    # Whoever starts a server may leave anything open.
    exec 7</etc/shadow
    start_server
    exec 7<&-
    run legatus shell "$host" -- sh -c 'ls -l /proc/self/fd; env'
    expect_status 0
    if grep shadow "$out"; then fail "a descriptor of the server's passes"; fi
    if grep '^leaked=' "$out"; then fail "the server's environment passes"; fi
}

without_policy() {
    start_server
    grep -q 'no --policy' "$server_log" || fail "the server does not say that everyone may call everything"
}

policy() {
    cat >"$work/policy.toml" <<'END'
[[rule]]
name = "bob reads files"
identity = "bob"
module = "transfer-file"
effects = ["read"]
action = "allow"

[[rule]]
identity = "alice"
action = "allow"
END
    # It may be installed later.
    printf '[[rule]]\nidentity = "eve"\nmodule = "shel"\naction = "deny"\n' >>"$work/policy.toml"
    start_server --policy "$work/policy.toml"
    grep -q 'about nothing.*shel.*did you mean .shell' "$server_log" || fail "a misspelled module is not told"
    echo shown >"$work/readable"
    run as_bob cp "$host:$work/readable" "$work/read"
    expect_status 0
    run as_bob cp "$work/readable" "$host:$work/written"
    expect_status 255
    expect_err 'denied'
    [[ ! -e $work/written ]] || fail "a denied upload wrote"
    run as_bob cp --mkdir "$host:$work/made"
    expect_status 255
    [[ ! -e $work/made ]] || fail "a denied call made a folder"
    run as_bob shell "$host" -- touch "$work/ran"
    expect_status 255
    expect_err 'denied'
    [[ ! -e $work/ran ]] || fail "a denied command ran"
    run as_bob --json shell "$host" -- true
    grep -q '"kind":"denied"' "$out" || fail "--json does not tell that it was denied"
    expect_server_alive
    grep '"outcome":"denied"' "$state/audit.jsonl" | grep -q '"identity":"bob"' || fail "the audit does not tell it"
    # Reloading: what bob may do changes, and a broken file changes nothing.
    cat >>"$work/policy.toml" <<'END'
[[rule]]
identity = "b*"
module = "shell"
action = "allow"
END
    kill -HUP "$server_pid"
    await 5 "the policy is reloaded" grep -q 'policy reloaded' "$server_log"
    run as_bob shell "$host" -- echo allowed
    expect_out allowed
    printf '[[rule]]\nidentity = "*"\nmodule = "cp"\naction = "deny"\n' >"$work/policy.toml"
    kill -HUP "$server_pid"
    await 5 "the alias is told" grep -q "keeping the old policy.*is about .cp., which is no module's name" "$server_log"
    run legatus shell "$host" -- true
    expect_status 0
    echo 'not a policy' >"$work/policy.toml"
    kill -HUP "$server_pid"
    await 5 "the broken policy is told" eval '(($(grep -c "keeping the old policy" "$server_log") == 2))'
    run as_bob shell "$host" -- echo allowed
    expect_out allowed
    : >"$work/policy.toml"
    kill -HUP "$server_pid"
    await 5 "the empty policy is loaded" eval '(($(grep -c "policy reloaded" "$server_log") == 2))'
    run legatus shell "$host" -- true
    expect_status 255
    expect_err denied
}

audit() {
    start_server
    run legatus shell "$host" -- sh -c 'seq 1 100000; exit 3'
    expect_status 3
    await 5 "the end is written" grep -q '"event":"end"' "$state/audit.jsonl"
    same "mode of the audit" 600 "$(stat -c %a "$state/audit.jsonl")"
    python3 - "$state/audit.jsonl" "$(wc -c <"$out")" <<'END'
import json, sys
begin, end = [json.loads(line) for line in open(sys.argv[1])]
assert begin["event"] == "begin" and end["event"] == "end", (begin, end)
for line in begin, end:
    assert line["identity"] == "alice" and line["module"] == "shell", line
    assert line["call"] == begin["call"] and "seq 1 100000" in line["arguments"], line
    assert line["address"].startswith("127.0.0.1:"), line
assert end["outcome"] == "exit" and end["status"] == 3 and end["seconds"] > 0, end
assert end["bytes_sent"] >= int(sys.argv[2]), (end["bytes_sent"], sys.argv[2])
END
    # The amount is right each time.
    for _ in {1..30}; do legatus shell "$host" -- echo alive >"$out"; done
    await 5 "31 ends are written" eval '(($(grep -c "\"event\":\"end\"" "$state/audit.jsonl") == 31))'
    # `started` with a process id, and the line in a message.
    local short
    short=$({ grep alive "$state/audit.jsonl" | grep -Ec '"bytes_sent":([0-9]|1[01]),'; } || true)
    same "how many of 30 equal calls sent too few bytes" 0 "$short"
    # Rotation.
    mv "$state/audit.jsonl" "$state/audit.old"
    kill -HUP "$server_pid"
    await 5 "a new audit is begun" test -e "$state/audit.jsonl"
    expect_server_alive
    grep -q alive "$state/audit.jsonl" || fail "the new audit stays empty"
}

hostile_names_in_the_audit() {
    start_server
    run legatus shell "$host" -- printf '%s' $'a\n{"event":"begin"}\n\x1b[31m\xff"\\'
    expect_status 0
    await 5 "the end is written" grep -q '"event":"end"' "$state/audit.jsonl"
    same "lines of one call" 2 "$(wc -l <"$state/audit.jsonl")"
    python3 -c 'import json, sys; [json.loads(line) for line in open(sys.argv[1], "rb")]' "$state/audit.jsonl" ||
        fail "the audit is no JSON"
    if grep -q $'\x1b' "$state/audit.jsonl" "$server_log"; then fail "escape sequences reach the log"; fi
}

audit_on_a_full_disk() {
    need_root
    local disk=$work/full-disk
    mkdir "$disk"
    mount -t tmpfs -o size=64k tmpfs "$disk" 2>/dev/null || skip "no tmpfs can be mounted here"
    mounts+=("$disk")
    local state_dir=$disk/state
    start_server
    expect_server_alive
    head -c 1M /dev/zero >"$disk/filler" 2>/dev/null || true
    # What is left of the last page may still take some lines.
    for _ in {1..40}; do
        rm -f "$work/unaudited"
        run legatus shell "$host" -- touch "$work/unaudited"
        ((status == 0)) || break
    done
    expect_status 255
    expect_err 'unavailable.*audit'
    [[ ! -e $work/unaudited ]] || fail "a call ran that was not audited"
    rm "$disk/filler"
    expect_server_alive
}

unwritable_audit() {
    # There is a folder where the file should be: not even root can write that.
    local state_dir=$work/unwritable
    mkdir -p "$state_dir/audit.jsonl"
    does_not_start 'audit' "${server_pair[@]}" "${run_as[@]}"
}

limits() {
    start_server --max-calls-per-identity 1
    start "$LEGATUS" shell "$host" -- sh -c 'echo ready; exec sleep 1000' >"$work/first" 2>&1 </dev/null
    await 10 "the first call runs" grep -q ready "$work/first"
    run legatus shell "$host" -- true
    expect_status 255
    expect_err 'unavailable.*limit of 1 '
    kill "$started"
    await_exit 10 "$started"
    await 5 "the call's place is free again" legatus shell "$host" -- true
    start_server --max-connections-per-identity 1
    start "$LEGATUS" shell "$host" -- sh -c 'echo ready; exec sleep 1000' >"$work/first" 2>&1 </dev/null
    await 10 "the first call runs" grep -q ready "$work/first"
    run legatus shell "$host" -- true
    expect_status 255
    [[ -s $err ]] || fail "the client says nothing"
    kill "$started"
    await_exit 10 "$started"
    await 5 "the connection's place is free again" legatus shell "$host" -- true
}

# --- reloading ----------------------------------------------------------------------------------------

served_serial() {
    openssl s_client -connect "$host" </dev/null 2>/dev/null | openssl x509 -noout -serial
}

serves_serial_of() {
    [[ $(served_serial) == $(openssl x509 -in "$1" -noout -serial) ]]
}

new_certificates() {
    cp -r "$pki" "$work/renewed"
    local pki=$work/renewed
    start_server
    # A connection that lives through all of it.
    start_fed "$LEGATUS" shell "$host" -- cat >"$out" 2>"$err"
    echo one >&8
    await 10 "the old connection works" grep -q one "$out"
    serves_serial_of "$pki/localhost.crt" || fail "another certificate than it was given"
    legatus pki issue --dir "$pki" --server localhost --san 127.0.0.1 --force >"$work/said-by-pki"
    await 20 "the new certificate is served" serves_serial_of "$pki/localhost.crt"
    expect_server_alive
    cp "$pki/localhost.crt" "$work/good.crt"
    echo broken >"$pki/localhost.crt"
    await 20 "the broken file is told" grep -Eq '(ERROR|WARN).*localhost\.crt' "$server_log"
    serves_serial_of "$work/good.crt" || fail "the old certificate is not kept"
    expect_server_alive
    echo two >&8
    await 10 "the old connection still works" grep -q two "$out"
    exec 8>&-
    await_exit 10 "$started"
    expect_status 0
}

# --- its end and its beginning -----------------------------------------------------------------------

drains() {
    start_server
    start_fed "$LEGATUS" shell "$host" -- sh -c 'echo running; read line; echo "$line"' >"$out" 2>"$err"
    local client=$started
    await 10 "the call runs" grep -q running "$out"
    kill -TERM "$server_pid"
    await 5 "the server drains" grep -q draining "$server_log"
    run_aside legatus shell "$host" -- true
    same "exit status of a new call" 255 "$aside"
    running "$server_pid" || fail "the server leaves before its calls"
    echo finished >&8
    exec 8>&-
    await_exit 10 "$client"
    expect_status 0
    expect_out $'running\nfinished'
    await_exit 10 "$server_pid"
    expect_status 0
}

# Runs a command without touching what `run` has left; sets `aside` to its status.
run_aside() {
    aside=0
    "$@" >"$work/aside" 2>&1 || aside=$?
}

drain_is_bounded() {
    start_server --drain-timeout 1
    start "$LEGATUS" shell "$host" --linger 0 -- sh -c 'echo $$; exec sleep 1000' >"$out" 2>"$err" </dev/null
    await 10 "the call runs" grep -q . "$out"
    kill -TERM "$server_pid"
    await_exit 10 "$started"
    ((status != 0)) || fail "a call that was ended reports success"
    [[ -s $err ]] || fail "the client does not say why the call ended"
    await_exit 10 "$server_pid"
    expect_status 0
    await 5 "the command ends with its server" gone "$(<"$out")"
    grep -q '"event":"end"' "$state/audit.jsonl" || fail "the audit has no end"
}

killed_server_leaves_no_process() {
    start_server
    start "$LEGATUS" shell "$host" --linger 0 -- sh -c 'setsid sleep 1000 & echo $!; sleep 1001 & echo $!; wait' >"$out" 2>"$err" </dev/null
    await 10 "the command runs" eval '(($(wc -l <"$out") == 2))'
    kill -KILL "$server_pid"
    await_exit 40 "$started"
    expect_status 255
    expect_err 'lost|connection'
    local process
    while read -r process; do await 10 "process $process ends with the server" gone "$process"; done <"$out"
}

socket_from_python() {
    local inside=(python3 -c '
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])')
    # The address that it is told must not matter: nobody can listen there.
    listen=192.0.2.1:1 start_server
    expect_server_alive
}

socket_from_systemd() {
    command -v systemd-socket-activate >/dev/null || skip "no systemd-socket-activate here"
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    local wanted=$port
    local inside=(systemd-socket-activate -E "PATH=$PATH" -l "127.0.0.1:$wanted")
    launch_server "${run_as[@]}"
    host=127.0.0.1:$wanted
    await 10 "the first connection starts it" legatus shell "$host" -- true
    said_port
    same port "$wanted" "$port"
}

tells_systemd() {
    start python3 - "$work/notify" >"$work/notified" <<'END'
import socket, sys
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind(sys.argv[1])
while True:
    print(receiver.recv(4096).decode(), flush=True)
END
    await 5 "somebody listens for notifications" test -S "$work/notify"
    NOTIFY_SOCKET=$work/notify start_server
    await 5 READY=1 grep -q READY=1 "$work/notified"
    kill -TERM "$server_pid"
    await 5 STOPPING=1 grep -q STOPPING=1 "$work/notified"
    await_exit 10 "$server_pid"
    expect_status 0
}

# --- the module system ----------------------------------------------------------------------------

has_system() {
    "$LEGATUS" info --help >/dev/null 2>&1 || skip "this program has no module system"
}

info() {
    has_system
    start_server
    run legatus info "$host"
    expect_status 0
    local wanted
    for wanted in "$(uname -n)" "$(uname -r)" "$(uname -m)" shell transfer-file; do
        grep -qF "$wanted" "$out" || fail "info does not tell $wanted"
    done
    run legatus --json info "$host"
    expect_status 0
    python3 -c 'import json, sys; [json.loads(line) for line in sys.stdin]' <"$out" || fail "--json gives no JSON"
    ! grep -q '"stream"' "$out" || fail "--json gives the text for people, too"
}

shut_down() {
    has_system
    start_server
    run legatus shutdown "$host"
    expect_status 0
    await_exit 10 "$server_pid"
    expect_status 0
}

# Connects anew again and again until the file $work/enough exists; says what failed.
connect_again_and_again() {
    local count=0
    until [[ -e $work/enough ]]; do
        "$LEGATUS" shell "$host" -- true 2>&1 || echo "connection $count failed"
        count=$((count + 1))
    done
    echo "$count connections"
}

# Restarts the server; sets `successor`.
take_over() {
    run_aside legatus restart "$host"
    same "exit status of restart ($(<"$work/aside"))" 0 "$aside"
    successor=$(sed -n 's/^process \([0-9]*\) has taken over$/\1/p' "$work/aside")
    [[ $successor ]] || fail "restart does not tell the new process: $(<"$work/aside")"
    remember "$successor"
}

restart() {
    has_system
    # An executable of its own, so that it can be replaced.
    cp "$LEGATUS" "$work/legatus"
    LEGATUS=$work/legatus start_server
    start_fed "$LEGATUS" shell "$host" -- sh -c 'echo running; read line; echo "$line"' >"$out" 2>"$err"
    local client=$started old=$server_pid successor loops=() loop
    await 10 "the call runs" grep -q running "$out"
    rm -f "$work/enough"
    for loop in 1 2; do
        connect_again_and_again 8>&- >"$work/loop.$loop" &
        loops+=("$!")
        remember "$!"
    done
    cp "$LEGATUS" "$work/legatus.new"
    mv "$work/legatus.new" "$work/legatus"
    take_over
    same "the executable of the new process" "$(stat -Lc %i "$work/legatus")" "$(stat -Lc %i "/proc/$successor/exe")"
    local until=$((SECONDS + 3))
    while ((SECONDS < until)); do expect_server_alive; done
    running "$old" || fail "the old process leaves before its call"
    echo finished >&8
    exec 8>&-
    await_exit 10 "$client"
    expect_status 0
    expect_out $'running\nfinished'
    await 10 "the old process leaves" gone "$old"
    expect_server_alive
    # The successor can be succeeded too.
    old=$successor
    take_over
    await 10 "the process before leaves" gone "$old"
    expect_server_alive
    : >"$work/enough"
    for loop in "${loops[@]}"; do await 20 "a loop of connections ends" gone "$loop"; done
    if grep -h failed -B 2 "$work"/loop.*; then fail "connections were refused meanwhile"; fi
    same "enough connections to tell anything" 1 "$(awk '/ connections$/ { sum += $1 } END { print (sum > 20) }' "$work"/loop.*)"
}

broken_restart() {
    has_system
    cp "$LEGATUS" "$work/breaking"
    LEGATUS=$work/breaking start_server
    printf '#!/bin/sh\nexit 3\n' >"$work/breaking.new"
    chmod +x "$work/breaking.new"
    mv "$work/breaking.new" "$work/breaking"
    run legatus restart "$host"
    expect_status 255
    expect_err 'old one goes on|did not come up'
    # Its own children are started from the same executable, which is broken; that it answers is enough.
    run legatus info "$host"
    expect_status 0
    running "$server_pid" || fail "the old server is gone"
}

# --- lost peers --------------------------------------------------------------------------------------

forks='
sleep 1000 & echo $!
setsid sleep 1001 & echo $!
(setsid sh -c "sleep 1002 & echo \$! >&3; wait" 3>&1 >/dev/null 2>&1 &)
(trap "" HUP TERM INT; setsid sh -c "exec sleep 1003" >/dev/null 2>&1 </dev/null & echo $!)
sleep 1004'

killed_client_ends_the_tree() {
    start_server
    start "$LEGATUS" shell "$host" --linger 1 -- sh -c "$forks" >"$out" 2>"$err" </dev/null
    await 10 "all four fork" eval '(($(wc -l <"$out") == 4))'
    local process
    while read -r process; do running "$process" || fail "process $process does not run"; done <"$out"
    kill -KILL "$started"
    while read -r process; do await 10 "process $process ends with the client" gone "$process"; done <"$out"
    await 10 "the server's child ends" eval '(($(process_tree "$server_pid" | wc -l) == 1))'
}

daemons_stay() {
    start_server
    run legatus shell "$host" -- sh -c 'setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!'
    expect_status 0
    running "$(<"$out")" || fail "a daemon that was started on purpose is gone"
    kill "$(<"$out")"
}

# Two machines: the server's namespace has 10.203.77.1, the client's 10.203.77.2.
two_machines() {
    need_root
    there=legatus-a$$ here=legatus-b$$
    ip netns add "$there" 2>/dev/null || skip "no network namespaces here"
    namespaces+=("$there")
    ip netns add "$here"
    namespaces+=("$here")
    ip -n "$there" link add cable type veth peer name cable netns "$here" 2>/dev/null || skip "no veth here"
    ip -n "$there" address add 10.203.77.1/24 dev cable
    ip -n "$here" address add 10.203.77.2/24 dev cable
    ip -n "$there" link set cable up
    ip -n "$here" link set cable up
    local folder=$work/two-machines
    [[ -d $folder ]] || "$LEGATUS" pki quickstart --dir "$folder" --server localhost --san 10.203.77.1 --client alice >"$out"
    pki=$folder
    export LEGATUS_CERT=$pki/alice.crt LEGATUS_KEY=$pki/alice.key LEGATUS_CA=$pki/ca.crt
    local inside=(ip netns exec "$there")
    listen=10.203.77.1:0 start_server
    host=10.203.77.1:$port
}

on_this_machine() {
    ip netns exec "$here" timeout 60 "$LEGATUS" "$@"
}

over_a_network() {
    two_machines
    run on_this_machine shell "$host" -- uname -s
    expect_status 0
    expect_out Linux
    head -c 50M /dev/urandom >"$work/sent"
    run on_this_machine cp "$work/sent" "$host:$work/arrived"
    expect_status 0
    cmp "$work/sent" "$work/arrived" || fail "another file arrives"
    run on_this_machine --connect-timeout 2 shell "10.203.77.9:$port" -- true
    expect_status 255
    expect_err 'unreachable|no route|no answer|timed out'
}

cut_cable() {
    two_machines
    local shell copy process began
    # Data, as holes are not sent.
    head -c 1G /dev/urandom >"$work/large"
    start ip netns exec "$here" "$LEGATUS" shell "$host" --linger 1 -- sh -c "$forks" >"$work/cut.out" 2>"$work/cut.err" </dev/null
    shell=$started
    mkdir "$work/cut"
    # Slow enough to be cut in the middle.
    tc -n "$here" qdisc add dev cable root tbf rate 200mbit burst 64kb latency 100ms 2>/dev/null || true
    start ip netns exec "$here" "$LEGATUS" cp --reconnect 0 "$work/large" "$host:$work/cut/large" >"$out" 2>"$err" </dev/null
    copy=$started
    await 10 "all four fork" eval '(($(wc -l <"$work/cut.out") == 4))'
    await 10 "the copy is under way" eval '(($(sed -n "s/^wchar: //p" "/proc/$copy/io") > 4 << 20))'
    ip -n "$there" link set cable down
    began=$SECONDS
    await_exit 60 "$shell"
    expect_status 255
    grep -Eqi 'lost|connection' "$work/cut.err" || fail "the client does not say that the connection was lost: $(<"$work/cut.err")"
    await_exit 60 "$copy"
    expect_status 255
    expect_err 'lost|connection'
    below "seconds until the clients notice" 45 $((SECONDS - began))
    while read -r process; do await 40 "process $process ends with the connection" gone "$process"; done <"$work/cut.out"
    await 40 "the server's children end" eval '(($(process_tree "$server_pid" | wc -l) == 1))'
    [[ ! -e $work/cut/large ]] || fail "half a file is at its name"
    same "what is left beside what the next copy goes on with" "" "$(find "$work/cut" -type f ! -name ".large.*.legatus")"
    ip -n "$there" link set cable up
    # Addresses may need a moment to be found again.
    await 20 "the server is there for the next" on_this_machine --connect-timeout 2 shell "$host" -- true
}

# --- leaks -------------------------------------------------------------------------------------------

descriptors() {
    find "/proc/$server_pid/fd" -mindepth 1 | wc -l
}

no_leaks() {
    local calls=300 before memory
    if ((full)); then calls=10000; fi
    start_server
    local number
    for number in {1..50}; do "$LEGATUS" shell "$host" -- true; done
    await 10 "the connections are closed" eval '(($(process_tree "$server_pid" | wc -l) == 1))'
    before=$(descriptors)
    memory=$(tree_memory "$server_pid")
    for ((number = 0; number < calls; number++)); do
        "$LEGATUS" shell "$host" -- true || fail "call $number of $calls"
    done
    await 10 "all processes have ended" eval '(($(process_tree "$server_pid" | wc -l) == 1))'
    await 10 "descriptors are as before ($before)" eval '(($(descriptors) <= before))'
    below "memory after $calls calls (KiB)" $((memory + 8 * 1024)) "$(tree_memory "$server_pid")"
}

check "it refuses to start with what it cannot keep" refuses_to_start
check "calls run as another user, with nothing of root's" runs_as_another_user
check "commands inherit nothing of the server's" nothing_is_inherited
check "without a policy it says so" without_policy
check "the policy decides, is reloaded, and a broken one changes nothing" policy
check "the audit tells begin and end of each call" audit
check "hostile arguments cannot forge the audit" hostile_names_in_the_audit
check "a call that cannot be audited is refused" audit_on_a_full_disk
check "without an audit it does not start" unwritable_audit
check "limits are kept, and told" limits
check "new certificates are taken, broken ones are not" new_certificates
check "SIGTERM drains" drains
check "draining has a bound" drain_is_bounded
check "a killed server leaves no process behind" killed_server_leaves_no_process
check "it takes a socket that it is given" socket_from_python
check "systemd starts it at the first connection" socket_from_systemd
check "it tells systemd that it is ready, and stopping" tells_systemd
check "info tells about the server" info
check "shutdown ends it" shut_down
check "restart refuses no connection and ends no call" restart
check "a restart that fails changes nothing" broken_restart
check "a killed client takes its whole process tree along" killed_client_ends_the_tree
check "daemons outlive a call that ends by itself" daemons_stay
check "it works from one machine to another" over_a_network
check "a cut cable ends calls on both sides" cut_cable
check "calls leave no memory, descriptors or processes behind" no_leaks
finish

#!/usr/bin/env bash
# Forwarding: sockets of either side reached from the other, for as long as the server or its successor lives.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=two_hosts.sh
source "$(dirname "$0")/two_hosts.sh"

# start_forward ARG...: sets forward_pid. forward_port N: the port of its Nth listener.
start_forward() {
    : >"$work/forward.err"
    start "$LEGATUS" --json forward web1 "$@" >"$work/forward.out" 2>"$work/forward.err"
    forward_pid=$started
    await 10 "everything is forwarded" forwarded "$#"
}
forwarded() {
    (($(grep -c '"forwarding"' "$work/forward.out") * 2 == $1))
}
forward_port() {
    sed -n 's/.*"forwarding".*"listening":\["[^"]*:\([0-9]*\)".*/\1/p' "$work/forward.out" | sed -n "$1p"
}

forward_kinds() {
    start_web
    start_forward -L "0:localhost:$web_port" -R "0:localhost:$web_port" -D 0 -L "$work/s1:localhost:$web_port" \
        -R "$work/s2:localhost:$web_port"
    local port
    for port in 1 2; do
        cmp <(curl -s "http://127.0.0.1:$(forward_port "$port")/large") "$work/web/large" || fail "route $port"
    done
    local socket
    for socket in s1 s2; do
        cmp <(curl -s --unix-socket "$work/$socket" http://x/large) "$work/web/large" || fail "$socket"
        same "mode of $socket" 600 "$(stat -c %a "$work/$socket")"
    done
    kill -INT "$forward_pid"
    await_exit 10 "$forward_pid"
    same "status" 130 "$status"
    [[ ! -e $work/s1 ]] || fail "the socket here is left behind"
    await 10 "the socket there is removed" test ! -e "$work/s2"
    run legatus forward web1 -W "localhost:$web_port" < <(printf 'GET /small HTTP/1.0\r\n\r\n')
    grep -q hello "$out" || fail "-W carries nothing"
    run legatus forward web1 -W localhost:1
    expect_status 255
    expect_err refused
    run "$work/ours/ssh" -W "localhost:$web_port" web1 < <(printf 'GET /small HTTP/1.0\r\n\r\n')
    grep -q hello "$out" || fail "-W of ssh carries nothing"
    run legatus forward web1 -L 127.0.0.1:80x:a:80
    expect_status 255
}

# A name that only the far end knows: its server runs where /etc/hosts is another file.
names_at_the_far_end() {
    start_web
    printf '127.0.0.1 localhost only-there.example\n' >"$work/hosts"
    # shellcheck disable=SC2016 # for the inner shell
    inside=(unshare --mount sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$work/hosts")
    start_server
    inside=()
    start "$LEGATUS" --json forward "$host" -D 0 >"$work/forward.out"
    await 10 "the proxy listens" forwarded 2
    local proxy
    proxy=$(forward_port 1)
    run curl -s --max-time 10 "http://only-there.example:$web_port/small"
    expect_status 6
    run curl -s --max-time 10 --proxy "socks5h://127.0.0.1:$proxy" "http://only-there.example:$web_port/small"
    expect_status 0
    expect_out hello
    run curl -s --max-time 10 --proxy "socks5h://127.0.0.1:$proxy" "http://nosuch.invalid/"
    expect_status 97
}

judged=()
if ((full)); then judged=(judged); fi

stuck_connection() {
    start_web
    start_forward -L "0:localhost:$web_port"
    run timeout 300 python3 "$checks/forward_load.py" stuck "$(forward_port 1)" "${judged[@]}"
    expect_status 0
    cat "$out"
}

# A server that is quicker than one for files; sets target_port.
start_target() {
    start python3 "$checks/forward_load.py" target >"$work/target.out"
    await 10 "the target listens" test -s "$work/target.out"
    target_port=$(<"$work/target.out")
}

short_connections() {
    start_target
    start_forward -L "0:localhost:$target_port"
    run timeout 180 python3 "$checks/forward_load.py" short "$(forward_port 1)" "$forward_pid" "$server1_pid" \
        $((full ? 60 : 8)) 1000 "${judged[@]}"
    expect_status 0
    cat "$out"
}

half_close() {
    start_target
    start_forward -L "0:localhost:$target_port" -R "0:localhost:$target_port" -L "$work/h1:localhost:$target_port" \
        -R "$work/h2:$work/h1" -L "0:$work/h2"
    local number
    for number in 1 2 3; do
        run timeout 60 python3 "$checks/forward_load.py" halves "$(forward_port "$number")"
        expect_status 0
    done
    run timeout 60 legatus forward web1 -W "localhost:$target_port" < <(printf 'count\nfour')
    expect_status 0
    expect_out 4
}

allow_lists() {
    start_web
    cat >"$work/server.toml" <<LINES
[settings.forward]
connect = ["localhost:$web_port"]
listen = []
connect-unix = ["/run/allowed.sock"]
[settings.shell.subsystems]
words = ["/bin/echo", "a b", "c"]
sftp = []
LINES
    start_server --config "$work/server.toml"
    run legatus forward "$host" -W "localhost:$web_port" < <(printf 'GET /small HTTP/1.0\r\n\r\n')
    expect_status 0
    run legatus forward "$host" -W localhost:22
    expect_status 255
    expect_err denied
    run legatus forward "$host" -R 0:localhost:22
    expect_status 255
    expect_err 'do not let it listen'
    run legatus forward "$host" -W /run/other.sock
    expect_status 255
    expect_err denied
    run legatus shell "$host" --subsystem words
    expect_out 'a b c'
    run legatus shell "$host" --subsystem sftp
    expect_status 255
    expect_err 'no subsystem'
    does_not_start=("$LEGATUS" serve --listen 127.0.0.1:0 --cert "$pki/localhost.crt" --key "$pki/localhost.key" --ca "$pki/ca.crt")
    local bad
    for bad in 'conect = ["*:*"]' 'connect = ["x"]'; do
        printf '[settings.forward]\n%s\n' "$bad" >"$work/bad.toml"
        run timeout 10 "${does_not_start[@]}" "${run_as[@]}" --state-dir "$work/state" --config "$work/bad.toml"
        ((status == 255)) || fail "it starts with $bad"
        expect_err 'settings.forward'
    done
}

# Without settings a client gets neither a reserved port nor one that others reach.
default_listeners() {
    run legatus forward web1 -R 80:localhost:22
    expect_status 255
    expect_err 'do not let it listen'
    run legatus forward web1 -R '*:0:localhost:22'
    expect_status 255
    run legatus forward web1 -R '0.0.0.0:0:localhost:22'
    expect_status 255
}

users_rights() {
    mkdir -m 700 "$work/private"
    start python3 "$checks/web_server.py" "$work" "$work/private/socket"
    await 10 "the socket is there" test -S "$work/private/socket"
    run_as=(--run-as nobody)
    start_server
    run legatus forward "$host" -W "$work/private/socket"
    expect_status 255
    expect_err 'permission denied'
    run legatus forward "$host" -R "$work/private/another:localhost:1"
    expect_status 255
    expect_err 'permission denied'
}

jumps() {
    run "$work/ours/ssh" -J web2 web1 'echo through'
    expect_status 0
    expect_out through
    run "$work/ours/ssh" -J web2,web1 web2 'echo further'
    expect_out further
    run "$work/ours/ssh" -J nosuch.invalid web1 true
    expect_status 255
    run "$work/ours/ssh" -J web2 -p 1 web1 true
    expect_status 255
    expect_err 'through web2.*refused'
}

# The host on the way is killed, and served again; what runs at its end goes on.
comes_back_through_a_jump() {
    start_server
    start "$work/ours/ssh" -J "$host" web1 "echo begun; until test -e '$work/on'; do sleep 0.1; done; echo goes on" \
        >"$work/jumped" 2>"$work/jumped.err"
    local client=$started
    await 10 "it has begun" grep -q begun "$work/jumped"
    kill -KILL "$server_pid"
    await 20 "the loss is told" grep -q 'connection lost' "$work/jumped.err"
    serve_again
    await 30 "it is connected again" grep -q 'connected again' "$work/jumped.err"
    : >"$work/on"
    await_exit 30 "$client"
    same "status" 0 "$status"
    same "output" $'begun\ngoes on' "$(<"$work/jumped")"
}

lost_server() {
    start_server
    start "$LEGATUS" forward "$host" -L 0:localhost:1 --reconnect 0 2>"$work/forward.err"
    await 10 "it is forwarded" grep -q forwarding "$work/forward.err"
    kill -KILL "$server_pid"
    await_exit 40 "$started"
    same "status" 255 "$status"
    grep -q lost "$work/forward.err" || fail "it does not say that the connection is lost"
}

# The process that follows takes new connections, and what is open goes on; so it does when the server was killed.
forward_goes_on() {
    start_web
    start_server
    start "$LEGATUS" --json forward "$host" -L "0:localhost:$web_port" -R "0:localhost:$web_port" \
        >"$work/forward.out" 2>"$work/forward.err"
    local client=$started here there idle
    await 10 "everything is forwarded" forwarded 4
    here=$(forward_port 1) there=$(forward_port 2)
    # A connection in which nothing moves meanwhile.
    start python3 -c '
import os, socket, sys, time
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as opened:
    opened.sendall(b"GET /small HTTP/1.0\r\n")
    print("open", flush=True)
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.05)
    opened.sendall(b"\r\n")
    print(opened.makefile().read())
' "$here" "$work/go" >"$work/idle"
    idle=$started
    await 10 "a connection is open" grep -q open "$work/idle"
    run legatus restart "$host"
    expect_status 0
    remember "$(sed -n 's/^process \([0-9]*\) has taken over$/\1/p' "$out")"
    server_pid=${pids[-1]}
    await 10 "the server listens again" forwarded 6
    same "the port there" "$there" "$(forward_port 3)"
    same "through the new process" hello "$(curl -s "http://127.0.0.1:$here/small")"
    same "from the new process" hello "$(curl -s "http://127.0.0.1:$there/small")"
    touch "$work/go"
    await_exit 20 "$idle"
    expect_status 0
    grep -q hello "$work/idle" || fail "what was open has not gone on: $(<"$work/idle")"
    kill -KILL "$server_pid"
    serve_again
    await 40 "the server listens once more" forwarded 8
    same "through the new server" hello "$(curl -s "http://127.0.0.1:$here/small")"
    same "from the new server" hello "$(curl -s "http://127.0.0.1:$there/small")"
    running "$client" || fail "the client has ended: $(<"$work/forward.err")"
    kill -INT "$client"
    await_exit 10 "$client"
    expect_status 130
}

sessions_with_forwardings() {
    start_web
    run "$work/ours/ssh" -o ExitOnForwardFailure=yes -R "0:localhost:$web_port" web1 'sleep 0'
    expect_status 0
    expect_err 'allocated port [0-9]+ for remote forward'
    run timeout 10 "$work/ours/ssh" -L "$web_port:localhost:1" web1 'echo goes on'
    expect_status 0
    expect_out 'goes on'
    expect_err 'cannot forward'
    run timeout 10 "$work/ours/ssh" -o ExitOnForwardFailure=yes -L "$web_port:localhost:1" web1 'echo goes on'
    expect_status 255
    [[ ! -s $out ]] || fail "the command ran"
}

check "forward: -L, -R, Unix sockets on either side, -W" forward_kinds
check "forward: names are looked up at the far end of -D" names_at_the_far_end
check "forward: each direction of a connection ends alone" half_close
check "forward: eight connections, one stuck" stuck_connection
check "forward: a thousand short connections a second, no leak" short_connections
check "forward: the server's lists of targets, listeners and subsystems" allow_lists
check "forward: listeners are loopback and unprivileged by default" default_listeners
check "forward: Unix sockets are opened with the user's rights" users_rights
check "forward: -J through another host" jumps
check "forward: -J comes back when the host on the way was killed" comes_back_through_a_jump
check "forward: a lost server ends it with status 255" lost_server
check "forward: goes on when the server is restarted or was killed" forward_goes_on
check "forward: -R and -L beside a session" sessions_with_forwardings

finish

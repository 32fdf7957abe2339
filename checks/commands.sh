#!/usr/bin/env bash
# Commands, lines and scripts on another machine: streams, status, signals, arguments, memory.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
start_server

separate_streams() {
    run legatus shell "$1" -- sh -c 'echo out; echo err >&2; exit 7'
    expect_status 7
    expect_out out
    same "standard error" err "$(<"$err")"
}

ten_million_lines() {
    local here there
    here=$(seq 1 10000000 | sha256sum)
    there=$(legatus shell "$host" -- seq 1 10000000 | sha256sum)
    same digest "$here" "$there"
}

stdin_through() {
    head -c 50M /dev/urandom >"$work/input"
    same digest "$(sha256sum <"$work/input")" "$(legatus shell "$host" -- sha256sum <"$work/input")"
    same "bytes of an empty input" 0 "$(legatus shell "$host" -- wc -c </dev/null)"
    legatus shell "$host" -- cat <"$work/input" >"$out"
    cmp "$out" "$work/input" || fail "cat gives other bytes back"
}

every_byte_value() {
    local byte
    for byte in {0..255}; do printf '%b' "\\x$(printf %x "$byte")"; done >"$work/bytes"
    same "number of bytes" 256 "$(wc -c <"$work/bytes")"
    legatus shell "$host" -- cat <"$work/bytes" >"$out"
    cmp "$out" "$work/bytes" || fail "stdin and stdout"
    legatus shell "$host" -- sh -c 'cat >&2' <"$work/bytes" 2>"$err" >"$out"
    cmp "$err" "$work/bytes" || fail "stderr"
}

exit_statuses() {
    local wanted
    for wanted in 0 1 42 125 130 254 255; do
        run legatus shell "$host" -- sh -c "exit $wanted"
        expect_status "$wanted"
        expect_no_err
    done
}

ended_by_signals() {
    run legatus shell "$host" -- sh -c 'kill -TERM $$'
    expect_status 143
    expect_err signal
    run legatus shell "$host" -- sh -c 'kill -KILL $$'
    expect_status 137
    run legatus --json shell "$host" -- sh -c 'kill -HUP $$'
    expect_status 129
    grep -q '"signal":1' "$out" || fail "--json does not tell the signal"
}

cannot_be_run() {
    run legatus shell "$host" -- /no/such/program
    expect_status 127
    expect_err 'no/such/program'
    run legatus shell "$host" -- no-such-program-in-path
    expect_status 127
    run legatus shell "$host" -- /etc/passwd
    expect_status 126
    expect_err 'permission denied'
    run legatus shell "$host" -- /etc
    expect_status 126
    run legatus shell "$host" -c no-such-program-in-path
    expect_status 127
}

environment_and_folder() {
    run legatus shell "$host" --env 'A=b c' --env EMPTY= --env 'EQ=x=y' --cwd /usr -- \
        sh -c 'echo "$A,$EMPTY,$EQ,$PWD"'
    expect_status 0
    expect_out 'b c,,x=y,/usr'
    run legatus shell "$host" --cwd /no/such/folder -- pwd
    expect_status 255
    expect_err '/no/such/folder.*no such file'
    run legatus shell "$host" --env NOVALUE -- env
    expect_status 2 255
    run legatus shell "$host" -- env
    # Nothing of the server's or the client's own environment passes.
    if grep -E '^(LEGATUS_(CERT|KEY|CA)|XDG_CONFIG_HOME)=' "$out"; then fail "environment leaks"; fi
}

deadline() {
    run legatus shell "$host" --timeout 1 -- sh -c 'echo $$; exec sleep 1000'
    expect_status 124
    expect_err timeout
    await 5 "the command ends with its call" gone "$(<"$out")"
    run legatus shell "$host" --timeout 20 -- true
    expect_status 0
}

one_line() {
    run legatus shell "$host" -c 'printf "%s|" "a b" c | tr abc xyz; echo "  $((6*7))"; exit 5'
    expect_status 5
    expect_out 'x y|z|  42'
}

arguments_arrive_exactly() {
    local words=(plain 'two words' $'new\nline' "single'quote" 'double"quote' 'back\slash' '' ' ' '*' '$HOME'
        -- --help -c ';' '&&' $'\t' $'\xff\xfe\x80' 'Lëgatus' '~' '!' '`id`')
    printf '%s\0' "${words[@]}" >"$work/words"
    legatus shell "$host" -- printf '%s\0' "${words[@]}" | cmp - "$work/words" || fail "other arguments arrive"
    # A megabyte of arguments is too much for one call, and says so; a hundred thousand bytes are not.
    local long
    long=$(head -c 100000 /dev/zero | tr '\0' x)
    same "length of a long argument" 100000 "$(legatus shell "$host" -- printf %s "$long" | wc -c)"
}

# Fails if anything was left on the disk that has the name or the content of the script.
expect_nothing_left() {
    local places=(/tmp /var/tmp /dev/shm /run "$HOME" /var/lib/legatus) left
    left=$(
        find "${places[@]}" -xdev -path "$work" -prune -o -newer "$work/before" \
            \( -name '*script-of-checks*' -print -o -type f -exec grep -lF "$marker" {} + \) 2>/dev/null
    ) || true # some other process's file may vanish meanwhile
    [[ ! $left ]] || fail "left behind: $left"
}

begin_script() {
    marker=marker-$RANDOM$RANDOM$RANDOM
    script=$work/script-of-checks
    touch "$work/before"
}

scripts_leave_nothing() {
    begin_script
    printf '%s\n' '#!/usr/bin/env bash' "# $marker" 'echo "$# $1 $2"; cat; exit 9' >"$script"
    run legatus shell "$host" --script "$script" -- 'a b' c <<<input
    expect_status 9
    expect_out $'2 a b c\ninput'
    printf 'import sys # %s\nprint(sys.argv[1:], sys.stdin.read())\n' "$marker" >"$script.py"
    run legatus shell "$host" --interpreter python3 --script "$script.py" -- x y <<<z
    expect_status 0
    expect_out "['x', 'y'] z"
    expect_nothing_left
}

killed_scripts_leave_nothing() {
    begin_script
    printf '%s\n' '#!/bin/sh' "# $marker" 'echo $$; sleep 1000' >"$script"
    start "$LEGATUS" shell "$host" --linger 1 --script "$script" >"$out" 2>"$err" </dev/null
    await 10 "the script runs" grep -q . "$out"
    kill -KILL "$started"
    await 10 "the script ends when its client does not come back" gone "$(<"$out")"
    expect_nothing_left
}

half_uploaded_scripts_never_run() {
    begin_script
    rm -f "$script"
    mkfifo "$script"
    start "$LEGATUS" shell "$host" --linger 1 --interpreter sh --script "$script" >"$out" 2>"$err" </dev/null
    exec 9>"$script"
    printf 'touch %q # %s\n' "$work/ran" "$marker" >&9
    kill -KILL "$started"
    exec 9>&-
    expect_server_alive
    [[ ! -e $work/ran ]] || fail "half a script was run"
    expect_nothing_left
}

scripts_that_cannot_run() {
    echo 'echo no interpreter' >"$work/script"
    run legatus shell "$host" --script "$work/script"
    expect_status 255
    expect_err '#!|interpreter'
    expect_err hint
    printf '#!/no/such/interpreter\necho x\n' >"$work/script"
    run legatus shell "$host" --script "$work/script"
    expect_status 255 127 126
    expect_err '/no/such/interpreter'
    run legatus shell "$host" --interpreter no-such-interpreter --script "$work/script"
    expect_status 255 127 126
    expect_err 'no-such-interpreter'
    run legatus shell "$host" --script "$work/no-such-script"
    expect_status 255
    expect_err 'no-such-script.*no such file'
    : >"$work/script"
    run legatus shell "$host" --script "$work/script"
    expect_status 255
    expect_err '#!|interpreter|empty'
    expect_server_alive
}

a_shell_that_does_not_exist() {
    need_root
    unshare -m true 2>/dev/null || skip "no mount namespaces here"
    sed 's#^nobody:.*#nobody:x:65534:65534:nobody:/:/no/such/shell#' /etc/passwd >"$work/passwd"
    chmod 644 "$work/passwd"
    local inside=(unshare -m sh -c 'mount --bind "$0" /etc/passwd && exec "$@"' "$work/passwd")
    local run_as=(--run-as nobody)
    start_server
    run legatus shell "$host" -c true
    expect_status 255 127
    expect_err '/no/such/shell.*no such file'
    run legatus shell "$host" </dev/null
    expect_status 255 127
    expect_err '/no/such/shell.*no such file'
    run legatus shell "$host" -- echo 'without a shell'
    expect_status 0
    expect_out 'without a shell'
}

interrupts() {
    start "$LEGATUS" shell "$host" -- sh -c 'trap "echo interrupted; exit 3" INT; echo ready; while :; do sleep 0.1; done' \
        >"$out" 2>"$err" </dev/null
    await 10 "the command is ready" grep -q ready "$out"
    kill -INT "$started"
    await_exit 10 "$started"
    expect_status 3
    grep -q interrupted "$out" || fail "the command got no SIGINT"
    start "$LEGATUS" shell "$host" -- sh -c 'echo $$; exec sleep 1000' >"$out" 2>"$err" </dev/null
    await 10 "the command runs" grep -q . "$out"
    kill -INT "$started"
    await_exit 10 "$started"
    expect_status 130
    await 5 "the remote sleep ends" gone "$(<"$out")"
}

interrupts_pass_unread_input() {
    start "$LEGATUS" shell "$host" -- sh -c 'echo $$; exec sleep 1000' >"$out" 2>"$err" </dev/zero
    await 10 "the command runs" grep -q . "$out"
    # The windows fill up: the client reads no more.
    local before=-1 now=0
    while [[ $before != "$now" ]]; do
        before=$now
        sleep 0.3
        now=$(sed -n 's/^rchar: //p' "/proc/$started/io")
    done
    kill -INT "$started"
    await_exit 10 "$started"
    expect_status 130
    await 5 "the remote sleep ends" gone "$(<"$out")"
}

termination_ends_the_command() {
    local signal
    for signal in TERM HUP; do
        # The command insists; it is killed after a grace.
        start "$LEGATUS" shell "$host" -- sh -c 'trap "" TERM HUP INT; echo $$; while :; do sleep 0.1; done' \
            >"$out" 2>"$err" </dev/null
        await 10 "the command runs" grep -q . "$out"
        kill "-$signal" "$started"
        await_exit 10 "$started"
        ((status != 0)) || fail "a client ended by SIG$signal reports success"
        await 10 "the remote command ends" gone "$(<"$out")"
    done
}

two_interrupts_cancel() {
    start "$LEGATUS" shell "$host" -- sh -c 'trap "" INT; echo $$; while :; do sleep 0.1; done' \
        >"$out" 2>"$err" </dev/null
    await 10 "the command runs" grep -q . "$out"
    kill -INT "$started"
    sleep 0.2 # two signals at once are one
    kill -INT "$started"
    await_exit 10 "$started"
    expect_status 130
    await 10 "the remote command ends" gone "$(<"$out")"
}

forced_terminal() {
    run legatus shell "$host" --tty -- sh -c 'tty; tty <&1 >/dev/null && exit 4'
    expect_status 4
    grep -q '^/dev/pts/' "$out" || fail "no terminal"
    run legatus shell "$host" -- tty
    expect_status 1
}

# Peaks of memory, KiB: generous against what is seen (below 30 MiB each), tiny against the data.
peak_limit=$((96 * 1024))

constant_memory() {
    local bytes=5G reader peak_client=0 peak_server=0 now
    if ((full)); then bytes=50G; fi
    mkfifo "$work/stream"
    head -c "$bytes" "$work/stream" | wc -c >"$work/count" &
    reader=$!
    remember "$reader"
    start "$LEGATUS" shell "$host" -- sh -c 'echo $$ >"$0"; exec cat /dev/zero' "$work/remote" \
        >"$work/stream" 2>"$err" </dev/null
    while running "$started"; do
        now=$(tree_memory "$started")
        ((now <= peak_client)) || peak_client=$now
        now=$(tree_memory "$server_pid")
        ((now <= peak_server)) || peak_server=$now
        sleep 0.2
    done
    await_exit 5 "$started"
    ((status == 141)) || fail "status $status instead of 141 (SIGPIPE)"
    await 10 "the reader ends" gone "$reader"
    same "bytes that arrived" "$(numfmt --from=iec "$bytes")" "$(<"$work/count")"
    await 5 "the remote cat ends when nobody reads" gone "$(<"$work/remote")"
    below "the client's memory (KiB)" "$peak_limit" "$peak_client"
    below "the server's memory with its children (KiB)" "$peak_limit" "$peak_server"
    ((peak_client > 0 && peak_server > 0)) || fail "memory was not measured"
}

unread_input_ends() {
    run timeout 20 bash -c 'yes | "$LEGATUS" shell "$0" -- head -n 1' "$host"
    expect_status 0
    expect_out y
}

stops_with_its_reader() {
    run timeout 20 bash -c '"$LEGATUS" shell "$0" -- yes | head -n 1' "$host"
    expect_status 0
    expect_out y
}

check "out, err and 7 arrive separately" separate_streams "$host"
check "the host local gives out, err and 7" separate_streams local
check "seq 1 10000000 arrives whole" ten_million_lines
check "standard input goes through, with its end" stdin_through
check "all byte values pass both ways" every_byte_value
check "exit statuses are the command's" exit_statuses
check "signals that ended a command are told as 128+n" ended_by_signals
check "commands that cannot be run give 126 and 127" cannot_be_run
check "--env and --cwd hold" environment_and_folder
check "--timeout ends the command with 124" deadline
check "-c runs a line in the shell" one_line
check "arguments arrive byte for byte" arguments_arrive_exactly
check "scripts run and leave nothing behind" scripts_leave_nothing
check "a script whose client is killed leaves nothing behind" killed_scripts_leave_nothing
check "half a script is not run" half_uploaded_scripts_never_run
check "a script without a usable interpreter is an error" scripts_that_cannot_run
check "a login shell that does not exist is an error" a_shell_that_does_not_exist
check "Ctrl-C interrupts the remote command" interrupts
check "Ctrl-C overtakes input that nobody reads" interrupts_pass_unread_input
check "a second Ctrl-C cancels" two_interrupts_cancel
check "ending the client ends the command" termination_ends_the_command
check "--tty forces a terminal" forced_terminal
check "endless output runs in constant memory and ends with its reader" constant_memory
check "endless input ends with the command" unread_input_ends
check "the command ends with its reader" stops_with_its_reader
check "the server is alive after all that" expect_server_alive
finish

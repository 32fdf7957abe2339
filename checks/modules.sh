#!/usr/bin/env bash
# External modules: found, called, changed while the server runs, and held to what they were granted.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
export XDG_DATA_HOME=$work/data
there=$work/modules # the server's
here=$work/data/legatus/modules # the client's
mkdir -p "$there" "$here"
make --quiet --no-print-directory -C "$repository/examples/modules/tail" tail.so
cp -r "$repository/examples/modules/tail" "$repository/examples/modules/http-probe" "$there"
cp -r "$repository/examples/modules/tail" "$repository/examples/modules/http-probe" "$here"
chmod -R go-w "$there" "$here"

cat >"$work/server.toml" <<END
[modules]
dir = ["$there"]
allow-native = true
[modules.grants."examples/tail"]
read = ["/var/log", "/usr/lib/os-release", "/etc/os-release"]
[modules.grants."examples/http-probe"]
connect = ["*:8080"]
END
sed "s|^dir = .*|dir = [\"$there\"]|" "$work/server.toml" >"$work/native.toml"

with_modules() {
    start_server --config "$work/server.toml"
}

# As a client whose user allows native modules; only specs are used here, the generic client half runs.
call() {
    legatus --allow-native "$@"
}

are_off_until_allowed() {
    start_server --modules-dir "$there"
    run call tail "$host" /usr/lib/os-release
    expect_status 255
    expect_err 'no module .tail'
    run legatus tail "$host" /usr/lib/os-release
    expect_status 2
    start_server --config "$work/server.toml" --no-external-modules
    run call tail "$host" /usr/lib/os-release
    expect_status 255
}

are_listed_with_their_state() {
    printf '\0asm nonsense' >"$here/broken.wasm"
    run call modules list
    expect_status 0
    grep -Eq "^examples/tail +1\.0\.0 +native +server +read +ready +$here/tail/tail\.so " "$out" || fail "tail is not listed"
    grep -Eq '^local/broken .* broken ' "$out" || fail "the broken one is not listed"
    grep -q '^shell' "$out" || fail "the built-in ones are not listed"
    run legatus modules list
    grep -Eq '^examples/tail .* off .*--allow-native' "$out" || fail "it is not said why tail is off"
    rm "$here/broken.wasm"
    run call modules show tail
    grep -q 'not granted: read /var/log' "$out" || fail "it is not told what is not granted"
}

tail_prints_and_follows() {
    with_modules
    run call tail "$host" --lines 1 /usr/lib/os-release
    expect_status 0
    expect_out "$(tail -n 1 /usr/lib/os-release)"
    local log=/var/log/legatus-check.$$
    printf 'one\ntwo\n' >"$log"
    start "$LEGATUS" --allow-native tail "$host" -n 1 -f "$log" >"$work/followed"
    await 10 "the last line" grep -q two "$work/followed"
    echo three >>"$log"
    await 10 "what was added" grep -q three "$work/followed"
    mv "$log" "$log.1"
    echo four >"$log"
    await 10 "the new file of that name" grep -q four "$work/followed"
    rm -f "$log" "$log.1"
    kill -INT "$started"
    await_exit 10 "$started"
    same "its status" 0 "$status"
    same "what it printed" "two three four" "$(tr '\n' ' ' <"$work/followed" | sed 's/ $//')"
}

a_client_without_the_module_calls_it() {
    with_modules
    export XDG_DATA_HOME=$work/nothing
    run legatus tail "$host" --lines 1 /usr/lib/os-release
    expect_status 0
    expect_out "$(tail -n 1 /usr/lib/os-release)"
    # One-letter forms come from the server, too.
    run legatus tail "$host" -n 1 /usr/lib/os-release
    expect_status 0
    expect_out "$(tail -n 1 /usr/lib/os-release)"
    run legatus tail "$host" -n1 -x /usr/lib/os-release
    expect_status 2
    run legatus --no-external-modules tail "$host" /usr/lib/os-release
    expect_status 2
}

what_was_not_granted_is_denied() {
    with_modules
    run call tail "$host" /etc/passwd
    expect_status 255
    expect_err 'cannot read /etc/passwd: Permission denied'
    run call http-probe "$host" http://127.0.0.1:9/
    expect_status 2
    grep -q 'Permission denied' "$out" || fail "it is not told that it was denied"
}

probes_from_the_server() {
    with_modules
    mkdir "$work/www"
    echo hello >"$work/www/index.html"
    python3 -m http.server --bind 127.0.0.1 --directory "$work/www" 8080 >/dev/null 2>&1 &
    remember $!
    await 10 "the web server" bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'
    run call http-probe "$host" http://127.0.0.1:8080/
    expect_status 0
    grep -q '"status": 200' "$out" || fail "no status"
    run call http-probe "$host" http://127.0.0.1:8080/missing
    expect_status 1
}

changes_while_the_server_runs() {
    with_modules
    cp -r "$there/tail" "$work/tail"
    run call tail "$host" --lines 1 /usr/lib/os-release
    expect_status 0
    rm -r "$there/tail"
    # shellcheck disable=SC2016
    await 10 "it is gone" bash -c '! timeout 10 "$LEGATUS" --allow-native tail "$1" /usr/lib/os-release' - "$host"
    cp -r "$work/tail" "$there/tail"
    chmod -R go-w "$there/tail"
    # shellcheck disable=SC2016
    await 10 "it is back" bash -c 'timeout 10 "$LEGATUS" --allow-native tail "$1" /usr/lib/os-release' - "$host"
    chmod o+w "$there/tail/tail.so"
    # shellcheck disable=SC2016
    await 10 "it is refused" bash -c '! timeout 10 "$LEGATUS" --allow-native tail "$1" /usr/lib/os-release' - "$host"
    grep -q 'others may write it' "$server_log" || fail "the log does not tell why"
    chmod o-w "$there/tail/tail.so"
    expect_server_alive
}

runs_as_the_user_of_calls() {
    need_root
    local run_as=(--run-as nobody)
    with_modules
    printf 'for root only\n' >"/var/log/legatus-root.$$"
    chmod 600 "/var/log/legatus-root.$$"
    run call tail "$host" "/var/log/legatus-root.$$"
    rm -f "/var/log/legatus-root.$$"
    expect_status 255
    expect_err 'Permission denied'
}

runs_as_one_user_for_each_identity() {
    need_root
    local run_as=()
    {
        cat "$work/server.toml"
        printf '[[user]]\nidentity = "alice"\nuser = "nobody"\n'
    } >"$work/users.toml"
    start_server --config "$work/users.toml"
    run call tail "$host" --lines 1 /usr/lib/os-release
    expect_status 0
    printf 'for root only\n' >"/var/log/legatus-root.$$"
    chmod 600 "/var/log/legatus-root.$$"
    run call tail "$host" "/var/log/legatus-root.$$"
    rm -f "/var/log/legatus-root.$$"
    expect_status 255
    expect_err 'Permission denied'
    sed -i 's/"alice"/"somebody"/' "$work/users.toml"
    start_server --config "$work/users.toml"
    run call tail "$host" --lines 1 /usr/lib/os-release
    expect_status 255
    expect_err 'no user of the server.s system belongs to .alice'
}

are_installed_where_that_is_allowed() {
    start_server --config "$work/server.toml"
    run call modules install "$there/tail" "$host"
    expect_status 255
    expect_err 'install-module'
    mkdir "$work/installed"
    sed "s|^dir = .*|dir = [\"$work/installed\"]\ninstall-dir = \"$work/installed\"|" "$work/server.toml" >"$work/install.toml"
    start_server --config "$work/install.toml"
    run call modules install "$there/tail" "$host"
    expect_status 0
    expect_out 'installed examples/tail 1.0.0 (native)'
    run call tail "$host" --lines 1 /usr/lib/os-release
    expect_status 0
    mkdir "$work/installed/broken"
    printf '\0asm nonsense' >"$work/installed/broken/broken.wasm"
    listed_as_broken() { legatus modules list "$host" | grep -Eq '^local/broken .* broken .*no WebAssembly component'; }
    await 10 "the broken one is listed" listed_as_broken
    run legatus modules list "$host"
    grep -Eq '^examples/tail +1\.0\.0 +native +server +read +ready' "$out" || fail "the installed one is not listed"
    run call modules install "$work/installed/broken/broken.wasm" "$host"
    expect_status 255
    expect_err 'no WebAssembly component'
}

dies_with_its_call_and_leaves_nothing() {
    with_modules
    local count=40 i
    if ((full)); then count=1000; fi
    local descriptors
    descriptors=$(find "/proc/$server_pid/fd" | wc -l)
    for ((i = 0; i < count; i++)); do
        call "tail" "$host" --lines 1 /usr/lib/os-release >/dev/null &
        # Eight at a time.
        if ((i >= 7)); then wait -n || fail "a call failed"; fi
    done
    run call tail "$host" --lines 1 /usr/lib/os-release
    expect_status 0
    start "$LEGATUS" --allow-native tail "$host" -f /usr/lib/os-release >"$work/followed"
    await 10 "it follows" test -s "$work/followed"
    kill -KILL "$started"
    await 20 "no module host is left" eval '(($(process_tree "$server_pid" | wc -l) == 1))'
    await 10 "no descriptor is left" bash -c "[[ \$(find /proc/$server_pid/fd | wc -l) -le $((descriptors + 2)) ]]"
    expect_server_alive
}

projects_build_and_pass_their_own_test() {
    local language
    for language in c python rust javascript; do
        command -v node >/dev/null || [[ $language != javascript ]] || continue
        run legatus modules new "try-$language" --lang "$language" --dir "$work/$language"
        expect_status 0
        run make --quiet -C "$work/$language"
        expect_status 0
        run make --quiet -C "$work/$language" test LEGATUS="$LEGATUS"
        expect_status 0
        grep -q 'world: status 0' "$out" || fail "its example was not run"
        grep -Eq '^used     server half: memory .* of [0-9]+ MiB, processor ' "$out" || fail "it is not told what it used"
    done
    run legatus modules check "$work/c"
    expect_status 0
    grep -q '^local/try-c 0.1.0' "$out" || fail "it is not shown"
    run legatus modules test "$work/c" -- Rome
    expect_out 'hello, Rome'
}

signatures_are_asked_for() {
    cp -r "$there" "$work/signed"
    run legatus modules sign "$work/signed/tail" --new-key "$work/key"
    expect_status 0
    run legatus modules verify "$work/signed/tail" --trusted-key "$work/key.pub"
    expect_status 0
    cat >"$work/signed.toml" <<END
[modules]
dir = ["$work/signed"]
allow-native = true
require-signature = true
trusted-keys = ["$work/key.pub"]
[modules.grants."examples/tail"]
read = ["/usr/lib/os-release", "/etc/os-release"]
END
    start_server --config "$work/signed.toml"
    run call tail "$host" --lines 1 /usr/lib/os-release
    expect_status 0
    run call http-probe "$host" http://127.0.0.1:8080/
    expect_status 255
    expect_err 'no module'
    echo '# changed' >>"$work/signed/tail/module.toml"
    run legatus modules verify "$work/signed/tail" --trusted-key "$work/key.pub"
    expect_status 255
    expect_err 'module.toml. is not the one that was signed'
}

check modules_are_off_until_allowed are_off_until_allowed
check modules_are_listed_with_their_state are_listed_with_their_state
check modules_tail_prints_and_follows tail_prints_and_follows
check modules_are_called_by_clients_without_them a_client_without_the_module_calls_it
check modules_reach_only_what_was_granted what_was_not_granted_is_denied
check modules_probe_from_the_server probes_from_the_server
check modules_change_while_the_server_runs changes_while_the_server_runs
check modules_run_as_the_user_of_calls runs_as_the_user_of_calls
check modules_run_as_one_user_for_each_identity runs_as_one_user_for_each_identity
check modules_are_installed_where_that_is_allowed are_installed_where_that_is_allowed
check modules_die_with_their_call dies_with_its_call_and_leaves_nothing
check modules_made_by_new_pass_their_test projects_build_and_pass_their_own_test
check modules_are_signed_where_that_is_asked_for signatures_are_asked_for
finish

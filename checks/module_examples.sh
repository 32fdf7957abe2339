#!/usr/bin/env bash
# The examples of modules whose languages need a toolchain: built, and called by a client that has none of
# them. `hash` is a library here: its source makes both, and a component needs more than the compiler of this project.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
export XDG_DATA_HOME=$work/data
examples=$repository/examples/modules
target=$(realpath -m "${CARGO_TARGET_DIR:-$repository/target}")
data=$work/served
# What was compiled once is kept.
state_dir=$work/state
mkdir -p "$data/below"
printf 'to be or not to be\nthat is the question\n' >"$data/one"
printf '\0\377 no end of line' >"$data/below/two"

# Quiet unless it fails.
quietly() {
    "$@" >"$work/built" 2>&1 || {
        tail -n 40 "$work/built"
        return 1
    }
}

# toolchain LANGUAGE: sets what make(1) needs for it.
toolchain() {
    local line
    quietly "$repository/bench/toolchains.sh" "$target/ci-tools/guests" "$1"
    while IFS= read -r line; do export "${line?}"; done < <(grep '^COMPONENTIZE_' "$work/built")
}

# folder NAME: sets `there`, where a check's modules are.
folder() {
    there=$work/modules.$1
    mkdir -p "$there"
}

# put NAME: the example with its manifest and artefact, and nothing else of its folder.
put() {
    mkdir "$there/$1"
    cp "$examples/$1/module.toml" "$examples/$1/$1.wasm" "$there/$1"
    chmod -R go-w "$there"
}

# serve [GRANTS]: a server with the modules in $there.
serve() {
    cat >"$work/server.toml" <<END
[modules]
dir = ["$there"]
allow-native = true
[modules.grants."examples/hash"]
read = ["$data"]
[modules.grants."examples/facts"]
read = [${1:-}]
END
    launch_server --listen 127.0.0.1:0 "${run_as[@]}" --config "$work/server.toml"
    # An interpreter is compiled at its first sight, which takes ten seconds of a processor.
    await 120 "the server says where it listens" said_port
    host=127.0.0.1:$port
}

hash_tells_digests_of_files() {
    folder hash
    quietly cargo test --locked --manifest-path "$examples/hash/Cargo.toml" --target-dir "$target/guests"
    quietly cargo build --release --locked --manifest-path "$examples/hash/Cargo.toml" --target-dir "$target/guests"
    mkdir "$there/hash"
    cp "$target/guests/release/libhash.so" "$there/hash/hash.so"
    sed -e 's/"wasm"/"native"/' -e 's/hash\.wasm/hash.so/' "$examples/hash/module.toml" >"$there/hash/module.toml"
    # Where this check's files are, whatever that is.
    sed -i "s|^read = .*|read = [\"$data\"]|" "$there/hash/module.toml"
    chmod -R go-w "$there"
    serve
    run legatus hash "$host" "$data"
    expect_status 0
    expect_out "$(cd "$data" && sha256sum "$data/below/two" "$data/one")"
    run legatus hash "$host" -a sha512 "$data/one"
    expect_out "$(sha512sum "$data/one")"
    run legatus hash "$host" /etc/passwd "$data/one"
    expect_status 255
    expect_err 'cannot read ./etc/passwd.: Permission denied'
    expect_out "$(sha256sum "$data/one")"
    run legatus hash "$host" -a md5 "$data/one"
    expect_status 255
    expect_err 'no algorithm .md5'
}

facts_tell_of_the_server() {
    toolchain python
    folder facts
    quietly make -C "$examples/facts"
    put facts
    serve '"/proc/sys/kernel", "/sys/devices/system", "/usr/lib"'
    run legatus facts "$host"
    expect_status 0
    python3 - "$out" <<'END' || fail "the facts are not those of this machine"
import json, os, socket, sys
told = json.load(open(sys.argv[1]))
assert told["hostname"] == socket.gethostname(), told
assert told["kernel"] == os.uname().release, told
assert told["memory"]["total"] > 0, told
assert set(told["missing"]) <= {"hardware", "system"}, told
END
    run legatus facts "$host" hostname
    [[ $(tr -d ' \n' <"$out") == "{\"hostname\":\"$(uname -n)\",\"missing\":{}}" ]] || fail "it is not the one fact"
    run legatus facts "$host" colour
    expect_status 255
    expect_err 'no fact .colour'
    # What was not granted is missing, and the log tells.
    serve
    run legatus facts "$host" hostname
    expect_status 0
    grep -q 'Permission denied' "$out" || fail "it is not told why the fact is missing"
    grep -q 'denied: it may not open ./proc/sys/kernel/hostname' "$server_log" || fail "the log does not tell"
}

count_comes_from_the_server() {
    toolchain javascript
    folder count
    quietly make -C "$examples/count"
    put count
    serve
    run legatus --yes count "$host" <"$data/one"
    expect_status 0
    expect_out "$(printf '%7d %7d %7d' 2 10 40)"
    run legatus --yes count "$host" "$data/below/two" -l
    expect_out "$(printf '%7d' 0) $data/below/two"
    run legatus --yes count "$host" "$data/nothing"
    expect_status 255
    expect_err 'cannot open'
    # Nobody is there to be asked, and nobody wants it.
    export XDG_DATA_HOME=$work/others
    run legatus count "$host"
    expect_status 255 2
    expect_err '--yes'
    run legatus modules check "$there/count"
    expect_status 0
    grep -q '^used     client half: memory' "$out" || fail "it is not told what its client half uses"
}

a_client_half_from_the_server_is_no_thief() {
    toolchain python
    folder thief
    export HOME=$work/home
    mkdir -p "$HOME/.ssh" "$work/thief"
    echo "the key of the user" >"$HOME/.ssh/id_ed25519"
    sed "s|@HOME@|$HOME|" "$checks/guests/thief.py" >"$work/thief/thief.py"
    quietly "$COMPONENTIZE_PY" -q -d "$repository/wit/v1" -w module componentize -p "$work/thief" -o "$there/thief.wasm" thief
    chmod -R go-w "$there"
    serve
    run legatus --yes thief "$host"
    expect_status 0
    grep -q 'the key' "$out" && fail "it has read the key"
    same "refusals by the system of files" 2 "$(grep -c '^open: Permission denied$' "$out")"
    same "refusals by the contract" 2 "$(grep -c '^open-file: .*it is not on the command line$' "$out")"
    expect_err "denied: it may not open .$HOME/.ssh/id_ed25519"
}

check modules_hash_tells_digests_of_files hash_tells_digests_of_files
check modules_facts_tell_of_the_server facts_tell_of_the_server
check modules_count_comes_from_the_server count_comes_from_the_server
check modules_client_half_from_the_server_is_no_thief a_client_half_from_the_server_is_no_thief
finish

#!/usr/bin/env bash
# Many calls of external modules of each kind beside a shell and a copy: nothing is left of them, and who
# works on the same server hardly notices crashes.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
guests=$repository/bench/harness/guests
there=$work/modules
mkdir -p "$there/frames"

make_guest() {
    (cd "$repository" && cargo test --quiet --workspace --test modules -- make-guest "$1" "$2") >&2 ||
        { echo "FAIL make the guest $1"; exit 1; }
}

compile() {
    cc -O2 -I "$repository/include" "$@"
}

make_guest echo "$there/echo.wasm"
make_guest plain "$there/plain.wasm"
compile -shared -fPIC -o "$there/echo-native.so" "$guests/echo.c"
compile -shared -fPIC -o "$there/crash.so" "$checks/guests/crash.c"
compile -o "$there/frames/echo-frames" "$guests/echo-frames.c"
cat >"$there/frames/module.toml" <<END
name = "echo-frames"
version = "1.0.0"
kind = "executable"
artefact = "echo-frames"
END
chmod -R go-w "$there"

load() {
    local what=$1
    shift
    python3 "$checks/module_load.py" "$what" "$host" "$pki" "$@"
}

# What a process holds beside mapped files, in KiB.
memory() {
    awk '/^Pss_(Anon|Shmem):/ { sum += $2 } END { print sum }' "/proc/$server_pid/smaps_rollup"
}

descriptors() {
    find "/proc/$server_pid/fd" | wc -l
}

# are_back COUNT: no more descriptors than that.
are_back() {
    (($(descriptors) <= $1))
}

leaves_no_process() {
    (($(process_tree "$server_pid" | wc -l) == 1))
}

# A shell that counts and a copy of a file, over and over, until the file `$work/enough` is there.
works_beside() {
    until [[ -e $work/enough ]]; do
        "$LEGATUS" transfer-file "$work/large" "$host:$work/copy" || return 1
        cmp "$work/large" "$work/copy" || return 1
        rm "$work/copy"
    done
}

types_beside() {
    local number answer
    coproc "$LEGATUS" shell "$host" -- cat
    for ((number = 0; ; number++)); do
        [[ ! -e $work/enough ]] || break
        echo "line $number" >&"${COPROC[1]}"
        IFS= read -r -t 20 answer <&"${COPROC[0]}" && [[ $answer == "line $number" ]] || return 1
    done
    ((number > 0))
}

calls_leave_nothing() {
    local count=60 modules=(local/echo-wasm local/plain local/echo-native echo-frames)
    if ((full)); then count=1000; fi
    head -c 8000000 /dev/urandom >"$work/large"
    start_server --modules-dir "$there" --allow-native
    # What the first calls cost once is no leak.
    load calls $((count / 4 + 10)) "${modules[@]}"
    local before_files before_memory round grown least=
    await 10 "the first calls are gone" leaves_no_process
    before_files=$(descriptors)
    for round in 1 2 3; do
        before_memory=$(memory)
        rm -f "$work/enough"
        works_beside >"$work/copies" 2>&1 &
        local copying=$!
        types_beside >"$work/typed" 2>&1 &
        local typing=$!
        remember "$copying" "$typing"
        load calls "$count" "${modules[@]}"
        touch "$work/enough"
        wait "$copying" || fail "a copy beside them failed: $(<"$work/copies")"
        wait "$typing" || fail "the shell beside them failed: $(<"$work/typed")"
        await 20 "no process is left" leaves_no_process
        await 10 "no descriptor is left" are_back "$before_files"
        grown=$(($(memory) - before_memory))
        echo "round $round: $((4 * count)) calls, $grown KiB more" >>"$work/figures"
        if [[ -z $least ]] || ((grown < least)); then least=$grown; fi
    done
    # The allocator keeps what was once needed, now more and now less; what is lost is lost in each round.
    below "memory that grows with each round, in KiB" 1024 "$least"
    expect_server_alive
}

crashes_hurt_nobody() {
    local seconds=6
    if ((full)); then seconds=60; fi
    start_server --modules-dir "$there" --allow-native --log-level error
    local files quiet loaded rate
    files=$(descriptors)
    read -r quiet loaded rate < <(load echo 100 "$seconds" "$LEGATUS") || fail "crashing calls, or the shell, failed"
    echo "echo: $quiet us alone, $loaded us beside $rate crashes a second" >>"$work/figures"
    await 20 "no process is left" leaves_no_process
    await 10 "no descriptor is left" are_back $((files + 1))
    expect_server_alive
    # How fast this machine is decides nothing unless it is asked.
    if ((full)); then
        below "crashes a second that are missing, of 100" 5 $((100 - ${rate%.*}))
        below "microseconds of an echo beside them" $((2 * quiet)) "$loaded"
    fi
}

check modules_leave_nothing_of_many_calls calls_leave_nothing
check modules_that_crash_hurt_nobody crashes_hurt_nobody
sed 's/^/    /' "$work/figures" 2>/dev/null || true
finish

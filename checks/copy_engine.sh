#!/usr/bin/env bash
# Copies at size and under attack: whole trees, bounds, memory, disks of all kinds, distance.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
start_server

quiet_copy() {
    limit=${limit:-3600} run legatus cp "$@"
    expect_status 0
    expect_no_err
}

new_folder() {
    folder=$(mktemp -d "$work/folder.XXXX")
}

# same_to_rsync FROM TO: the contents of two folders, in everything that rsync knows to keep.
same_to_rsync() {
    local differences
    differences=$(rsync -aHAXSnic --delete "$1/" "$2/" | head -n 20)
    [[ ! $differences ]] || fail "rsync finds differences:"$'\n'"$differences"
}

# both_ways FOLDER [OPTION...]: copies its contents up and down.
both_ways() {
    local source=$1
    shift
    quiet_copy --archive "$@" "$source/" "$host:$folder/up/"
    same_to_rsync "$source" "$folder/up"
    quiet_copy --archive "$@" "$host:$source/" "$folder/down/"
    same_to_rsync "$source" "$folder/down"
}

# --- whole trees ------------------------------------------------------------------------------

# killed_whole UP|DOWN WHOM: a tree that is being swapped in, killed in the middle, stays the old one.
killed_whole() {
    start_server
    new_folder
    mkdir "$folder/tree" "$folder/site"
    head -c 64M /dev/urandom >"$folder/tree/1-large"
    echo 'the new one' >"$folder/tree/2-small"
    echo old >"$folder/site/2-small"
    echo old >"$folder/site/3-gone"
    local old to=$folder/site/ from=$folder/tree/ children child
    old=$(cd "$folder/site" && tail -n +1 -- *)
    if [[ $1 == up ]]; then to=$host:$to; else from=$host:$from; fi
    start "$LEGATUS" cp --atomic --delete --reconnect 0 --bandwidth 8M "$from" "$to" >"$out" 2>"$err" </dev/null
    await 20 "a part of the new tree is there" staged_some
    mapfile -t children < <(process_tree "$server_pid")
    case $2 in
    client) kill -KILL "$started" ;;
    server) kill -KILL "$server_pid" ;;
    esac
    await_exit 30 "$started"
    if [[ $2 == server ]]; then
        for child in "${children[@]}"; do await 10 "the server's child ends" gone "$child"; done
        start_server
        if [[ $1 == up ]]; then to=$host:$folder/site/; else from=$host:$folder/tree/; fi
    fi
    same "the tree" "$old" "$(cd "$folder/site" && tail -n +1 -- *)"
    run legatus --json cp --atomic --delete "$from" "$to"
    expect_status 0
    [[ $(<"$out") =~ \"reused\":[1-9][0-9]{6} ]] || fail "what was made was made again"
    identical_files "$folder/tree" "$folder/site"
    same "what is beside it" "site tree" "$(find "$folder" -mindepth 1 -maxdepth 1 -printf '%P\n' | sort | xargs)"
    rm -rf "$folder"
}

staged_some() {
    (($(du -sm "$folder"/.site.*.legatus 2>/dev/null | cut -f1 || echo 0) > 8))
}

identical_files() {
    diff -r "$1" "$2" >/dev/null || fail "$1 and $2 differ"
}

# --- what the server is told -------------------------------------------------------------------

bounded() {
    new_folder
    mkdir "$folder/public" "$folder/drop"
    echo shown >"$folder/public/f"
    echo hidden >"$folder/secret"
    ln -s ../secret "$folder/public/link"
    printf '[settings.transfer-file]\nread = ["%s"]\nwrite = ["%s"]\n' "$folder/public" "$folder/drop" >"$folder/server.toml"
    start_server --config "$folder/server.toml"
    quiet_copy "$host:$folder/public/f" "$folder/down"
    quiet_copy "$folder/down" "$host:$folder/drop/f"
    run legatus cp "$host:$folder/secret" "$folder/x"
    expect_status 255
    expect_err denied
    run legatus cp "$folder/down" "$host:$folder/public/g"
    expect_status 255
    expect_err denied
    run legatus cp "$host:$folder/public/../secret" "$folder/x"
    expect_status 255
    # As a link it may be copied; what it leads to may not.
    run legatus cp "$host:$folder/public/link/" "$folder/x"
    expect_status 23 255
    run legatus cp --dry-run "$folder/down" "$host:$folder/drop/f"
    expect_status 255
    expect_err 'not read'
    [[ ! -e $folder/x || -L $folder/x ]] || fail "something outside arrived"
}

# --- size --------------------------------------------------------------------------------------

# peaks COMMAND...: runs it, and keeps both sides' largest memory below the issue's limit.
peaks() {
    local peak_client=0 peak_server=0 now began=$SECONDS
    start "$@" >"$out" 2>"$err" </dev/null
    while running "$started"; do
        now=$(tree_memory "$started")
        ((now <= peak_client)) || peak_client=$now
        now=$(tree_memory "$server_pid")
        ((now <= peak_server)) || peak_server=$now
        sleep 0.2
    done
    await_exit 1 "$started"
    expect_status 0
    echo "peaks: client $((peak_client / 1024)) MiB, server with its children $((peak_server / 1024)) MiB, $((SECONDS - began)) s" |
        tee -a "$work/figures"
    ((peak_client > 0 && peak_server > 0)) || fail "memory was not measured"
    below "the client's memory (KiB)" $((200 * 1024)) "$peak_client"
    below "the server's memory with its children (KiB)" $((200 * 1024)) "$peak_server"
}

many_entries() {
    local count=20000
    if ((full)); then count=1000000; fi
    new_folder
    mkdir "$folder/tree"
    (cd "$folder/tree" && seq "$count" | split -l 1 -a 6 - f)
    peaks "$LEGATUS" cp --no-fsync "$folder/tree/" "$host:$folder/up/"
    same_to_rsync "$folder/tree" "$folder/up"
    peaks "$LEGATUS" cp --no-fsync "$host:$folder/tree/" "$folder/up/"
    rm -rf "$folder/tree"
    mkdir "$folder/tree"
    peaks "$LEGATUS" cp --no-fsync --delete "$folder/tree/" "$host:$folder/up/"
    same "what is left" 0 "$(find "$folder/up" -mindepth 1 | wc -l)"
    rm -rf "$folder"
}

sparse() {
    local size=4G real=64
    if ((full)); then size=100G real=8192; fi
    new_folder
    mkdir "$folder/tree"
    truncate -s "$size" "$folder/tree/f"
    for part in {0..63}; do
        dd if=/dev/urandom of="$folder/tree/f" bs=1M count=$((real / 64)) conv=notrunc status=none \
            oseek=$((part * ${size%G} * 16))
    done
    peaks "$LEGATUS" cp --no-fsync "$folder/tree/" "$host:$folder/up/"
    cmp "$folder/tree/f" "$folder/up/f" || fail "they differ"
    below "its blocks (MiB)" $((real + real / 8 + 16)) "$(du -m "$folder/up/f" | cut -f1)"
    rm -rf "$folder"
}

deep() {
    new_folder
    local path
    path=$(printf 'd/%.0s' {1..1000})
    mkdir -p "$folder/tree/$path" "$folder/empty"
    echo deepest >"$folder/tree/${path}f"
    both_ways "$folder/tree" --atomic
    quiet_copy --delete "$folder/empty/" "$host:$folder/up/"
    quiet_copy --delete "$host:$folder/empty/" "$folder/down/"
    same "what is left" 0 "$(find "$folder/up" "$folder/down" -mindepth 1 | wc -l)"
    rm -rf "$folder"
}

# --- disks -------------------------------------------------------------------------------------

# Of each file that gets its name the contents are on the disk before, and the name afterwards.
synced_before_named() {
    command -v strace >/dev/null || skip "no strace"
    new_folder
    head -c 3M /dev/urandom >"$folder/large"
    echo small >"$folder/small"
    mkdir "$folder/to"
    echo old >"$folder/to/small"
    local file calls
    for file in large small; do
        calls=fsync,fdatasync,syncfs,linkat,rename,renameat,renameat2
        strace -f -y -e "trace=$calls" -o "$folder/trace" "$LEGATUS" cp "$host:$folder/$file" "$folder/to/" 2>"$err" ||
            skip "strace may not trace here"
        awk -v to="\"$file\"" '
            / resumed>/ { next }
            /(fsync|fdatasync|syncfs)\(/ { if (named) after = NR; else before = NR }
            /(linkat|rename[a-z0-9]*)\(/ && index($0, to) { named = NR }
            END { exit !(before && named && after && before < named && named < after) }' "$folder/trace" ||
            fail "the order of $file is not contents, name, folder:"$'\n'"$(cat "$folder/trace")"
    done
}

shared_blocks() {
    need_root
    command -v mkfs.btrfs >/dev/null || skip "no mkfs.btrfs"
    new_folder
    truncate -s 300M "$folder/disk"
    mkfs.btrfs -q "$folder/disk"
    mkdir "$folder/b"
    mount -o loop "$folder/disk" "$folder/b" 2>/dev/null || skip "no btrfs can be mounted here"
    mounts+=("$folder/b")
    head -c 64M /dev/urandom >"$folder/f"
    mkdir "$folder/b/t"
    quiet_copy "$folder/f" "$host:$folder/b/t/f"
    printf changed | dd of="$folder/f" bs=1 seek=30000000 conv=notrunc status=none
    local before after
    sync -f "$folder/b"
    before=$(df --output=used -m "$folder/b" | tail -n 1)
    # The older one stays, as a backup.
    quiet_copy --backup .old "$folder/f" "$host:$folder/b/t/f"
    sync -f "$folder/b"
    after=$(df --output=used -m "$folder/b" | tail -n 1)
    cmp "$folder/f" "$folder/b/t/f" || fail "they differ"
    below "MiB that a changed block costs" 16 $((after - before))
    # Attributes that change in a tree that is swapped share the contents, too.
    chmod 600 "$folder/f"
    mkdir "$folder/s"
    ln "$folder/f" "$folder/s/f"
    quiet_copy --atomic "$folder/s/" "$host:$folder/b/t"
    sync -f "$folder/b"
    below "MiB that another mode costs" 16 $(($(df --output=used -m "$folder/b" | tail -n 1) - after))
    cmp "$folder/f" "$folder/b/t/f" || fail "they differ"
    umount "$folder/b"
    mounts=()
}

quota() {
    need_root
    command -v mkfs.btrfs >/dev/null || skip "no mkfs.btrfs"
    new_folder
    truncate -s 300M "$folder/disk"
    mkfs.btrfs -q "$folder/disk"
    mkdir "$folder/b"
    mount -o loop "$folder/disk" "$folder/b" 2>/dev/null || skip "no btrfs can be mounted here"
    mounts+=("$folder/b")
    btrfs subvolume create "$folder/b/s" >/dev/null
    btrfs quota enable "$folder/b" || skip "no quota here"
    btrfs qgroup limit 4M "$folder/b/s"
    mkdir "$folder/mixed"
    head -c 10M /dev/urandom >"$folder/mixed/1-large"
    echo 2 >"$folder/mixed/2-small"
    run legatus cp "$folder/mixed/" "$host:$folder/b/s/mixed/"
    expect_status 23
    expect_err '1-large.*quota'
    same "what arrived" 2-small "$(find "$folder/b/s/mixed" -type f -printf '%f\n')"
    run legatus cp "$host:$folder/mixed/" "$folder/b/s/down/"
    expect_status 23
    expect_err '1-large.*quota'
    same "what arrived" 2-small "$(find "$folder/b/s/down" -type f -printf '%f\n')"
    expect_server_alive
    umount "$folder/b"
    mounts=()
}

# --- what rsync knows to keep ------------------------------------------------------------------

lists_and_capabilities() {
    need_root
    new_folder
    mkdir "$folder/tree" "$folder/tree/d"
    echo 1 >"$folder/tree/capable"
    echo 2 >"$folder/tree/listed"
    python3 - "$folder/tree" <<'END' || skip "no access control lists here"
import os, struct, sys
# Version 2; tags: owner, user 1, group, mask, others.
entries = [(1, 6, 2**32 - 1), (2, 4, 1), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(sys.argv[1] + "/listed", "system.posix_acl_access", acl)
os.setxattr(sys.argv[1] + "/d", "system.posix_acl_default", acl)
os.setxattr(sys.argv[1] + "/capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
END
    both_ways "$folder/tree"
    local path name
    for path in up down; do
        for name in listed:system.posix_acl_access d:system.posix_acl_default capable:security.capability; do
            python3 -c 'import os, sys; sys.exit(os.getxattr(sys.argv[1], sys.argv[3]) != os.getxattr(sys.argv[2], sys.argv[3]))' \
                "$folder/tree/${name%%:*}" "$folder/$path/${name%%:*}" "${name#*:}" || fail "$name differs in $path"
        done
    done
}

system_tree() {
    need_root
    new_folder
    local tree=/usr/lib/python3
    if ((full)); then tree=/usr; fi
    [[ -d $tree ]] || tree=/usr/lib/ssl
    both_ways "$tree" --no-fsync
    # Once more as a whole, with nothing changed.
    both_ways "$tree" --no-fsync --atomic --delete
    rm -rf "$folder"
}

repository_tree() {
    new_folder
    git init -q "$folder/tree"
    local commits=20
    if ((full)); then commits=500; fi
    for ((n = 0; n < commits; n++)); do
        head -c 3000 /dev/urandom | base64 >"$folder/tree/file$((n % 7))"
        git -C "$folder/tree" add -A
        git -C "$folder/tree" -c user.name=a -c user.email=a@b commit -qm "$n"
    done
    both_ways "$folder/tree"
    git -C "$folder/tree" -c gc.auto=0 gc -q
    both_ways "$folder/tree" --delete
    git -C "$folder/up" fsck --strict >/dev/null 2>&1 || fail "git finds something wrong"
    rm -rf "$folder"
}

odd_trees() {
    need_root
    local count=6 seed
    if ((full)); then count=200; fi
    for ((seed = 1; seed <= count; seed++)); do
        new_folder
        local option=()
        if ((seed % 2)); then option=(--atomic); fi
        python3 "$checks/odd_trees.py" "$folder/tree" "$seed"
        both_ways "$folder/tree" "${option[@]}" || fail "with seed $seed"
        python3 "$checks/odd_trees.py" "$folder/tree" $((seed + 1000000))
        both_ways "$folder/tree" --delete "${option[@]}" || fail "with seed $seed, changed"
        rm -rf "$folder"
    done
}

# --- distance ----------------------------------------------------------------------------------

# far MBITS MS: a path to the server; sets `far`.
far() {
    start python3 "$checks/distant_proxy.py" "$port" "$1" "$2" >"$work/far"
    await 10 "the path is there" test -s "$work/far"
    far=127.0.0.1:$(head -n 1 "$work/far")
}

# What is sent fills the buffers on the way and those of the sockets, and an answer comes behind it, many seconds
# later. Nobody is to take that for a dead connection.
slow_is_not_dead() {
    far 4 100
    head -c 14M /dev/urandom >"$work/slowly"
    local direction
    for direction in up down; do
        if [[ $direction == up ]]; then
            run legatus cp "$work/slowly" "$far:$work/slowly.there"
        else
            run legatus cp "$far:$work/slowly.there" "$work/slowly.back"
        fi
        expect_status 0
        expect_no_err
    done
    cmp "$work/slowly" "$work/slowly.back"
}

fills_the_path() {
    # A window of 2 MiB would fill two fifths of the smaller path. Here a machine that is busy must pass, too.
    local mbits=400 mib=160 limit_share=0.50 share
    if ((full)); then mbits=1000 mib=1024 limit_share=0.90; fi
    far "$mbits" 100
    new_folder
    head -c "${mib}M" /dev/urandom >"$folder/f"
    local direction ends
    for direction in up down; do
        ends=("$folder/f" "$far:$folder/up")
        if [[ $direction == down ]]; then ends=("$far:$folder/f" "$folder/down"); fi
        quiet_copy --no-fsync --compress none "${ends[@]}"
        cmp "$folder/f" "$folder/$direction" || fail "they differ"
        await 10 "the proxy has counted" counted "$direction"
        share=$(tail -n 1 "$work/far" | cut -d' ' -f3)
        echo "$direction: $share of $mbits Mbit/s over 100 ms" | tee -a "$work/figures"
        awk -v share="$share" -v limit="$limit_share" 'BEGIN { exit !(share >= limit) }' || fail "it fills only $share"
    done
    rm -rf "$folder"
}

counted() {
    (($(wc -l <"$work/far") > $([[ $1 == up ]] && echo 1 || echo 2)))
}

# With two seconds on the way nothing else matters.
few_round_trips() {
    far 1000 2000
    new_folder
    mkdir "$folder/tree"
    (cd "$folder/tree" && seq 1000 | split -l 1 -a 4 - f)
    local began took
    for ends in "$folder/tree/ $far:$folder/up/" "$far:$folder/tree/ $folder/down/"; do
        began=$(date +%s%N)
        # shellcheck disable=SC2086  # two words
        quiet_copy --no-fsync $ends
        took=$((($(date +%s%N) - began) / 1000000))
        echo "1,000 files over 2 s: $took ms" | tee -a "$work/figures"
        below "milliseconds, of which a round trip has 2000" 11900 "$took"
    done
    same_to_rsync "$folder/tree" "$folder/up"
}

for direction in up down; do
    check "a whole tree that goes $direction stays the old one if the client is killed" killed_whole "$direction" client
    check "a whole tree that goes $direction stays the old one if the server is killed" killed_whole "$direction" server
done
check "a server copies below the folders that it is told and nowhere else" bounded
check "very many entries of one folder take bounded memory" many_entries
check "a large sparse file takes bounded memory and no more blocks" sparse
check "a tree of depth 1,000 is copied, swapped in and deleted" deep
check "contents are on the disk before a file gets its name" synced_before_named
check "blocks that are there already are shared on btrfs" shared_blocks
check "a quota that is used up is told and leaves nothing half" quota
check "access control lists and capabilities are kept" lists_and_capabilities
check "a system's folder is identical to rsync" system_tree
check "a git repository is identical to rsync" repository_tree
check "trees of odd entries are identical to rsync, new and changed" odd_trees
check "one file fills a path of 100 ms" fills_the_path
check "a slow line is not taken for a dead connection" slow_is_not_dead
check "1,000 small files cost at most 5 round trips" few_round_trips
check "the server is alive after all that" expect_server_alive
if ((full)) && [[ -f $work/figures ]]; then sed 's/^/    /' "$work/figures"; fi
finish

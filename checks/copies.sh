#!/usr/bin/env bash
# Files and folders both ways: contents, names, modes, times, places; and what goes wrong on the way.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
start_server

# identical A B: two files, or the contents of two folders, are the same to rsync.
identical() {
    local from=$1 to=$2 differences
    if [[ -d $from ]]; then from=$from/ to=$to/; fi
    [[ -e $to ]] || fail "$to is not there"
    differences=$(rsync -anic --delete "$from" "$to")
    [[ ! $differences ]] || fail "rsync finds differences:"$'\n'"$differences"
}

quiet_copy() {
    run legatus cp "$@"
    expect_status 0
    expect_no_err
}

# A new empty folder; sets `folder`.
new_folder() {
    folder=$(mktemp -d "$work/folder.XXXX")
}

entries() {
    find "$1" -mindepth 1 -printf '%P\n' | sort
}

# The same without what is kept of large files that did not come to their end.
visible() {
    entries "$1" | sed '/\.legatus$/d'
}

expect_empty() {
    same "what is in $1" "" "$(entries "$1")"
}

both_ways() {
    new_folder
    quiet_copy "$1" "$host:$folder/up"
    identical "$1" "$folder/up"
    quiet_copy "$host:$1" "$folder/down"
    identical "$1" "$folder/down"
    rm -rf "$folder"
}

file_of_size() {
    local limit=1200
    new_folder
    local source=$folder/source
    head -c "$1" /dev/urandom >"$source"
    touch -d '2001-02-03 04:05:06.123456789 UTC' "$source"
    chmod 640 "$source"
    both_ways "$source"
    rm "$source"
}

file_of_blanks() {
    head -c 1M /dev/zero | tr '\0' ' ' >"$work/ \t "
    both_ways "$work/ \t "
}

make_odd_tree() {
    local tree=$1
    mkdir -p "$tree/empty folder" "$tree/-rf" "$tree/$(printf 'd%.0s' {1..255})" "$tree"/a/b/c/d/e/f
    local name
    for name in ' ' '  two  blanks ' $'new\nline' $'\xff\xfe\x80' -dash --help '*' '?' '$HOME' '`id`' \
        'quote"' "quote'" 'back\slash' $'\x01\x7f\t' 'Ω ünï 漢字' '...' '.hidden' '~' '#' 'a:b' 'x.legatus' \
        "$(printf 'n%.0s' {1..255})"; do
        printf '%s' "$name" >"$tree/$name"
        printf '%s' "$name" >"$tree/-rf/$name"
    done
    : >"$tree/empty"
    ln -s empty "$tree/link"
    ln -s /no/where "$tree/dangling"
    ln -s 'empty folder' "$tree/link to folder"
    ln -s $'\xff odd\n' "$tree/odd link"
    ln -s "$(printf 'l%.0s' {1..2000})" "$tree/long link"
    echo script >"$tree/executable"
    chmod 755 "$tree/executable"
    echo secret >"$tree/private"
    chmod 600 "$tree/private"
    echo shown >"$tree/read only"
    chmod 444 "$tree/read only"
    mkdir "$tree/sticky" "$tree/closed"
    echo inside >"$tree/closed/file"
    chmod 1777 "$tree/sticky"
    chmod 555 "$tree/closed"
    touch -d '1969-12-31 00:00:00.5 UTC' "$tree/empty"
    touch -d '2038-01-20 00:00:00.000000001 UTC' "$tree/private"
    touch -h -d '2010-10-10 UTC' "$tree/link"
    touch -d '1999-09-09 UTC' "$tree/empty folder" "$tree/closed" "$tree/a/b" "$tree"
}

odd_tree() {
    make_odd_tree "$work/odd"
    both_ways "$work/odd"
}

onto_an_older_copy() {
    new_folder
    make_odd_tree "$folder/tree"
    mkdir "$folder/up" "$folder/down"
    quiet_copy "$folder/tree/" "$host:$folder/up"
    quiet_copy "$host:$folder/tree/" "$folder/down"
    # As long as before, at the same time: contents alone differ.
    find "$folder/tree" -type f -size +0 -exec touch -r {} {}.time \; \
        -exec sh -c 'tr "a-y" "b-z" <"$0" >"$1" && cat "$1" >"$0"' {} "$work/scratch" \; -exec touch -r {}.time {} \; 2>/dev/null || true
    find "$folder/tree" -name '*.time' -delete
    quiet_copy --checksum "$folder/tree/" "$host:$folder/up"
    quiet_copy --checksum "$host:$folder/tree/" "$folder/down"
    identical "$folder/tree" "$folder/up"
    identical "$folder/tree" "$folder/down"
}

many_small_files() {
    local count=3000
    if ((full)); then count=100000; fi
    new_folder
    mkdir "$folder/tree"
    seq "$count" | (cd "$folder/tree" && split -l 1 -a 5 - part)
    both_ways "$folder/tree"
    rm -rf "$folder"
}

# The matrix of rsync and cp -r, the same in both directions.
places() {
    local to=$1 from=$2
    new_folder
    mkdir -p "$folder/source/inner" "$folder/existing"
    echo 1 >"$folder/source/file"
    cd "$folder"
    quiet_copy "$from$folder/source" "$to$folder/new"
    identical source new
    quiet_copy "$from$folder/source" "$to$folder/existing"
    identical source existing/source
    quiet_copy "$from$folder/source/" "$to$folder/contents"
    identical source contents
    quiet_copy "$from$folder/source/" "$to$folder/contents"
    identical source contents
    quiet_copy "$from$folder/source/." "$to$folder/dotted"
    identical source dotted
    quiet_copy "$from$folder/source" "$to$folder/receives/"
    identical source receives/source
    quiet_copy "$from$folder/source/file" "$to$folder/existing"
    identical source/file existing/file
    quiet_copy "$from$folder/source/file" "$to$folder/made/parents/name"
    identical source/file made/parents/name
    quiet_copy "$from$folder/source/file" "$to$folder/made/folder/"
    identical source/file made/folder/file
    run legatus cp --no-parents "$from$folder/source/file" "$to$folder/forbidden/parents/name"
    expect_status 23 255
    expect_err 'no such file'
    [[ ! -e forbidden ]] || fail "--no-parents made a parent"
    echo old >replaced
    quiet_copy "$from$folder/source/file" "$to$folder/replaced"
    identical source/file replaced
}

several_sources() {
    new_folder
    cd "$folder"
    mkdir -p into down one
    echo 1 >one/file
    echo 2 >two
    quiet_copy one two "$host:$folder/into"
    same "what arrived" "one one/file two" "$(entries into | tr '\n' ' ' | sed 's/ $//')"
    quiet_copy "$host:$folder/one" "$host:$folder/two" down
    touch -r into down
    identical into down
    quiet_copy one two "$host:$folder/made/"
    touch -r into made
    identical into made
    run legatus cp one two "$host:$folder/two"
    expect_status 23 255
    expect_err 'folder|directory'
    same "the file in the way" 2 "$(<two)"
}

# There is one thing to copy and one that is not there: the one is copied, the other told.
missing_sources() {
    new_folder
    cd "$folder"
    echo 1 >here
    mkdir up down
    run legatus cp missing here "$host:$folder/up"
    expect_status 23
    expect_err 'missing.*no such file'
    identical here up/here
    run legatus cp "$host:$folder/missing" "$host:$folder/here" down
    expect_status 23
    expect_err 'missing.*no such file'
    identical here down/here
}

awkward_command_lines() {
    new_folder
    cd "$folder"
    local name=$'\xff\n name'
    echo 1 >"$name"
    echo 2 >a:b
    echo 3 >-dash
    quiet_copy "$name" "$host:$folder/$name.up"
    identical "$name" "$name.up"
    quiet_copy "$host:$folder/$name" .
    quiet_copy ./a:b "$host:$folder/copy:of"
    identical ./a:b ./copy:of
    quiet_copy -- -dash "$host:$folder/dashed"
    identical ./-dash dashed
    run legatus cp a b
    expect_status 2 255
    expect_err 'HOST:PATH'
    run legatus cp "$host:/a" "$host:/b"
    expect_status 2 255
    run legatus cp ./a:b
    expect_status 2 255
}

folders_are_made() {
    new_folder
    quiet_copy --mkdir "$host:$folder/a/b/c" --mode 0751
    same mode 751 "$(stat -c %a "$folder/a/b/c")"
    same "mode of a parent" 755 "$(stat -c %a "$folder/a")"
    quiet_copy --mkdir "$host:$folder/a/b/c"
    run legatus cp --mkdir --no-parents "$host:$folder/x/y"
    expect_status 23 255
    expect_err 'no such file'
    echo >"$folder/file"
    run legatus cp --mkdir "$host:$folder/file"
    expect_status 23 255
    expect_err 'exists|not a directory|not a folder'
    run legatus cp --mkdir "$host:$folder/bad" --mode 0999
    expect_status 2 255
    expect_err octal
    run legatus transfer-file --mkdir "$host:$folder/$(printf 'n%.0s' {1..256})"
    expect_status 23 255
    expect_err 'too long'
}

modes_are_octal() {
    new_folder
    echo 1 >"$folder/file"
    chmod 755 "$folder/file"
    quiet_copy --mode 0640 "$folder/file" "$host:$folder/up"
    same mode 640 "$(stat -c %a "$folder/up")"
    quiet_copy --mode 600 "$host:$folder/file" "$folder/down"
    same mode 600 "$(stat -c %a "$folder/down")"
}

# Whoever may write a file somewhere must not thereby lend the rights of the server's user.
special_rights_stay_behind() {
    new_folder
    echo 1 >"$folder/file"
    chmod 6755 "$folder/file"
    quiet_copy "$folder/file" "$host:$folder/up"
    same mode 755 "$(stat -c %a "$folder/up")"
    quiet_copy "$host:$folder/file" "$folder/down"
    same mode 755 "$(stat -c %a "$folder/down")"
}

verified_on_disk() {
    new_folder
    head -c 20M /dev/urandom >"$folder/file"
    quiet_copy --verify-disk "$folder/file" "$host:$folder/up"
    identical "$folder/file" "$folder/up"
    quiet_copy --no-fsync "$host:$folder/file" "$folder/down"
    identical "$folder/file" "$folder/down"
}

small_disk() {
    need_root
    new_folder
    mount -t tmpfs -o size=4m tmpfs "$folder" 2>/dev/null || skip "no tmpfs can be mounted here"
    mounts+=("$folder")
}

full_disk() {
    small_disk
    head -c 10M /dev/urandom >"$work/large"
    echo old >"$folder/replaced"
    run legatus cp "$work/large" "$host:$folder/large"
    expect_status 23 255
    expect_err 'large.*no space left'
    run legatus cp "$host:$work/large" "$folder/large"
    expect_status 23 255
    expect_err 'large.*no space left'
    run legatus cp "$work/large" "$host:$folder/replaced"
    expect_status 23 255
    same "what was there" old "$(<"$folder/replaced")"
    same "what is left" replaced "$(entries "$folder")"
    same "free again" 1 "$(($(df --output=used -k "$folder" | tail -n 1) < 100))"
    # In a tree the rest goes on.
    mkdir "$work/mixed"
    echo 1 >"$work/mixed/1-small"
    cp "$work/large" "$work/mixed/2-large"
    echo 3 >"$work/mixed/3-small"
    run legatus cp "$work/mixed" "$host:$folder/mixed"
    expect_status 23
    expect_err '2-large.*no space left'
    same "what arrived" "1-small 3-small" "$(entries "$folder/mixed" | tr '\n' ' ' | sed 's/ $//')"
    expect_server_alive
}

permission_denied() {
    need_root
    local run_as=(--run-as nobody)
    start_server
    new_folder
    echo secret >"$folder/secret"
    chmod 600 "$folder/secret"
    echo shown >"$folder/shown"
    chmod 755 "$folder"
    run legatus cp "$folder/shown" "$host:$folder/up"
    expect_status 23 255
    expect_err 'up.*permission denied'
    run legatus cp "$folder/shown" "$host:/root/x/y"
    expect_status 23 255
    expect_err 'permission denied'
    run legatus cp "$host:$folder/secret" "$host:$folder/shown" "$work/"
    expect_status 23
    expect_err 'secret.*permission denied'
    same "what may be read" shown "$(<"$work/shown")"
    [[ ! -e $work/secret ]] || fail "a file that may not be read arrived"
    mkdir "$folder/open"
    chmod 777 "$folder/open"
    run legatus cp "$folder/shown" "$host:$folder/open/up"
    expect_status 0
    same owner nobody "$(stat -c %U "$folder/open/up")"
}

folder_in_the_way() {
    new_folder
    cd "$folder"
    mkdir -p to/name source/sub
    echo 1 >name
    echo 2 >source/name
    echo 3 >source/sub/other
    run legatus cp name "$host:$folder/to"
    expect_status 23 255
    expect_err 'name.*(is a directory|folder)'
    run legatus cp source/ "$host:$folder/to"
    expect_status 23
    expect_err 'to/name.*(is a directory|folder)'
    identical source/sub to/sub
    run legatus cp "$host:$folder/source/" to
    expect_status 23
    expect_err 'name.*(is a directory|folder)'
    [[ -d to/name ]] || fail "the folder in the way is gone"
    # A file where a folder should go.
    echo file >to-file
    run legatus cp source/ "$host:$folder/to-file"
    expect_status 23 255
    expect_err 'to-file.*(not a directory|file|folder)'
    same "the file in the way" file "$(<to-file)"
}

special_files() {
    new_folder
    mkdir "$folder/tree"
    mkfifo "$folder/tree/fifo"
    echo 1 >"$folder/tree/file"
    run legatus cp "$folder/tree" "$host:$folder/up"
    expect_status 23
    expect_err 'tree/fifo'
    identical "$folder/tree/file" "$folder/up/file"
    run legatus cp "$host:$folder/tree" "$folder/down"
    expect_status 23
    expect_err 'tree/fifo'
    identical "$folder/tree/file" "$folder/down/file"
}

# begin_copy ARG...: starts a copy and stops its client once it has moved 16 MiB.
begin_copy() {
    ran=("$LEGATUS" cp "$@")
    start "${ran[@]}" >"$out" 2>"$err" </dev/null
    await 20 "the copy is under way" moved_enough
    kill -STOP "$started"
}

moved_enough() {
    running "$started" || fail "the copy has ended before its middle"
    (($(sed -n 's/^wchar: //p' "/proc/$started/io") > 16 << 20))
}

large_tree() {
    new_folder
    mkdir "$folder/tree"
    head -c 256M /dev/urandom >"$folder/tree/1-large"
    echo 2 >"$folder/tree/2-small"
}

# changes_while_read CHANGE TO FROM: the large file changes in the middle, the rest goes on.
changes_while_read() {
    large_tree
    begin_copy "$3$folder/tree" "$2$folder/copy"
    case $1 in
    grows) echo more >>"$folder/tree/1-large" ;;
    shrinks) truncate -s 1M "$folder/tree/1-large" ;;
    esac
    kill -CONT "$started"
    await_exit 60 "$started"
    expect_status 23
    expect_err '1-large.*(changed|grew|shr[au]nk|truncated|short)'
    same "what arrived" 2-small "$(entries "$folder/copy")"
    expect_server_alive
    rm -rf "$folder"
}

vanishes_while_read() {
    large_tree
    # Enough that they are not all opened before the large one has passed.
    mkdir "$folder/tree/3-folder"
    begin_copy "$2$folder/tree" "$1$folder/copy"
    rm -r "$folder/tree/2-small" "$folder/tree/3-folder"
    kill -CONT "$started"
    await_exit 60 "$started"
    if ((status == 0)); then fail "nobody noticed that a source has vanished"; fi
    expect_status 24
    expect_err '2-small.*(vanished|no such file)'
    [[ -e $folder/copy/1-large ]] || fail "the rest did not go on"
    rm -rf "$folder"
}

no_holder_left() {
    (($(process_tree "$1" | wc -l) <= 1))
}

# killed_client TO FROM: neither a partial file nor a temporary one; what was there stays.
killed_client() {
    large_tree
    mkdir "$folder/copy"
    echo old >"$folder/copy/1-large"
    begin_copy "$2$folder/tree/" "$1$folder/copy"
    kill -KILL "$started"
    await 40 "the server notices and its child ends" no_holder_left "$server_pid"
    same "what was there" old "$(<"$folder/copy/1-large")"
    same "what is left" 1-large "$(visible "$folder/copy")"
    expect_server_alive
    rm -rf "$folder"
}

killed_server() {
    start_server
    large_tree
    mkdir "$folder/copy"
    echo old >"$folder/copy/1-large"
    case $1 in
    upload) begin_copy --reconnect 0 "$folder/tree/" "$host:$folder/copy" ;;
    download) begin_copy --reconnect 0 "$host:$folder/tree/" "$folder/copy" ;;
    esac
    local children child
    mapfile -t children < <(process_tree "$server_pid")
    kill -KILL "$server_pid"
    kill -CONT "$started"
    await_exit 40 "$started"
    expect_status 255
    expect_err 'lost|connection'
    for child in "${children[@]}"; do await 10 "the server's child $child ends" gone "$child"; done
    same "what was there" old "$(<"$folder/copy/1-large")"
    same "what is left" 1-large "$(visible "$folder/copy")"
    rm -rf "$folder"
}

interrupted_copy() {
    large_tree
    mkdir "$folder/copy"
    begin_copy "$2$folder/tree/" "$1$folder/copy"
    kill -INT "$started"
    kill -CONT "$started"
    await_exit 20 "$started"
    expect_status 130
    await 20 "the server's child ends" no_holder_left "$server_pid"
    same "what is left" "" "$(visible "$folder/copy")"
    # The same again goes on where it was.
    run legatus --json cp "$2$folder/tree/" "$1$folder/copy"
    expect_status 0
    [[ $(<"$out") =~ \"reused\":[1-9][0-9]{6} ]] || fail "what was verified was sent again"
    identical "$folder/tree" "$folder/copy"
    rm -rf "$folder"
}

interruptions() {
    local runs=10
    if ((full)); then runs=200; fi
    new_folder
    python3 "$(dirname "$0")/interruptions.py" "$LEGATUS" "$pki" "$folder" "$runs" || fail "see above"
}

# Keeps everything that rsync knows to keep.
archive() {
    need_root
    new_folder
    make_odd_tree "$folder/tree"
    chown nobody:daemon "$folder/tree/private"
    chown -h daemon "$folder/tree/dangling"
    echo 1 >"$folder/tree/special"
    chmod 6755 "$folder/tree/special"
    ln "$folder/tree/special" "$folder/tree/a/b/second name"
    mkfifo -m 640 "$folder/tree/fifo"
    mknod "$folder/tree/null" c 1 3
    truncate -s 10M "$folder/tree/sparse"
    python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.tag", b"x\0y")' "$folder/tree/special"
    local direction
    for direction in up down; do
        case $direction in
        up) quiet_copy --archive "$folder/tree/" "$host:$folder/up" ;;
        down) quiet_copy --archive "$host:$folder/tree/" "$folder/down" ;;
        esac
        local differences
        differences=$(rsync -aHAXSnic --delete "$folder/tree/" "$folder/$direction/")
        [[ ! $differences ]] || fail "rsync finds differences:"$'\n'"$differences"
    done
}

# Lines without those of names that the two show in different ways.
shown_alike() {
    sed 's/ *$//; /[\\`]/d' | sort
}

# What rsync would say of a change is what we say.
itemized_as_rsync() {
    new_folder
    make_odd_tree "$folder/tree"
    mkdir -p "$folder/copy/extra/x"
    quiet_copy "$host:$folder/tree/a" "$folder/copy/"
    touch "$folder/tree/a/b/c/new" "$folder/tree/a"
    local ours theirs
    ours=$(legatus cp --dry-run --delete "$host:$folder/tree/" "$folder/copy/" | shown_alike)
    theirs=$(rsync -rlptHni --modify-window=-1 --delete "$folder/tree/" "$folder/copy/" | shown_alike)
    same "the changes" "$theirs" "$ours"
}

# With --json each line is an object, and each entry that changed or failed is told once.
itemized_for_programs() {
    new_folder
    mkdir "$folder/tree"
    echo one >"$folder/tree/"$'a\xffb'
    mkfifo "$folder/tree/pipe"
    run legatus --json cp -i "$host:$folder/tree/" "$folder/copy/"
    expect_status 23
    python3 - "$out" <<'PY' || fail "$(<"$out")"
import base64, json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
changes = [line for line in lines if line.get("change", "").startswith(">f")]
assert [base64.b64decode(line["path_base64"])[-3:] for line in changes] == [b"a\xffb"], changes
failures = [line["failure"] for line in lines if "failure" in line]
assert len(failures) == 1 and failures[0]["path"].endswith("pipe"), failures
assert failures[0]["host"] and failures[0]["reason"] and not failures[0]["vanished"], failures
assert lines[-1]["outcome"]["status"] == 23, lines[-1]
PY
    expect_err pipe
}

constant_memory() {
    local peak_client=0 peak_server=0 now
    new_folder
    head -c 1G /dev/urandom >"$folder/file"
    start "$LEGATUS" cp --no-fsync "$folder/file" "$host:$folder/up" >"$out" 2>"$err" </dev/null
    while running "$started"; do
        now=$(tree_memory "$started")
        ((now <= peak_client)) || peak_client=$now
        now=$(tree_memory "$server_pid")
        ((now <= peak_server)) || peak_server=$now
        sleep 0.1
    done
    await_exit 1 "$started"
    expect_status 0
    ((peak_client > 0 && peak_server > 0)) || fail "memory was not measured"
    below "the client's memory (KiB)" $((128 * 1024)) "$peak_client"
    below "the server's memory with its children (KiB)" $((128 * 1024)) "$peak_server"
    rm -rf "$folder"
}

sizes=(0 1 1K 16K 1M 100M)
if ((full)); then sizes+=(5G); fi
for size in "${sizes[@]}"; do check "a file of $size is identical both ways" file_of_size "$size"; done
check "a file of blanks is identical both ways" file_of_blanks
check "a tree with odd names, links, modes and times is identical both ways" odd_tree
check "a copy replaces an older one" onto_an_older_copy
check "many small files are identical both ways" many_small_files
check "uploads go where rsync and cp -r would put them" places "$host:" ""
check "downloads go where rsync and cp -r would put them" places "" "$host:"
check "several sources go into a folder" several_sources
check "a source that is missing is told, the others are copied" missing_sources
check "odd paths can be said on the command line" awkward_command_lines
check "--mkdir makes folders with parents" folders_are_made
check "--mode is octal and overrides" modes_are_octal
check "copies have no setuid and setgid bits" special_rights_stay_behind
check "--verify-disk and --no-fsync copy as well" verified_on_disk
check "a full disk is told and leaves nothing half" full_disk
check "permission denied is told" permission_denied
check "a folder in the way stays and is told" folder_in_the_way
check "special files are told and skipped" special_files
for change in grows shrinks; do
    check "a file that $change during an upload is told and undone" changes_while_read "$change" "$host:" ""
    check "a file that $change during a download is told and undone" changes_while_read "$change" "" "$host:"
done
check "files that vanish during an upload end it with 24" vanishes_while_read "$host:" ""
check "files that vanish during a download end it with 24" vanishes_while_read "" "$host:"
check "an upload whose client is killed leaves nothing" killed_client "$host:" ""
check "a download whose client is killed leaves nothing" killed_client "" "$host:"
check "an upload whose server is killed leaves nothing" killed_server upload
check "a download whose server is killed leaves nothing" killed_server download
check "an interrupted upload leaves nothing" interrupted_copy "$host:" ""
check "an interrupted download leaves nothing" interrupted_copy "" "$host:"
check "copies that are killed or cut at any moment go on where they were" interruptions
check "--archive keeps everything that rsync knows to keep" archive
check "changes are told as rsync tells them" itemized_as_rsync
check "changes and failures are told to programs once each" itemized_for_programs
check "a large file is copied in constant memory" constant_memory
check "the server is alive after all that" expect_server_alive
finish

#!/usr/bin/env bash
# Programs that call ssh, calling Legatus: rsync, git, scp, sftp, borg, Ansible, curl and ssh itself. Each
# is compared with the same through a real sshd: results, exit status, and what it says.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

# shellcheck source=two_hosts.sh
source "$(dirname "$0")/two_hosts.sh"

git config --global user.name Ann
git config --global user.email ann@example.com
git config --global init.defaultBranch main
# What is random is not made smaller by trying, nor by looking for likenesses, which would take minutes.
git config --global core.compression 0
git config --global pack.compression 0
git config --global pack.window 0
git config --global --add safe.directory '*'

# --- a real sshd ---------------------------------------------------------------------------------

# A real sshd with fresh keys on a port at random; sets sshd_port.
start_sshd() {
    local try
    mkdir -p "$work/sshd" /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$work/sshd/host"
    ssh-keygen -q -t ed25519 -N '' -f "$work/sshd/id"
    cat >"$work/sshd/config" <<LINES
HostKey $work/sshd/host
AuthorizedKeysFile $work/sshd/id.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
PidFile none
AcceptEnv GIT_PROTOCOL LANG LC_*
SetEnv PATH=$work/theirs/remote:$PATH
Subsystem sftp /usr/lib/openssh/sftp-server
LINES
    for try in {1..10}; do
        # Below the range from which the kernel takes ports for outgoing connections.
        sshd_port=$((20000 + RANDOM % 12000))
        /usr/sbin/sshd -D -f "$work/sshd/config" -o ListenAddress=127.0.0.1 -p "$sshd_port" -E "$work/sshd/log" &
        sshd_pid=$!
        remember "$sshd_pid"
        cat >"$srv/ssh_config" <<LINES
Host *
  HostName 127.0.0.1
  Port $sshd_port
  User root
  IdentityFile $work/sshd/id
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking no
  LogLevel ERROR
LINES
        for _ in {1..50}; do
            running "$sshd_pid" || break
            if ssh -F "$srv/ssh_config" web1 true 2>/dev/null </dev/null; then return; fi
            sleep 0.1
        done
    done
    echo "FAIL no sshd after $try tries"
    exit 1
}
start_sshd

mkdir "$work/theirs"
printf '#!/bin/sh\nexec /usr/bin/ssh -F %s "$@"\n' "$srv/ssh_config" >"$work/theirs/ssh"
chmod +x "$work/theirs/ssh"

# both FUNCTION: runs it once through sshd and once through Legatus, with `$ssh` as the program to call,
# in a folder of its own, `$there` being another one at the other side. What it prints, what it says of
# errors, its status and both folders must be the same.
both() {
    local which status
    declare -A statuses
    for which in theirs ours; do
        ssh=$work/$which/ssh side=$work/sides/$1/$which/here there=$work/sides/$1/$which/there
        mkdir -p "$side" "$there"
        status=0
        (
            trap - ERR
            set +eE
            cd "$side" && "$1"
        ) >"$work/$which.out" 2>"$work/$which.err" </dev/null || status=$?
        statuses[$which]=$status
        sed -i "s#sides/$1/$which#sides/$1/SIDE#g; s#$work/$which/ssh#SSH#g" "$work/$which.out" "$work/$which.err"
    done
    # Ansible tells when, and through which temporary file.
    sed -i -E 's/"(delta|end|start|src)": "[^"]*"/"\1": "X"/g; s/ansible-tmp-[0-9.-]+/ansible-tmp/g' \
        "$work/theirs.out" "$work/ours.out"
    diff "$work/theirs.out" "$work/ours.out" || fail "$1 prints something else"
    diff <(errors "$work/theirs.err") <(errors "$work/ours.err") || fail "$1 says something else"
    same "status of $1" "${statuses[theirs]}" "${statuses[ours]}"
    diff -r --no-dereference "$work/sides/$1/theirs" "$work/sides/$1/ours" || fail "$1 leaves something else"
    rm -rf "$work/sides/$1"
}

# What a program says of errors, without rates and process ids.
errors() {
    grep -v 'MiB/s\|KiB/s\|Transferred\|bytes/s' "$1" | sed 's/\r.*//; s/[0-9.]* [KM]B\/s.*//; s/pid [0-9]*/pid N/'
}

# --- rsync --------------------------------------------------------------------------------------

tree() {
    mkdir -p "$1/a b/c" "$1/it's" "$1/\"quoted\"" "$1/\$HOME;ls"
    echo one >"$1/a b/c/d e"
    echo two >"$1/it's/*?[x]"
    head -c 3000000 /dev/urandom >"$1/\"quoted\"/big"
    printf 'n\n' >"$1/new
line"
    ln -s nowhere "$1/link"
    chmod 711 "$1/a b"
}
tree "$work/tree"

rsync_up_and_down() {
    rsync -a -e "$ssh" "$work/tree/" "web1:$there/up/"
    echo "status $?"
    rsync -a -e "$ssh" "web1:$there/up/" down/
    echo "status $?"
    diff -r --no-dereference "$work/tree" down
    rsync -a -s -e "$ssh" "web1:$there/up/a b/c/d e" "it's"
    echo "status $?"
    rsync -a -e "$ssh" "web1:$there/up/a\\ b" .
    echo "status $?"
    rsync -a --delete --exclude='*' -e "$ssh" down/ "web1:$there/up/"
    echo "status $?"
}

rsync_statuses() {
    rsync -a -e "$ssh" "web1:$there/missing" .
    echo "status $?"
    # 127 if rsync sees the end of its child first, 12 if it sees that of the pipe.
    rsync -a -e "$ssh" --rsync-path=no-such-program "web1:$there" . 2>missing-program
    [[ $? == @(12|127) ]] && grep -o 'no-such-program: .*not found' missing-program
    echo "status $?"
    rm missing-program
    rsync -a -e "$ssh" --rsync-path='exit 7; rsync' "web1:$there" .
    echo "status $?"
    rsync -a -e "$ssh" --rsync-path='nice -n 1 rsync' "$work/tree/" "web1:$there/"
    echo "status $?"
}

rsync_daemon() {
    printf 'use chroot = no\n[files]\npath = %s\nread only = no\n' "$there" >"$there.conf"
    local program="rsync --config=$there.conf"
    rsync -a -e "$ssh" --rsync-path "$program" "$work/tree/" web1::files/new/
    echo "status $?"
    rsync -a -e "$ssh" --rsync-path "$program" web1::files/new/ .
    echo "status $?"
    rsync -e "$ssh" --rsync-path "$program" web1::
    rsync -a -e "$ssh" --rsync-path "$program" web1::nothing/ .
    echo "status $?"
    rm "$there.conf"
}

check "rsync: up, down, names with blanks and quotes, --delete" both rsync_up_and_down
check "rsync: errors and their status" both rsync_statuses
check "rsync: a daemon over rsh" both rsync_daemon

# --- git ----------------------------------------------------------------------------------------

# More than 100 MB that do not compress.
make_repository() {
    git init --quiet "$1"
    local number
    for number in {1..12}; do
        head -c 10M /dev/urandom >"$1/$number"
    done
    git -C "$1" -c core.compression=0 add .
    git -C "$1" commit --quiet --message large --date 2026-01-01T00:00:00Z
}
make_repository "$work/large"

git_everything() {
    export GIT_SSH_COMMAND=$ssh GIT_COMMITTER_DATE=2026-01-01T00:00:00Z
    git clone --quiet --bare "$work/large" "$there/large.git"
    rm -rf "$there/large.git/hooks"
    # The other side has a home of its own.
    git -C "$there/large.git" config pack.window 0
    GIT_TRACE_PACKET=$PWD/../trace git clone --quiet "web1:$there/large.git" clone
    echo "status $?"
    grep -c 'clone< version 2' ../trace
    rm ../trace
    git -C clone fsck --full 2>&1 | grep -v ^Checking
    echo more >clone/more
    openssl enc -aes-128-ctr -pass pass:x -nosalt </dev/zero 2>/dev/null | head -c 20M >clone/pack
    git -C clone add .
    git -C clone commit --quiet --message more --date 2026-01-01T00:00:00Z
    git -C clone push --quiet
    echo "status $?"
    git -C "$there/large.git" rev-list --all --count
    git clone --quiet "web1:$there/large.git" second
    git -C clone commit --quiet --allow-empty --message third --date 2026-01-01T00:00:00Z
    git -C clone push --quiet
    git -C second fetch --quiet
    echo "status $?"
    git -C second log --format=%s origin/main
    git archive --remote="web1:$there/large.git" main more | tar -t
    git clone --quiet "web1:$there/missing.git" missing
    echo "status $?"
    # Their packs are made anew each time; what is in them was compared.
    rm -rf clone second "$there/large.git"
}

# Only what both sides agree on is passed on.
sent_variables() {
    printf 'accept-env = ["GIT_PROTOCOL", "OK_*"]\n' >"$work/accept.toml"
    start_server --config "$work/accept.toml"
    export GIT_PROTOCOL=version=2 OK_ONE=1 OK_TWO=2 SECRET=3
    # shellcheck disable=SC2016 # for the shell there
    local line='echo "$GIT_PROTOCOL,$OK_ONE,$OK_TWO,$SECRET,$SET,$LC_ALL"'
    run "$work/ours/ssh" -p "$port" -o SendEnv=GIT_PROTOCOL -oSendEnv='OK_O* SECRET' -o SetEnv=SET=4 127.0.0.1 "$line"
    expect_status 0
    expect_out 'version=2,1,,,,'
    run "$work/ours/ssh" -p "$port" 127.0.0.1 "$line"
    expect_out ',,,,,'
    run "$work/ours/ssh" -o SendEnv=SECRET -o SetEnv=SET=4 web1 "$line"
    expect_out ",,,3,4,$LC_ALL"
}

protocol_variable() {
    GIT_PROTOCOL=version=2 "$ssh" -o SendEnv=GIT_PROTOCOL web1 "echo \$GIT_PROTOCOL"
    "$ssh" -G -p 2222 -o SendEnv=GIT_PROTOCOL ann@web1 | grep '^\(user\|port\|sendenv\) '
    "$ssh" -G -s web1 sftp | grep ^sessiontype
}

check "git: clone, push, fetch, archive of 120 MB, protocol 2" both git_everything
check "git: GIT_PROTOCOL arrives, -G answers" both protocol_variable
check "variables: what SendEnv names arrives if the server accepts it" sent_variables

# --- scp and sftp -------------------------------------------------------------------------------

scp_everything() {
    local old
    for old in '' -O; do
        # shellcheck disable=SC2086 # nothing or one option
        {
            scp $old -q -S "$ssh" -r -p "$work/tree/a b" "web1:$there/to$old"
            echo "status $?"
            scp $old -q -S "$ssh" -r "web1:$there/to$old" "back$old"
            echo "status $?"
            scp $old -q -S "$ssh" "web1:$there/missing" .
            echo "status $?"
            scp $old -q -S "$ssh" "$work/tree/\"quoted\"/big" "web1:$there/none/such"
            echo "status $?"
            scp $old -3 -q -S "$ssh" "web1:$there/to$old/c/d e" "web2:$there/third$old"
            echo "status $?"
            scp $old -3 -q -S "$ssh" -r "web1:$there/to$old/c" "web2:$there/whole$old"
            echo "status $?"
            scp $old -R -q -S "$ssh" -o "SetEnv=PATH=${ssh%/ssh}/remote:$PATH" -r "web1:$there/to$old/c" \
                "web2:$there/direct$old"
            echo "status $?"
            scp $old -R -q -S "$ssh" -o "SetEnv=PATH=${ssh%/ssh}/remote:$PATH" "web1:$there/missing" "web2:$there/none"
            echo "status $?"
        }
    done
}

sftp_batches() {
    printf '%s\n' "put $work/tree/\\\"quoted\\\"/big $there/big" "ls -1 $there" "get $there/big" \
        "mkdir $there/new" "rename $there/big $there/new/big" "-get $there/big" "chmod 600 $there/new/big" >../batch
    sftp -q -S "$ssh" -b ../batch web1
    echo "status $?"
    echo "get $there/missing" | sftp -q -S "$ssh" -b - web1
    echo "status $?"
    echo "ls -1 $there" | sftp -q -S "$ssh" -s /usr/lib/openssh/sftp-server -b - web1
    echo "status $?"
    sftp -q -S "$ssh" "sftp://web1/$there/new/big" by-uri
    echo "status $?"
    scp -q -S "$ssh" by-uri "scp://web1/$there/by-uri"
    echo "status $?"
    rm ../batch
}

# What `scp -R` runs at the first host is the `scp` that is first in PATH there: it is told which ssh to use.
for which in theirs ours; do
    mkdir "$work/$which/remote"
    cat >"$work/$which/remote/scp" <<LINES
#!/bin/sh
export LEGATUS_CERT=$LEGATUS_CERT LEGATUS_KEY=$LEGATUS_KEY LEGATUS_CA=$LEGATUS_CA XDG_CONFIG_HOME=$XDG_CONFIG_HOME
exec /usr/bin/scp -S $work/$which/ssh "\$@"
LINES
    chmod +x "$work/$which/remote/scp"
done

check "scp: both protocols, folders, errors, between two hosts by -3 and -R" both scp_everything
check "sftp: batches and errors" both sftp_batches

# OpenSSH's own tests of sftp, through our subsystem, as they are through a server of their own.
regression() {
    local name=$1 folder=$work/regress server
    for server in /usr/lib/openssh/sftp-server "$work/sftp-server"; do
        rm -rf "$folder"
        mkdir "$folder"
        run env -C /usr/lib/openssh/regress TEST_SHELL=/bin/sh TEST_SSH_SFTPSERVER="$server" \
            TEST_SSH_SFTP=/usr/bin/sftp timeout 600 sh test-exec.sh "$folder" "./$name.sh"
        expect_status 0
        grep -q '^ok ' "$out" || fail "$name did not say ok with $server"
    done
}
# With arguments it is no subsystem but a command, as with `sftp -s`.
cat >"$work/sftp-server" <<LINES
#!/bin/sh
[ \$# = 0 ] && exec $LEGATUS rsh --subsystem sftp web1
exec $LEGATUS rsh web1 /usr/lib/openssh/sftp-server "\$@"
LINES
chmod +x "$work/sftp-server"
# All of them, but for sftp-chroot and sftp-uri, which try sshd's own internal-sftp; and scp's, of which one
# mode takes the same server.
for name in sftp sftp-cmds sftp-badcmds sftp-batch sftp-glob sftp-perm scp; do
    check "openssh-tests: $name through our subsystem" regression "$name"
done

# --- borg ---------------------------------------------------------------------------------------

borg_everything() {
    export BORG_RSH=$ssh BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
    local repository=ssh://web1$there/backup
    borg init --encryption none "$repository" 2>&1 | head -n 3
    echo "status ${PIPESTATUS[0]}"
    (cd "$work/tree" && borg create --timestamp 2026-01-01T00:00:00 "$repository::one" .)
    echo "status $?"
    borg check "$repository"
    echo "status $?"
    borg extract "$repository::one"
    echo "status $?"
    borg list --short "$repository"
    borg extract "$repository::two"
    echo "status $?"
    rm -rf "$there/backup"
}

check "borg: init, create, check, extract, errors" both borg_everything

# --- Ansible ------------------------------------------------------------------------------------

prepare_ansible() {
    local tools=${CHECKS_ANSIBLE:-}
    if [[ -z $tools ]]; then
        tools=$work/ansible
        python3 -m venv "$tools"
        "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement "$checks/ansible.txt"
    fi
    "$tools/bin/ansible-galaxy" collection install "$repository/contrib/ansible/legatus" -p "$work/collections" >/dev/null 2>&1
    ansible=$tools/bin
}

# ansible_tasks HOSTS CONNECTION...
ansible_tasks() {
    echo copied >"$side/source"
    local module
    for module in ping 'command:echo out; exit 3' 'shell:echo out; echo err >&2; exit 3' 'shell:cat /proc/version' \
        "copy:src=$side/source dest=$there/copied mode=0640" "copy:src=$work/tree/it's dest=$there" \
        "fetch:src=$there/copied dest=$side/fetched flat=yes" "fetch:src=$there/missing dest=$side/none flat=yes" \
        "slurp:src=$there/copied"; do
        "$ansible/ansible" all -i web1, -m "${module%%:*}" -a "$([[ $module != *:* ]] || echo "${module#*:}")" -o
        echo "status $?"
    done
}

ansible_configuration() {
    export ANSIBLE_CONFIG=$side/../ansible.cfg ANSIBLE_COLLECTIONS_PATH=$work/collections ANSIBLE_NOCOLOR=1
    export ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_DEVEL_WARNING=false
    printf '%s\n' '[defaults]' 'interpreter_python = /usr/bin/python3' "$@" >"$ANSIBLE_CONFIG"
}

ansible_by_ssh() {
    ansible_configuration "local_tmp = $work/ansible-tmp" '[connection]' "pipelining = $1" '[ssh_connection]' \
        "ssh_executable = $ssh" 'transfer_method = piped' 'ssh_args = -C'
    ansible_tasks
    rm "$ANSIBLE_CONFIG"
}
with_pipelining() { ansible_by_ssh true; }
without_pipelining() { ansible_by_ssh false; }

# The same tasks through sshd by Ansible's plugin, and through Legatus by ours.
native() {
    if [[ $ssh == "$work/theirs/ssh" ]]; then
        ansible_by_ssh true
    else
        ansible_configuration "local_tmp = $work/ansible-tmp" 'transport = legatus.legatus.legatus' '[connection]' \
            'pipelining = true'
        ansible_tasks
        rm "$ANSIBLE_CONFIG"
    fi
}

unreachable() {
    local side=$work/unreachable there=$work
    mkdir -p "$side"
    ansible_configuration 'transport = legatus.legatus.legatus'
    run "$ansible/ansible" all -i nosuch.invalid, -m ping
    expect_status 4
    grep -q UNREACHABLE "$out" "$err" || fail "an unknown host is not unreachable"
    run "$ansible/ansible" all -i web1, -u nobody -m ping
    expect_status 4
    printf '%s\n' '- hosts: all' '  gather_facts: false' '  tasks:' '    - meta: reset_connection' '    - ping:' >"$side/play.yml"
    run "$ansible/ansible-playbook" -i web1, "$side/play.yml"
    expect_status 0
}

if [[ -z ${CHECKS_ONLY:-} || ansible =~ ${CHECKS_ONLY,,} ]]; then
    prepare_ansible
    check "ansible: ssh plugin, ping, command, shell, copy, fetch, with pipelining" both with_pipelining
    check "ansible: ssh plugin, without pipelining" both without_pipelining
    check "ansible: our own plugin" both native
    check "ansible: our own plugin, unreachable hosts and reset" unreachable
fi

# --- words that make no sense -------------------------------------------------------------------

refused() {
    local pattern=$1
    shift
    run timeout 20 "$work/ours/ssh" "$@"
    expect_status 255
    expect_err "$pattern"
    [[ ! -s $out ]] || fail "something is on standard output"
    ((status == 255)) || fail "status $status"
}

bad_words() {
    refused 'unknown option -z' -z web1 true
    refused 'unknown option -z' web1 -z
    refused 'unknown option --frob' --frob web1
    refused 'no host'
    refused 'no host' -p 22
    refused 'dash' -- -oProxyCommand=x true
    refused 'dash' -- ann@-x true
    refused 'lacks its value' web1 -p
    refused 'is no port' -p x web1
    refused 'no subsystem' -s web1 no-such-subsystem
    refused 'as "nobody"' nobody@web1 true
    refused 'cannot find the host' nosuch.invalid true
    run "$work/ours/ssh" -q nosuch.invalid true
    expect_status 255
    expect_no_err
}

# An argument is 128 KiB at most (MAX_ARG_STRLEN), all of them a quarter of the stack.
huge_command() {
    local word words=()
    word=$(head -c 100000 /dev/zero | tr '\0' x)
    for _ in {1..21}; do words+=("$word"); done
    ulimit -s unlimited
    refused 'longer than the limit' web1 "${words[@]}"
    run "$work/ours/ssh" web1 "printf %s \$(($(printf '%100000d' 7)))"
    expect_status 0
    expect_out 7
}

check "words that make no sense are refused with status 255" bad_words
check "a command of 2 MB is refused, one of 100 KB runs" huge_command

# --- statuses, streams, terminals ---------------------------------------------------------------

streams_and_statuses() {
    local wanted
    for wanted in 0 1 77 254 255; do
        "$ssh" web1 "exit $wanted"
        echo "status $?"
    done
    "$ssh" web1 'echo out; echo err >&2'
    "$ssh" web1 no-such-program 2>/dev/null
    echo "status $?"
    echo "for the shell; exit 5" | "$ssh" -T web1 sh
    echo "status $?"
    echo 'echo from standard input; exit 6' | "$ssh" -T web1 2>/dev/null | tail -n 1
    echo input | "$ssh" -n web1 cat
    head -c 5000000 "$work/tree/\"quoted\"/big" | "$ssh" web1 'cat; echo end >&2' | cksum
    "$ssh" web1 "echo 'a  b'" c "'d  e'" '$((1 + 1))'
    "$ssh" -o SetEnv=LC_TEST=1 -tt web1 'tty >/dev/null && echo a terminal; echo $LC_TEST' </dev/null
    "$ssh" -o RemoteCommand='echo remote' web1
    "$ssh" -p 22 -G web1 | grep ^port
}
check "streams, statuses, words, terminals as through sshd" both streams_and_statuses

in_the_background() {
    run timeout 20 "$work/ours/ssh" -f web1 "echo begun; sleep 1; echo ended >$work/background"
    expect_status 0
    await 10 "the command in the background ends" grep -q ended "$work/background"
    run timeout 20 "$work/ours/ssh" -f nosuch.invalid true
    expect_status 255
    expect_err 'cannot find the host'
}
check "-f goes to the background when it has connected" in_the_background

# --- the page of recipes ------------------------------------------------------------------------

# The `sh` blocks below a heading of docs/use-it-with.md.
blocks() {
    awk -v heading="## $1" '
        /^## / { here = $0 == heading }
        /^```/ { inside = here && $0 == "```sh"; next }
        inside' "$repository/docs/use-it-with.md"
}

recipe() {
    local folder=$work/recipes
    mkdir -p "$folder/project" "$srv"
    cd "$folder"
    echo readme >project/README
    "$LEGATUS" link-ssh ssh-of-legatus >"$out"
    [[ -d $srv/repository.git ]] || git init --quiet --bare "$srv/repository.git"
    mkdir -p "$srv/files" "$srv/through"
    printf 'use chroot = no\n[files]\npath = %s/files\n' "$srv" >"$srv/rsyncd.conf"
    blocks "$1" | sed "s#/srv/#$srv/#g" >"$work/recipe"
    [[ -s $work/recipe ]] || fail "there is no recipe for $1"
    run bash -euo pipefail "$work/recipe"
    expect_status 0
}

forward_recipe() {
    start_web
    # A port that was free a moment ago.
    PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    export PORT WEB_PORT=$web_port
    recipe 'Programs that forward ports' || true
    local pid
    for pid in $(ps -e -o pid=,args= | awk -v port="$PORT:localhost:$WEB_PORT" 'index($0, port) { print $1 }'); do
        remember "$pid"
    done
    grep -q . "$out" || fail "nothing came through"
}

ansible_recipe() {
    : >"$work/none.cfg"
    export LEGATUS_SOURCE=$repository PATH=$ansible:$PATH ANSIBLE_CONFIG=$work/none.cfg
    recipe Ansible
    grep -q pong "$out" || fail "no pong"
}

for heading in rsync git 'scp and sftp' borg 'ssh itself' 'Through another Legatus host'; do
    check "use it with: $heading" recipe "$heading"
done
check "use it with: programs that forward ports" forward_recipe
if [[ ${ansible:-} ]]; then check "use it with: Ansible" ansible_recipe; fi

finish

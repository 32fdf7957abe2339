#!/usr/bin/env bash
# The interactive shell under a real terminal: tmux is the terminal, its keys are the user's.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

command -v tmux >/dev/null || { echo "FAIL tmux is not installed"; exit 1; }
unset TMUX TMUX_PANE NO_COLOR
export PS1='local> '
make_pki
start_server

# --- the terminal ------------------------------------------------------------------------------

terminal() {
    tmux -S "$terminal_socket" -f /dev/null "$@"
}

# A local shell in a new terminal of 100 × 30; it goes with its check.
open_terminal() {
    terminal_socket=$work/tmux.$BASHPID
    terminal new-session -d -x 100 -y 30 bash --norc --noprofile
    remember "$(terminal display-message -p '#{pid}')"
    await 10 "the local prompt" sees '^local>$'
}

# press KEY...: as tmux names them.
press() {
    terminal send-keys -- "$@"
}

type_line() {
    terminal send-keys -l -- "$1"
    press Enter
}

screen() {
    terminal capture-pane -p | sed "s/ *$//"
}

sees() {
    screen | grep -Eq -- "$1"
}

# see PATTERN [SECONDS]: waits for a line of the screen.
see() {
    local deadline=$((SECONDS + ${2:-15}))
    until sees "$1"; do
        ((SECONDS < deadline)) || fail "never seen: $1"$'\n'"$(screen)"
        sleep 0.05
    done
}

open_shell() {
    open_terminal
    type_line "'$LEGATUS' shell $host"
    see '[#$>]$'
    type_line "PS1='remote''> '; clear"
    see '^remote>$'
}

client() {
    ps -o pid= --ppid "$(terminal display-message -p '#{pane_pid}')" | tr -d ' '
}

# --- the checks --------------------------------------------------------------------------------

prompt_and_end() {
    open_terminal
    type_line "'$LEGATUS' shell $host"
    see '[#$>]$'
    type_line 'echo "hel""lo from $(tty) at $TERM in $LC_ALL"'
    see 'hello from /dev/pts/[0-9]+ at (screen|tmux)[^ ]* in C\.UTF-8'
    type_line 'clear; shopt login_shell'
    see 'login_shell[[:space:]]+on'
    type_line 'exit 7'
    see '^local>$'
    type_line 'echo "status"=$?'
    see '^status=7$'
}

end_of_file_ends_it() {
    open_shell
    press C-d
    see '^local>$'
}

vim_edits() {
    open_shell
    type_line "vim --clean '$work/edited'"
    see '^~'
    terminal send-keys -l 'iwritten in vim Ωé'
    press Enter
    terminal send-keys -l 'second line'
    press Up Home
    terminal send-keys -l '> '
    see '^> written in vim Ωé$'
    press Escape
    type_line ':wq'
    see '^remote>$'
    same "the file" $'> written in vim Ωé\nsecond line' "$(<"$work/edited")"
}

less_pages() {
    open_shell
    seq -f 'line %g' 1 1000 >"$work/lines"
    type_line "less '$work/lines'"
    see '^line 29$'
    press Space
    see '^line 58$'
    press G
    see '^line 1000$'
    type_line '?line 500$'
    see '^line 500$'
    press q
    see '^remote>$'
}

htop_shows() {
    open_shell
    type_line htop
    see 'Load average|Tasks:'
    press q
    see '^remote>$'
}

tmux_in_tmux() {
    open_shell
    type_line "tmux -S '$work/inner' -f /dev/null new-session bash --norc --noprofile"
    see '^\[0\] 0:bash'
    type_line 'PS1="inner""> "'
    see '^inner>$'
    press C-b '"'
    see '─────'
    type_line 'tmux kill-server'
    see '^remote>$'
}

# A server that has stopped is as far away as can be.
seen_at_once() {
    open_shell
    type_line 'PS1="below""> "'
    see '^below>$'
    type_characters e c
    kill -STOP "$server_pid"
    press h
    see '^below> ech$' 2
    kill -CONT "$server_pid"
    type_line 'o "af""ter"'
    see '^after$'
    see '^below> echo "af""ter"$'
}

# type_characters CHARACTER...: each when the one before has come back.
type_characters() {
    local character typed=
    for character in "$@"; do
        press "$character"
        typed+=$character
        see "^below> $typed\$"
    done
}

secrets_stay_unseen() {
    open_shell
    type_line 'stty -echo; echo "re""ady"; read -r word; stty echo; echo "<$word>"'
    see '^ready$'
    # All that the terminal gets: what was shown may be erased again.
    terminal pipe-pane "cat >'$work/bytes'"
    press x y z
    press Enter
    await 10 "it has come to its end" grep -q '<xyz>' "$work/bytes"
    terminal pipe-pane
    same "letters that came" 1 "$(tr -cd x <"$work/bytes" | wc -c)"
}

resizes() {
    open_shell
    type_line 'stty size'
    see '^30 100$'
    terminal resize-window -x 123 -y 41
    type_line 'clear; stty size'
    see '^41 123$'
    # While something runs, which is told by SIGWINCH.
    type_line "clear; bash -c 'trap \"stty size\" WINCH; echo waiting; while :; do sleep 0.1; done'"
    see '^waiting$'
    terminal resize-window -x 90 -y 20
    see '^20 90$'
    press C-c
    see '^remote>$'
}

interrupt_key() {
    open_shell
    type_line 'echo "begun"; sleep 1000'
    see '^begun$'
    press C-c
    type_line 'echo "after":$?'
    see '^after:130$'
    type_line 'clear; yes'
    see '^y$'
    press C-c
    type_line 'echo "again":$?'
    see '^again:130$'
    type_line 'clear; sleep 1000'
    await 10 "the sleep is stopped" eval 'press C-z; sees Stopped'
    type_line 'kill %1; clear'
}

all_keys() {
    open_shell
    type_line "stty raw -echo; echo re''ady; head -c 28 | xxd -p >'$work/keys'; stty sane; clear"
    see '^ready'
    press C-c C-d C-z C-s C-q C-\\ C-@ C-v Escape Up F5 BSpace Tab
    terminal send-keys -l 'Ω~.'
    press C-] C-^ C-_ M-x
    see '^remote>$'
    # Nothing is a new line here, so that `~.` is no escape.
    same keys 03041a13111c00161b1b5b411b5b31357e7f09cea97e2e1d1e1f1b78 "$(tr -d '\n' <"$work/keys")"
}

large_paste() {
    open_shell
    seq -f 'a line that is pasted, number %g' 1 2000 >"$work/paste"
    type_line "stty -echo; cat >'$work/pasted'; stty echo; clear"
    terminal load-buffer "$work/paste"
    terminal paste-buffer
    press C-d
    see '^remote>$'
    cmp "$work/paste" "$work/pasted" || fail "another text arrives"
}

much_output() {
    open_shell
    type_line 'seq 1 200000; clear; echo "whole"'
    see '^whole$' 30
}

escape_leaves() {
    open_shell
    kill -STOP "$server_pid"
    remember_to_continue=$server_pid
    trap 'kill -CONT "$remember_to_continue"; clean_up' EXIT
    type_line 'echo nobody answers'
    press Enter '~' .
    see '^local>$'
    type_line 'echo "status"=$?'
    see '^status=(130|255)$'
    kill -CONT "$server_pid"
    expect_server_alive
}

escape_tells() {
    open_shell
    press Enter '~' '?'
    see '~\.'
    press Enter '~' '~'
    see '^remote> ~$'
    type_line 'x'
    see '^remote> ~x$'
}

with_one_command() {
    open_terminal
    type_line "'$LEGATUS' shell $host --tty -- vim --clean '$work/one'"
    see '^~'
    type_line ':wq'
    see '^local>$'
    [[ -e $work/one ]] || fail "vim wrote no file"
    type_line "clear; '$LEGATUS' shell $host -- tty"
    see 'not a tty'
}

# --- programs that outlive their terminal -------------------------------------------------------------

# A program in a session that is left, attached to from a larger terminal, and whose server is killed:
# moved LINE SEEN REDRAWN: SEEN shows that it runs, the command REDRAWN that it fills the larger one.
moved() {
    local line=$1 seen=$2 redrawn=$3
    start_server
    open_terminal
    type_line "'$LEGATUS' shell $host --name moved"
    see '[#$>]$'
    type_line "PS1='remote''> '; clear"
    see '^remote>$'
    type_line "$line"
    see "$seen"
    # It waits for a key now.
    press Enter '~' d
    # The screen of before is there again.
    see 'legatus: detached; .legatus attach HOST moved. returns to the session'
    see '^local>$'
    if sees "$seen"; then fail "the program is still on the screen"; fi
    terminal resize-window -x 120 -y 40
    type_line "'$LEGATUS' attach $host moved"
    see "$seen"
    await 15 "it fills the larger terminal" "$redrawn" 120 40
    kill -KILL "$server_pid"
    see 'reconnecting' 30
    serve_again
    # What the client says of its connection stands on the screen until the program draws it anew.
    await 30 "it draws over what was told of the connection" told_nothing
    await 15 "it fills the terminal still" "$redrawn" 120 40
    terminal resize-window -x 110 -y 35
    await 15 "it fills another terminal after the server's end" "$redrawn" 110 35
    press q
    see 'remote>$'
    type_line exit
    see 'local>$'
}

told_nothing() { ! sees 'reconnecting|connected again'; }
less_fills() { (($(screen | grep -c '^line [0-9]*$') == $2 - 1)); }
htop_fills() { screen | sed -n "$2p" | grep -q F10; }
vim_fills() {
    press Escape
    terminal send-keys -l ':echo "size" &lines &columns'
    press Enter
    sees "^size $2 $1"
}

less_is_moved() {
    seq -f 'line %g' 1 1000 >"$work/lines"
    moved "less '$work/lines'" '^line 2[0-9]$' less_fills
}

htop_is_moved() {
    moved htop 'Load average|Tasks:' htop_fills
}

vim_is_moved() {
    seq -f 'line %g' 1 1000 >"$work/lines"
    # A quick way out, as the others have.
    moved "vim --clean -c 'nnoremap q :q!<CR>' '$work/lines'" '^line [0-9]+$' vim_fills
}

# --- another terminal's own test ------------------------------------------------------------------------

# Waits until a pane says nothing new, and shows it.
settled() {
    local before='' now
    for _ in {1..100}; do
        now=$(terminal capture-pane -p -t "$1")
        if [[ $now && $now == "$before" ]]; then break; fi
        before=$now
        sleep 0.2
    done
    printf '%s\n' "$now"
}

looks_like_here() {
    [[ $(terminal capture-pane -p -t there) == "$here" ]]
}

# vttest here and over there show the same, screen by screen.
vttest_is_the_same() {
    command -v vttest >/dev/null || fail "vttest is not installed"
    terminal_socket=$work/tmux.$BASHPID
    terminal new-session -d -s here -x 80 -y 24 vttest
    remember "$(terminal display-message -p '#{pid}')"
    terminal new-session -d -s there -x 80 -y 24 "'$LEGATUS' shell $host --tty -- vttest"
    local key here number=0
    # The menu; cursor movements; screen features; the way out.
    for key in '' 1 {1..6}. 2 {1..15}. 0; do
        case $key in
        '') ;;
        *.) for pane in here there; do terminal send-keys -t "$pane" Enter; done ;;
        *) for pane in here there; do terminal send-keys -t "$pane" "$key" Enter; done ;;
        esac
        if [[ $key == 0 ]]; then break; fi
        here=$(settled here)
        number=$((number + 1))
        await 20 "screen $number of vttest is as here: $here"$'\n'"$(terminal capture-pane -p -t there)" looks_like_here
    done
}

# --- the terminal's mode --------------------------------------------------------------------------

# modes BEFORE|AFTER: what stty tells of the local terminal.
save_mode() {
    type_line "stty -a >'$work/$1'; clear"
    await 10 "stty has told" test -s "$work/$1"
    see '^local>$'
}

# mode_survives HOW COMMAND...: the mode is the same after an interactive shell that ended so.
mode_survives() {
    start_server --drain-timeout 1
    open_terminal
    rm -f "$work/before" "$work/after"
    # Not what every shell sets anyway.
    type_line 'stty -echoctl intr ^G'
    save_mode before
    type_line "'$LEGATUS' shell $host"
    see '[#$>]$'
    type_line "PS1='remote''> '; clear"
    see '^remote>$'
    stty -a <"$(terminal display-message -p '#{pane_tty}')" | grep -q -- '-icanon' || fail "the terminal is not raw"
    "$1"
    see '^local>$' 40
    save_mode after
    diff "$work/before" "$work/after" || fail "the terminal has another mode than before"
}

by_exit() { type_line exit; }
by_escape() { press Enter '~' .; }
by_term() { kill -TERM "$(client)"; }
by_hang_up() { kill -HUP "$(client)"; }
by_interrupt() { kill -INT "$(client)"; kill -INT "$(client)"; sleep 0.2; kill -TERM "$(client)" || true; }
by_abort() { kill -ABRT "$(client)"; }
by_killing_the_server() { kill -KILL "$server_pid"; see 'reconnecting' 40; press Enter '~' .; }
by_draining_the_server() { kill -TERM "$server_pid"; see 'reconnecting' 60; press Enter '~' .; }
by_killing_the_remote_shell() { type_line 'kill -KILL $$'; }

mode_while_stopped() {
    open_terminal
    rm -f "$work/before" "$work/after"
    save_mode before
    type_line "'$LEGATUS' shell $host"
    see '[#$>]$'
    local client
    client=$(client)
    kill -TSTP "$client"
    see 'Stopped'
    save_mode after
    diff "$work/before" "$work/after" || fail "a stopped client leaves the terminal raw"
    type_line fg
    type_line 'PS1="remote""> "'
    see '^remote>$'
}

closed_terminal_ends_the_tree() {
    open_shell
    # Each tells its own number, so that none of another run is taken for it.
    local tell="echo \\\$\\\$ >>'$work/jobs'"
    : >"$work/jobs"
    type_line "sh -c \"$tell; exec sleep 1000\" & setsid sh -c \"$tell; exec sleep 1001\" & echo \$\$ >>'$work/jobs'; clear"
    await 10 "three processes run" eval '(($(wc -l <"$work/jobs") >= 3))'
    terminal kill-server
    local process
    while read -r process; do
        await 15 "process $process ($(ps -o args= -p "$process")) ends with the terminal" gone "$process"
    done <"$work/jobs"
}

without_a_terminal() {
    run legatus shell "$host" <<<$'echo from a pipe\nexit 6'
    expect_status 6
    expect_out 'from a pipe'
}

check "a login shell with prompt, terminal and locale" prompt_and_end
check "Ctrl-D ends it" end_of_file_ends_it
check "vim edits and saves" vim_edits
check "less pages" less_pages
check "htop shows" htop_shows
check "tmux runs inside" tmux_in_tmux
check "typed characters are seen before they come back" seen_at_once
check "what is typed unseen stays unseen" secrets_stay_unseen
check "resizing is told" resizes
check "Ctrl-C and Ctrl-Z reach what runs there" interrupt_key
check "all keys pass" all_keys
check "a large paste arrives whole" large_paste
check "much output passes" much_output
check "less goes on in another terminal and after a killed server" less_is_moved
check "htop goes on in another terminal and after a killed server" htop_is_moved
check "vim goes on in another terminal and after a killed server" vim_is_moved
check "vttest shows the same as in a local terminal" vttest_is_the_same
check "~. leaves a stuck shell" escape_leaves
check "~? tells the escapes, ~~ is a tilde" escape_tells
check "--tty gives one command a terminal" with_one_command
for how in exit escape term hang_up interrupt abort killing_the_server draining_the_server killing_the_remote_shell; do
    check "the terminal has its mode again after: ${how//_/ }" mode_survives "by_$how"
done
check "a stopped client gives the terminal back" mode_while_stopped
check "closing the terminal ends everything there" closed_terminal_ends_the_tree
check "without a terminal the shell reads a pipe" without_a_terminal
finish

# What checks with two hosts share: two servers, `web1` and `web2`, with a configuration that names them, and
# Legatus in ssh's place.

# shellcheck shell=bash

need_root

make_pki

srv=$work/srv
mkdir -p "$srv" "$work/bin" "$XDG_CONFIG_HOME/legatus"
chmod 755 "$srv"
ln -s "$LEGATUS" "$work/bin/legatus"
export PATH=$work/bin:$PATH
# Of the tools' own configuration nothing counts.
export HOME=$work/home GIT_CONFIG_NOSYSTEM=1 BORG_BASE_DIR=$work/borg
mkdir -p "$HOME"

start_server
port1=$port server1_pid=$server_pid
start_server
port2=$port
cat >"$XDG_CONFIG_HOME/legatus/config.toml" <<LINES
[hosts.web1]
address = "127.0.0.1:$port1"
[hosts.web2]
address = "127.0.0.1:$port2"
LINES

"$LEGATUS" link-ssh "$work/ours" >"$out"

# Servers to connect to, and what they count; sets web_port.
start_web() {
    mkdir -p "$work/web"
    head -c 40M /dev/urandom >"$work/web/large"
    echo hello >"$work/web/small"
    start python3 "$checks/web_server.py" "$work/web" >"$work/web.out"
    await 10 "the web server listens" test -s "$work/web.out"
    web_port=$(<"$work/web.out")
}

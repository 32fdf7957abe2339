#!/bin/bash
# Starts the peers to compare with: OpenSSH's sshd and dropbear, on 127.0.0.1, ports picked at random, keys made now.
#   peers.sh DIR    prints KEY=VALUE lines and `ready`, then runs until its standard input ends (or Ctrl-C) and stops them.
# DIR is an existing folder of the caller. Needs root: packages are installed if they are missing, and dropbear reads
# authorized keys below /root only, which is therefore another folder in a mount namespace of its own.
set -eu

readonly packages=(openssh-server openssh-client openssh-sftp-server dropbear-bin)
readonly attempts=5

main() {
  if [ $# != 1 ] || [ ! -d "$1" ]; then
    sed -n 2,5p "$0" >&2
    exit 2
  fi
  [ "$(id -u)" = 0 ] || { echo 'peers.sh needs root' >&2; exit 1; }
  dir=$(realpath "$1")
  install_packages
  make_keys
  sshd_pid='' dropbear_pid=''
  trap stop EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  start_on_free_port start_sshd ssh_works "$dir/sshd.log"
  local ssh_port=$port
  start_on_free_port start_dropbear dropbear_works "$dir/dropbear.log"
  cat <<LINES
SSH_CONFIG=$dir/ssh_config
SSHD_PORT=$ssh_port
SSHD_PID=$sshd_pid
DROPBEAR_KEY=$dir/id.dropbear
DROPBEAR_PORT=$port
DROPBEAR_PID=$dropbear_pid
ready
LINES
  while read -r _; do :; done
}

install_packages() {
  local missing=() name
  for name in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  # Debian would start them as services of the machine; this file forbids that while they are installed.
  local policy=/usr/sbin/policy-rc.d ours=no
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; ours=yes; }
  local status=0
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2 || status=$?
  [ $ours = no ] || rm -f $policy
  return $status
}

make_keys() {
  mkdir -p "$dir/home" /run/sshd
  ssh-keygen -q -t ed25519 -N '' -C bench -f "$dir/id"
  ssh-keygen -q -t ed25519 -N '' -C bench -f "$dir/host"
  dropbearkey -t ed25519 -f "$dir/host.dropbear" >/dev/null 2>&1
  dropbearconvert openssh dropbear "$dir/id" "$dir/id.dropbear" >/dev/null 2>&1
  mkdir -m 700 "$dir/root" "$dir/root/.ssh"
  cp "$dir/id.pub" "$dir/root/.ssh/authorized_keys"
  # HOME is an empty folder, so that start files of this machine's shells cost the peers nothing.
  cat >"$dir/sshd_config" <<LINES
HostKey $dir/host
AuthorizedKeysFile $dir/id.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers root@127.0.0.1
PrintMotd no
MaxStartups 1000
SetEnv HOME=$dir/home
Subsystem sftp /usr/lib/openssh/sftp-server
PidFile none
LINES
}

# Calls $1 with ports at random until $2 succeeds; $3 is the log to show if it never does.
# The range lies below the kernel's own (ip_local_port_range), so that no outgoing connection takes the port.
start_on_free_port() {
  local try
  for ((try = 0; try < attempts; try++)); do
    port=$((20000 + RANDOM % 12000))
    "$1"
    if answers "$2" "$started_pid"; then return 0; fi
    kill "$started_pid" 2>/dev/null || true
  done
  echo "$1: no success; its log:" >&2
  cat "$3" >&2
  return 1
}

answers() {
  local wait
  for ((wait = 0; wait < 50; wait++)); do
    [ -d "/proc/$2" ] || return 1
    if "$1" 2>/dev/null; then return 0; fi
    sleep 0.1
  done
  return 1
}

start_sshd() {
  cat >"$dir/ssh_config" <<LINES
Host *
  HostName 127.0.0.1
  Port $port
  User root
  IdentityFile $dir/id
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking no
  LogLevel ERROR
  ControlPath none
LINES
  setsid /usr/sbin/sshd -D -f "$dir/sshd_config" -o ListenAddress=127.0.0.1 -p "$port" -E "$dir/sshd.log" \
    </dev/null >/dev/null 2>&1 &
  started_pid=$! sshd_pid=$!
}

ssh_works() {
  ssh -F "$dir/ssh_config" 127.0.0.1 true </dev/null
}

start_dropbear() {
  # `exec` all the way: the pid is dropbear's own.
  # shellcheck disable=SC2016 # expanded by the inner shell
  setsid unshare -m sh -c 'mount --bind "$1/root" /root && exec dropbear -F -E -s -r "$1/host.dropbear" \
    -P "$1/dropbear.ownpid" -p "127.0.0.1:$2"' sh "$dir" "$port" </dev/null >"$dir/dropbear.log" 2>&1 &
  started_pid=$! dropbear_pid=$!
}

dropbear_works() {
  HOME=$dir/home dbclient -y -y -i "$dir/id.dropbear" -p "$port" root@127.0.0.1 true </dev/null
}

stop() {
  local pid
  for pid in $sshd_pid $dropbear_pid; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}

main "$@"

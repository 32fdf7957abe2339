#!/usr/bin/env bash
# Who is let in and who is not, seen from openssl, curl, bare sockets and the client; and that the
# server goes on after each.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
other=$work/other
"$LEGATUS" pki quickstart --dir "$other" --server localhost --san 127.0.0.1 --client alice >"$out"
start_server --handshake-timeout 3

# mint FOLDER NAME ROLE START END [CA]: a certificate by openssl, of the authority in $pki or of the
# certificate CA. ROLE: serverAuth, clientAuth or authority. START and END: what date(1) reads.
mint() {
    local dir=$work/$1 name=$2 role=$3 start=$4 end=$5 ca=${6:-$pki/ca}
    mkdir -p "$dir/db"
    : >"$dir/db/index.txt"
    local extensions="basicConstraints=critical,CA:FALSE
extendedKeyUsage=$role
keyUsage=critical,digitalSignature
subjectAltName=DNS:$name,IP:127.0.0.1"
    if [[ $role == authority ]]; then
        extensions="basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign"
    fi
    cat >"$dir/db/config" <<END
[ca]
default_ca=this
[this]
database=$dir/db/index.txt
new_certs_dir=$dir/db
rand_serial=yes
unique_subject=no
default_md=sha256
policy=any
x509_extensions=extensions
[any]
commonName=supplied
[extensions]
$extensions
END
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/$name.key" \
        -subj "/CN=$name" -out "$dir/db/request" 2>"$dir/db/log"
    openssl ca -batch -notext -config "$dir/db/config" -cert "$ca.crt" -keyfile "$ca.key" -in "$dir/db/request" \
        -out "$dir/$name.crt" -startdate "$(date -u -d "$start" +%Y%m%d%H%M%SZ)" \
        -enddate "$(date -u -d "$end" +%Y%m%d%H%M%SZ)" 2>>"$dir/db/log" || fail "openssl: $(<"$dir/db/log")"
}

# s_client ARG...: what openssl says until the server closes the connection.
s_client() {
    run timeout 15 openssl s_client -connect "$host" -CAfile "$pki/ca.crt" -alpn h2 -ign_eof "$@"
    cat "$out" "$err" >"$work/both"
}

said() {
    grep -Eqi -- "$1" "$work/both" || fail "openssl does not tell ${1@Q}"
}

# Refused with this alert, and still at the service of others.
refused_with() {
    said "$1"
    ((status != 124)) || fail "the server keeps the connection"
    expect_server_alive
}

right_certificate() {
    s_client -cert "$LEGATUS_CERT" -key "$LEGATUS_KEY" </dev/null
    said 'ALPN protocol: h2'
    said 'TLSv1.3'
    said 'Verify return code: 0'
    said 'Acceptable client certificate CA names|Requested Signature Algorithms'
}

no_certificate() {
    s_client </dev/null
    refused_with 'alert.*certificate required|alert number 116'
}

other_authority() {
    s_client -cert "$other/alice.crt" -key "$other/alice.key" </dev/null
    refused_with 'alert.*(unknown ca|bad certificate|decrypt|unknown certificate)|alert number (48|42)'
}

old_protocol() {
    s_client -tls1_2 -cert "$LEGATUS_CERT" -key "$LEGATUS_KEY" </dev/null
    refused_with 'alert.*protocol version|alert number 70'
}

other_application() {
    run timeout 15 openssl s_client -connect "$host" -CAfile "$pki/ca.crt" -alpn http/1.1 -ign_eof \
        -cert "$LEGATUS_CERT" -key "$LEGATUS_KEY" </dev/null
    cat "$out" "$err" >"$work/both"
    refused_with 'alert.*no application protocol|alert number 120'
}

no_tickets() {
    s_client -cert "$LEGATUS_CERT" -key "$LEGATUS_KEY" </dev/null
    if grep -q 'New Session Ticket' "$work/both"; then fail "a ticket would skip the certificate checks"; fi
}

expired_client() {
    mint expired alice clientAuth '3 days ago' '1 day ago'
    s_client -cert "$work/expired/alice.crt" -key "$work/expired/alice.key" </dev/null
    refused_with 'alert.*certificate expired|alert number 45'
    run legatus --cert "$work/expired/alice.crt" --key "$work/expired/alice.key" shell "$host" -- true
    expect_status 255
    expect_err 'expired'
    expect_err "$(date -u -d '1 day ago' +%Y-%m-%d)"
}

future_client() {
    mint future alice clientAuth 'now + 1 day' 'now + 3 days'
    s_client -cert "$work/future/alice.crt" -key "$work/future/alice.key" </dev/null
    refused_with 'alert.*(bad certificate|certificate expired|certificate unknown)|alert number (42|45|46)'
    run legatus --cert "$work/future/alice.crt" --key "$work/future/alice.key" shell "$host" -- true
    expect_status 255
    expect_err 'not (yet )?valid|rejected'
    expect_err "$(date -u -d 'now + 1 day' +%Y-%m-%d)"
}

server_as_client() {
    s_client -cert "$pki/localhost.crt" -key "$pki/localhost.key" </dev/null
    refused_with 'alert.*(unsupported certificate|bad certificate|certificate unknown)|alert number (42|43|46)'
    # Ours does not even try.
    run legatus --cert "$pki/localhost.crt" --key "$pki/localhost.key" shell "$host" -- true
    expect_status 255
    expect_err "is a server's certificate for .localhost., not a client's"
}

client_as_server() {
    # A server of another make, which takes any certificate.
    local other_port
    other_port=$(free_port)
    start openssl s_server -accept "127.0.0.1:$other_port" -alpn h2 -cert "$pki/alice.crt" -key "$pki/alice.key" -www \
        >"$work/s_server" 2>&1
    await 10 "openssl listens" grep -q ACCEPT "$work/s_server"
    client_says 'certificate is for another role' shell "127.0.0.1:$other_port" -- true
}

# serve_refuses ARG...: a server that does not start with the certificate of the client alice.
serve_refuses() {
    run timeout 10 "$LEGATUS" serve --listen 127.0.0.1:0 --ca "$pki/ca.crt" --state-dir "$work/refusing" "${run_as[@]}" "$@"
    expect_status 255
    expect_out ''
    expect_err "alice\.crt.* is a client's certificate for .alice., not a server's"
    expect_err 'hint: .*legatus pki issue --server NAME'
}

serve_with_client_certificate() {
    serve_refuses --cert "$pki/alice.crt" --key "$pki/alice.key"
    # As in the environment of whoever is a client as well.
    serve_refuses --config /dev/null
}

# shows FILE: whether the server shows this certificate.
shows() {
    cmp <(timeout 15 openssl s_client -connect "$host" -alpn h2 -cert "$LEGATUS_CERT" -key "$LEGATUS_KEY" </dev/null |
        openssl x509) <(openssl x509 -in "$1")
}

# What the guide says of renewals.
renewed() {
    local authority=$pki
    cp -r "$pki" "$work/in-use"
    local pki=$work/in-use
    start_server
    shows "$authority/localhost.crt" || fail "the server does not show its certificate"
    run legatus pki issue --dir "$authority" --server localhost --san 127.0.0.1 --out "$pki/renewed"
    expect_status 0
    expect_out "$pki/renewed/localhost.crt
$pki/renewed/localhost.key"
    same "mode of the new key" 600 "$(stat -c %a "$pki/renewed/localhost.key")"
    cmp "$authority/localhost.key" "$pki/localhost.key" || fail "the key in the authority's folder was touched"
    cp "$pki/renewed/localhost.crt" "$work/renewed.crt"
    mv "$pki/renewed/localhost".* "$pki/"
    await 10 "the server shows the new certificate" shows "$work/renewed.crt"
    expect_server_alive
}

renewed_with_other_role() {
    cp -r "$pki" "$work/mistaken"
    local pki=$work/mistaken
    cp "$pki/localhost.crt" "$work/kept.crt"
    start_server
    mv "$pki/alice.crt" "$pki/localhost.crt"
    mv "$pki/alice.key" "$pki/localhost.key"
    await 10 "the server's log tells what is wrong" grep -q "a client's certificate for .alice., not a server's" "$server_log"
    shows "$work/kept.crt" || fail "the old certificate does not stay"
    expect_server_alive
}

# talk SECONDS PYTHON: a bare connection `s`; prints `closed` when the server closes it in time.
talk() {
    run timeout "$(($1 + 10))" python3 - "$port" "$1" <<END
import socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.settimeout(float(sys.argv[2]))
try:
    $2
    while s.recv(65536):
        pass
    print("closed")
except (ConnectionResetError, BrokenPipeError):
    print("closed")
except TimeoutError:
    print("open")
END
    expect_out closed
    expect_server_alive
}

plain_tcp() {
    talk 10 's.sendall(b"hello, is anybody there?\n" * 1000)'
}

plain_http() {
    talk 10 's.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")'
    run timeout 10 curl -s "http://$host/"
    ((status != 0)) || fail "HTTP without TLS is answered"
    expect_server_alive
}

http_over_tls() {
    run timeout 10 curl -s --http1.1 --cacert "$pki/ca.crt" --cert "$LEGATUS_CERT" --key "$LEGATUS_KEY" "https://$host/"
    ((status != 0)) || fail "HTTP/1 is answered"
    expect_server_alive
    run timeout 10 curl -s --http2 --cacert "$pki/ca.crt" --cert "$LEGATUS_CERT" --key "$LEGATUS_KEY" "https://$host/"
    expect_server_alive
}

silence() {
    talk 15 'pass'
}

one_byte_a_second() {
    talk 15 'hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)
    for byte in hello[:12]:
        s.sendall(bytes([byte]))
        time.sleep(1)'
}

garbage_in_tls() {
    head -c 1M /dev/urandom >"$work/garbage"
    s_client -cert "$LEGATUS_CERT" -key "$LEGATUS_KEY" <"$work/garbage"
    ((status != 124)) || fail "the server keeps the connection"
    expect_server_alive
    # Silence where HTTP/2 should begin.
    s_client -cert "$LEGATUS_CERT" -key "$LEGATUS_KEY" </dev/null
    ((status != 124)) || fail "the server keeps a connection without HTTP/2"
    expect_server_alive
}

many_silent_connections() {
    start python3 - "$port" >"$out" 2>"$err" <<'END'
import socket, sys, time
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(500)]
print("held", flush=True)
time.sleep(60)
END
    await 20 "500 connections are made" grep -q held "$out"
    # Those who say nothing may make others wait for the handshake's time-out, not longer.
    expect_server_alive
}

several_certificates() {
    "$LEGATUS" pki issue --dir "$pki" --server second.example >"$out"
    start_server --cert "$pki/second.example.crt" --key "$pki/second.example.key"
    s_client -servername second.example </dev/null
    said 'subject=.*second\.example'
    s_client -servername localhost </dev/null
    said 'subject=.*localhost'
}

key_types() {
    local kind folder
    for kind in rsa ed25519; do
        folder=$work/$kind
        "$LEGATUS" pki quickstart --dir "$folder" --server localhost --san 127.0.0.1 --client alice --key-type "$kind" >"$out"
        (
            pids=() pki=$folder
            trap clean_up EXIT
            export LEGATUS_CERT=$pki/alice.crt LEGATUS_KEY=$pki/alice.key LEGATUS_CA=$pki/ca.crt
            start_server
            expect_server_alive
        )
    done
}

chains() {
    mint chain between authority 'yesterday' 'now + 10 days'
    mint chain localhost serverAuth 'yesterday' 'now + 5 days' "$work/chain/between"
    mint chain alice clientAuth 'yesterday' 'now + 5 days' "$work/chain/between"
    cat "$work/chain/between.crt" >>"$work/chain/localhost.crt"
    cat "$work/chain/between.crt" >>"$work/chain/alice.crt"
    cp "$pki/ca.crt" "$work/chain/ca.crt"
    local pki=$work/chain
    export LEGATUS_CERT=$pki/alice.crt LEGATUS_KEY=$pki/alice.key
    start_server
    expect_server_alive
}

# --- what the client says ---------------------------------------------------------------------------

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

client_says() {
    local pattern=$1
    shift
    run legatus "$@"
    expect_status 255
    expect_err "$pattern"
    grep -qE 'panicked|RUST_BACKTRACE' "$err" && fail "the client panicked"
    same "lines without a backtrace (at most a message and a hint)" 1 "$(($(wc -l <"$err") <= 3))"
}

says_refused() {
    local nobody
    nobody=$(free_port)
    client_says "127\.0\.0\.1:$nobody.*refuse" shell "127.0.0.1:$nobody" -- true
    expect_err hint
}

says_unreachable() {
    need_root
    unshare -n true 2>/dev/null || skip "no network namespaces here"
    run timeout 30 unshare -n "$LEGATUS" --connect-timeout 3 shell 192.0.2.1 -- true
    expect_status 255
    expect_err 'unreachable'
    run timeout 30 unshare -n "$LEGATUS" --connect-timeout 3 shell no-such-host.invalid -- true
    expect_status 255
    expect_err 'no-such-host\.invalid'
}

says_unknown_authority() {
    client_says '(unknown|not (signed|trusted|known)|other).*(ca|authority|issuer)|(ca|authority|issuer).*(unknown|not)' \
        --ca "$other/ca.crt" shell "$host" -- true
}

says_rejected() {
    client_says '(certificate|ca).*(reject|refus|not accept|unknown|not trust)|(reject|refus).*certificate' \
        --cert "$other/alice.crt" --key "$other/alice.key" shell "$host" -- true
}

wrong_name() {
    listen=0.0.0.0:0 start_server
    client_says 'name' shell "127.0.0.2:$port" -- true
    expect_err '127\.0\.0\.2'
    expect_err 'localhost'
}

# with_certificate FOLDER: a server with the certificate that was minted there.
with_certificate() {
    cp "$pki/ca.crt" "$work/$1/ca.crt"
    local pki=$work/$1
    start_server
}

says_expired() {
    mint expired-server localhost serverAuth '3 days ago' '1 day ago'
    with_certificate expired-server
    client_says "expired.*$(date -u -d '1 day ago' +%Y-%m-%d)" shell "$host" -- true
}

says_not_yet_valid() {
    mint future-server localhost serverAuth 'now + 1 day' 'now + 3 days'
    with_certificate future-server
    client_says "not (yet )?valid.*$(date -u -d 'now + 1 day' +%Y-%m-%d)" shell "$host" -- true
}

says_no_certificate() {
    unset LEGATUS_CERT LEGATUS_KEY
    client_says 'certificate' shell "$host" -- true
    expect_err '--cert'
}

says_unreadable_files() {
    client_says 'no/such\.crt.*no such file' --cert /no/such.crt --key /no/such.key shell "$host" -- true
    echo nonsense >"$work/nonsense.crt"
    client_says 'nonsense\.crt' --cert "$work/nonsense.crt" --key "$LEGATUS_KEY" shell "$host" -- true
    client_says 'key' --cert "$LEGATUS_CERT" --key "$other/alice.key" shell "$host" -- true
}

says_unknown_module() {
    run legatus shel "$host" -- true
    expect_status 2 255
    expect_err 'shell'
    run legatus no-such-module "$host"
    expect_status 2 255
    expect_err 'no-such-module'
}

# something_else PYTHON: a server that treats each connection `c` so; sets port.
something_else() {
    start python3 -u - >"$work/else.out" <<END
import socket, time
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
held = []
while True:
    c, _ = s.accept()
    held.append(c)
    $1
END
    await 10 "the other server listens" grep -q . "$work/else.out"
    port=$(<"$work/else.out")
    host=127.0.0.1:$port
}

says_something_else_speaks() {
    something_else 'c.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")'
    client_says 'not (speak|a legatus|tls)|something else|no TLS|speaks' shell "$host" -- true
    something_else 'c.recv(1000); c.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"); c.close()'
    client_says 'not (speak|a legatus|tls)|something else|no TLS|speaks' shell "$host" -- true
    something_else 'c.close()'
    client_says 'closed|reset|something else' shell "$host" -- true
}

says_silent() {
    something_else 'pass'
    local start=$SECONDS
    client_says 'time|no answer|in time' --connect-timeout 2 shell "$host" -- true
    below "seconds until the client gives up" 6 $((SECONDS - start))
}

says_other_tls() {
    local other_port
    other_port=$(free_port)
    start openssl s_server -accept "127.0.0.1:$other_port" -cert "$pki/localhost.crt" -key "$pki/localhost.key" -www >"$work/s_server" 2>&1
    await 10 "openssl listens" grep -q ACCEPT "$work/s_server"
    client_says '' shell "127.0.0.1:$other_port" -- true
    [[ -s $err ]] || fail "the client says nothing"
    expect_err 'h2|HTTP/2|ALPN|something else|legatus server|not speak|speaks'
}

# --- pki ---------------------------------------------------------------------------------------------

pki_by_hand() {
    local dir=$work/by-hand
    run legatus pki init --dir "$dir"
    expect_status 0
    same "mode of the authority's key" 600 "$(stat -c %a "$dir/ca.key")"
    run legatus pki issue --dir "$dir" --server web1.example --san 10.0.0.1 --san www.example --days 7 \
        --subject 'C=IT,O=Legio X,OU=Castra'
    expect_status 0
    same "mode of a key" 600 "$(stat -c %a "$dir/web1.example.key")"
    openssl x509 -in "$dir/web1.example.crt" -noout -text >"$out"
    local wanted
    for wanted in 'DNS:web1.example' 'DNS:www.example' 'IP Address:10.0.0.1' 'TLS Web Server Authentication' \
        'C ?= ?IT' 'O ?= ?Legio X' 'OU ?= ?Castra'; do
        grep -Eq "$wanted" "$out" || fail "the certificate has no $wanted"
    done
    if grep -q 'TLS Web Client Authentication' "$out"; then fail "a server's certificate is a client's too"; fi
    openssl verify -CAfile "$dir/ca.crt" "$dir/web1.example.crt" >"$out" || fail "openssl does not accept it"
    run legatus pki issue --dir "$dir" --client bob
    expect_status 0
    run legatus pki show "$dir/bob.crt"
    expect_status 0
    for wanted in bob client 20[0-9][0-9]- "$(openssl x509 -in "$dir/bob.crt" -noout -fingerprint -sha256 | cut -d= -f2 | cut -c1-8)"; do
        tr -d : <"$out" | grep -Eqi "${wanted//:/}" || fail "pki show does not tell $wanted"
    done
    cp "$dir/bob.crt" "$work/bob.crt"
    run legatus pki issue --dir "$dir" --client bob
    expect_status 255 2 1
    expect_err 'exists'
    cmp "$dir/bob.crt" "$work/bob.crt" || fail "a certificate was overwritten without --force"
    run legatus pki init --dir "$dir"
    ((status != 0)) || fail "the authority was overwritten without --force"
    run legatus pki issue --dir "$dir" --client bob --force
    expect_status 0
    if cmp -s "$dir/bob.crt" "$work/bob.crt"; then fail "--force does nothing"; fi
    openssl req -new -newkey rsa:2048 -nodes -keyout "$dir/carol.key" -subj /CN=mallory -out "$work/carol.csr" 2>"$err"
    run legatus pki issue --dir "$dir" --client carol --csr "$work/carol.csr"
    expect_status 0
    openssl x509 -in "$dir/carol.crt" -noout -text >"$out"
    grep -q carol "$out" || fail "the signed request has not the name that was asked for"
    if grep -q mallory "$out"; then fail "the name was taken from the request"; fi
}

pki_roles() {
    local dir=$work/roles force
    run legatus pki quickstart --dir "$dir" --server web1 --client ann
    expect_status 0
    cp "$dir/ann.crt" "$dir/ann.key" "$work"
    for force in '' --force; do
        run legatus pki issue --dir "$dir" --server ann ${force:+"$force"}
        expect_status 255
        expect_err 'ann\.crt.* exists already.* role .client., not .server.'
        expect_err 'hint: .*--out DIR'
        cmp "$dir/ann.crt" "$work/ann.crt" || fail "a client's certificate became a server's"
        cmp "$dir/ann.key" "$work/ann.key" || fail "a client's key was replaced"
    done
    run legatus pki issue --dir "$dir" --client ann
    expect_status 255
    expect_err 'hint: .*--force'
    run legatus pki issue --dir "$dir" --server ann --out "$dir/servers"
    expect_status 0
    openssl verify -purpose sslserver -CAfile "$dir/ca.crt" "$dir/servers/ann.crt" >"$out" ||
        fail "openssl does not accept it as a server's"
}

later_than() {
    ((EPOCHSECONDS > $1))
}

# For people and for machines, in whatever part of a day.
pki_days_left() {
    local dir=$work/days
    "$LEGATUS" pki quickstart --dir "$dir" --server web1 --client ann >"$out"
    await 5 "the next second" later_than "$EPOCHSECONDS"
    run legatus pki show "$dir/ann.crt"
    expect_status 0
    grep -q '(365 days left)' "$out" || fail "there are not 365 days left"
    run legatus pki show --json "$dir/ann.crt"
    expect_status 0
    grep -q '"days_left":365,' "$out" || fail "there are not 365 days left for machines"
}

check "with the right certificate h2 is agreed over TLS 1.3" right_certificate
check "without a certificate it is refused" no_certificate
check "another authority's certificate is refused" other_authority
check "TLS 1.2 is refused" old_protocol
check "another application protocol is refused" other_application
check "there are no session tickets" no_tickets
check "an expired client is refused and told the date" expired_client
check "a client that is not valid yet is refused" future_client
check "a server's certificate is no client's" server_as_client
check "a client's certificate is no server's" client_as_server
check "a server does not start with a client's certificate" serve_with_client_certificate
check "a certificate is renewed beside the authority, and the server shows it" renewed
check "a renewal of the other role is refused, and the old certificate stays" renewed_with_other_role
check "plain TCP does no harm" plain_tcp
check "HTTP/1 in clear does no harm" plain_http
check "HTTP/1 over TLS is refused" http_over_tls
check "a connection that says nothing is closed" silence
check "one byte a second is closed in time" one_byte_a_second
check "garbage after the handshake does no harm" garbage_in_tls
check "500 silent connections do not keep others out" many_silent_connections
check "the certificate is chosen by the name asked for" several_certificates
check "RSA and Ed25519 keys work" key_types
check "certificates of an intermediate authority work" chains
check "the client tells that nobody listens" says_refused
check "the client tells that a host is unreachable or unknown" says_unreachable
check "the client tells that it does not know the server's authority" says_unknown_authority
check "the client tells that its certificate was rejected" says_rejected
check "the client tells that the server has another name" wrong_name
check "the client tells since when the server's certificate has expired" says_expired
check "the client tells when the server's certificate becomes valid" says_not_yet_valid
check "the client tells that it needs a certificate" says_no_certificate
check "the client tells which file it cannot use" says_unreadable_files
check "the client tells the nearest name of a module" says_unknown_module
check "the client tells that something else speaks there" says_something_else_speaks
check "the client gives up where nobody answers" says_silent
check "the client tells that another TLS server speaks there" says_other_tls
check "pki makes, shows, signs and never overwrites" pki_by_hand
check "pki does not put a server's certificate over a client's" pki_roles
check "pki tells people and machines the same days" pki_days_left
check "the server is alive after all that" expect_server_alive
finish

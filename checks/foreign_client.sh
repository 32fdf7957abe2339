#!/usr/bin/env bash
# A stock gRPC client in another language, made from the schema alone, works with the server.

# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"

make_pki
start_server

python=python3
# What is installed in just these versions is used; else it is fetched into the temporary folder.
installed() {
    python3 - "$checks/requirements.txt" <<'END'
import sys
from importlib.metadata import version
for line in open(sys.argv[1]):
    if not line.startswith("#"):
        name, wanted = line.strip().split("==")
        assert version(name) == wanted
END
}
if ! installed 2>/dev/null; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$checks/requirements.txt" >"$out" 2>&1 ||
        { echo "FAIL install grpcio"; cat "$out"; exit 1; }
    python=$work/venv/bin/python
fi

mkdir "$work/stubs"
mapfile -d '' -t protos < <(find "$repository/proto" -name '*.proto' -print0)
"$python" -m grpc_tools.protoc -I "$repository/proto" --python_out="$work/stubs" --grpc_python_out="$work/stubs" \
    "${protos[@]}" || { echo "FAIL generate stubs from proto/"; exit 1; }

foreign_client() {
    PYTHONPATH=$work/stubs GRPC_VERBOSITY=ERROR timeout 120 "$python" "$checks/foreign_client.py" "localhost:$port" "$1"
}

mapfile -t tests < <(foreign_client --list)
((${#tests[@]})) || { echo "FAIL list the foreign client's checks"; exit 1; }
for test in "${tests[@]}"; do check "a stock gRPC client: ${test//_/ }" foreign_client "$test"; done
check "the server is alive after all that" expect_server_alive
finish

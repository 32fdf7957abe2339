"""A Legatus client made from proto/ alone, with stock grpcio.

    foreign_client.py HOST:PORT TEST | --list

The certificate, its key and the CA are in the files that LEGATUS_CERT, LEGATUS_KEY and LEGATUS_CA name.
"""

import os
import platform
import queue
import socket
import sys
import tempfile
import threading
import time
import uuid

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from legatus.forward.v1 import forward_pb2
from legatus.shell.v1 import shell_pb2
from legatus.v1 import legatus_pb2, legatus_pb2_grpc

SECONDS = 30


def connect(address):
    def content(variable):
        with open(os.environ[variable], "rb") as file:
            return file.read()

    credentials = grpc.ssl_channel_credentials(
        root_certificates=content("LEGATUS_CA"),
        private_key=content("LEGATUS_KEY"),
        certificate_chain=content("LEGATUS_CERT"),
    )
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    return grpc.secure_channel(address, credentials, options)


class Call:
    """One invocation: messages to send go into a queue, replies are read as they come."""

    def __init__(self, stub, module, request=b"", id=None, **fields):
        self.id = id or uuid.uuid4().hex
        self.requests = queue.Queue()
        self.requests.put(
            legatus_pb2.CallRequest(
                open=legatus_pb2.Open(call_id=self.id, module=module, request=request, **fields)
            )
        )
        self.replies = stub.Call(iter(self.requests.get, None), timeout=SECONDS)

    def send(self, **part):
        message = shell_pb2.Input(**part).SerializeToString()
        self.requests.put(legatus_pb2.CallRequest(message=message))

    def half_close(self):
        self.requests.put(None)

    def outputs(self):
        """Yields the module's messages; the outcome is there afterwards."""
        self.outcome = None
        for reply in self.replies:
            assert self.outcome is None, "something follows the outcome"
            if reply.WhichOneof("part") == "outcome":
                self.outcome = reply.outcome
            elif reply.WhichOneof("part") == "message":
                yield shell_pb2.Output.FromString(reply.message)
        assert self.outcome is not None, "the call ended without an outcome"

    def finish(self):
        """Returns stdout, stderr and the outcome."""
        stdout, stderr = b"", b""
        for output in self.outputs():
            stdout += output.stdout
            stderr += output.stderr
        return stdout, stderr, self.outcome


def shell(stub, *arguments, **fields):
    request = shell_pb2.Request(command=shell_pb2.Command(arguments=arguments))
    return Call(stub, "shell", request.SerializeToString(), **fields)


def started(call):
    """Reads until the command has started; returns its process id and the iterator of the rest."""
    outputs = call.outputs()
    for output in outputs:
        if output.HasField("started"):
            return output.started.process_id, outputs
    raise AssertionError("no `started` came")


def expect_gone(process):
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{process}"):
        assert time.monotonic() < deadline, f"process {process} is still there"
        time.sleep(0.05)


def expect_kind(outcome, kind):
    assert outcome.WhichOneof("kind") == kind, f"outcome {outcome} instead of {kind}"


# --- the checks ------------------------------------------------------------------------------------


def reads_describe(channel, stub):
    reply = stub.Describe(legatus_pb2.DescribeRequest(), timeout=SECONDS)
    assert reply.host == platform.node(), reply.host
    assert reply.identity == "alice", reply.identity
    assert reply.protocol == 1, reply.protocol
    assert reply.version
    modules = {spec.name: spec for spec in reply.modules}
    assert {"shell", "transfer-file"} <= modules.keys(), modules.keys()
    assert modules["shell"].has_commander
    assert legatus_pb2.EFFECT_EXEC in modules["shell"].effects
    assert "cp" in modules["transfer-file"].aliases
    assert reply.limits.message_bytes >= 1 << 20


def gets_health(channel, stub):
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in "", "legatus.v1.Legatus":
        request = health_pb2.HealthCheckRequest(service=service)
        assert health.Check(request, timeout=SECONDS).status == serving, service


def lists_services_by_reflection(channel, stub):
    services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {"legatus.v1.Legatus", "grpc.health.v1.Health"} <= services, services


def runs_uname(channel, stub):
    stdout, stderr, outcome = shell(stub, b"uname", b"-s").finish()
    expect_kind(outcome, "exit")
    assert (stdout, stderr, outcome.exit) == (b"Linux\n", b"", 0), (stdout, stderr, outcome)


def finds_modules_in_any_case(channel, stub):
    request = shell_pb2.Request(command=shell_pb2.Command(arguments=[b"true"]))
    call = Call(stub, "SHELL", request.SerializeToString())
    assert call.finish()[2].exit == 0


def sends_stdin_and_reads_streams(channel, stub):
    call = shell(stub, b"sh", b"-c", b"cat; echo err >&2; exit 7")
    data = os.urandom(300_000)
    for start in range(0, len(data), 100_000):
        call.send(stdin=data[start : start + 100_000])
    call.send(stdin_end=shell_pb2.Empty())
    stdout, stderr, outcome = call.finish()
    assert stdout == data and stderr == b"err\n" and outcome.exit == 7


def ends_stdin_by_half_closing(channel, stub):
    call = shell(stub, b"cat")
    call.send(stdin=b"text")
    call.half_close()
    assert call.finish()[0] == b"text"


def runs_a_script(channel, stub):
    request = shell_pb2.Request(script=shell_pb2.Script(name=b"x.sh", arguments=[b"a"]))
    call = Call(stub, "shell", request.SerializeToString())
    for part in b"#!/bin/sh\necho $1", b" b; exit 3\n":
        call.send(script=part)
    call.send(script_end=shell_pb2.Empty())
    stdout, _, outcome = call.finish()
    assert stdout == b"a b\n" and outcome.exit == 3, (stdout, outcome)


def cancels_by_control(channel, stub):
    call = shell(stub, b"sleep", b"100")
    process, outputs = started(call)
    control = legatus_pb2.ControlRequest(call_id=call.id, cancel=legatus_pb2.Empty())
    assert stub.Control(control, timeout=SECONDS).delivered
    for _ in outputs:
        pass
    expect_kind(call.outcome, "cancelled")
    expect_gone(process)
    assert not stub.Control(control, timeout=SECONDS).delivered, "a call that has ended is controlled"


def signals_by_control(channel, stub):
    call = shell(stub, b"sleep", b"100")
    process, outputs = started(call)
    control = legatus_pb2.ControlRequest(call_id=call.id, signal=15)
    assert stub.Control(control, timeout=SECONDS).delivered
    for _ in outputs:
        pass
    expect_kind(call.outcome, "signal")
    assert call.outcome.signal == 15
    expect_gone(process)


def cancels_by_reset(channel, stub):
    call = shell(stub, b"sleep", b"100")
    process, _ = started(call)
    call.replies.cancel()
    expect_gone(process)


def has_a_deadline(channel, stub):
    call = shell(stub, b"sleep", b"100", timeout_milliseconds=300)
    expect_kind(call.finish()[2], "timeout")


def control_passes_unread_stdin(channel, stub):
    call = shell(stub, b"sleep", b"100")
    process, outputs = started(call)
    for _ in range(200):
        call.send(stdin=bytes(1 << 18))
    control = legatus_pb2.ControlRequest(call_id=call.id, signal=2)
    assert stub.Control(control, timeout=SECONDS).delivered
    for _ in outputs:
        pass
    assert call.outcome.signal == 2, call.outcome
    expect_gone(process)


def sixty_four_stuck_calls_do_not_slow_another(channel, stub):
    stuck = [shell(stub, b"cat", b"/dev/zero") for _ in range(64)]
    for call in stuck:
        started(call)
    for _ in range(5):
        assert shell(stub, b"echo", b"fast").finish()[0] == b"fast\n"
    for call in stuck:
        call.replies.cancel()
    assert shell(stub, b"echo", b"after").finish()[0] == b"after\n"


def unknown_modules_are_told_with_the_nearest_name(channel, stub):
    outcome = Call(stub, "shel").finish()[2]
    expect_kind(outcome, "unavailable")
    text = outcome.unavailable.message + outcome.unavailable.hint
    assert "shel" in text and "shell" in text, text


def expect_refused(call):
    """An outcome that tells why, or a gRPC status that does; no exit."""
    try:
        outcome = call.finish()[2]
    except grpc.RpcError as error:
        assert error.code() not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED), error
        assert error.details(), error
        return
    kind = outcome.WhichOneof("kind")
    assert kind in ("failed", "unavailable"), outcome
    assert getattr(outcome, kind).message, outcome


def nonsense_is_refused(channel, stub):
    expect_refused(Call(stub, "shell", b"\xff\xff\xff\xff"))
    expect_refused(Call(stub, "shell", b""))
    expect_refused(Call(stub, "transfer-file", b"\x08\x01"))
    expect_refused(Call(stub, "x" * 100_000))
    expect_refused(shell(stub))
    expect_refused(shell(stub, b"a\0b"))
    call = Call(stub, "shell", b"")
    call.requests = queue.Queue()
    for first in (
        legatus_pb2.CallRequest(message=b"no open before"),
        legatus_pb2.CallRequest(),
        legatus_pb2.CallRequest(open=legatus_pb2.Open(module="shell")),
        legatus_pb2.CallRequest(open=legatus_pb2.Open(call_id="../../x y", module="shell")),
    ):
        call.replies = stub.Call(iter([first]), timeout=SECONDS)
        expect_refused(call)


def one_id_is_one_call(channel, stub):
    call = shell(stub, b"sleep", b"100")
    process, _ = started(call)
    second = shell(stub, b"true")
    second.replies.cancel()
    request = shell_pb2.Request(command=shell_pb2.Command(arguments=[b"true"])).SerializeToString()
    first = legatus_pb2.CallRequest(open=legatus_pb2.Open(call_id=call.id, module="shell", request=request))
    second.replies = stub.Call(iter([first]), timeout=SECONDS)
    expect_refused(second)
    call.replies.cancel()
    expect_gone(process)


def oversized_messages_are_refused(channel, stub):
    call = shell(stub, b"cat")
    process, outputs = started(call)
    call.send(stdin=bytes(4 << 20))
    try:
        for _ in outputs:
            pass
    except grpc.RpcError as error:
        assert error.code() != grpc.StatusCode.DEADLINE_EXCEEDED, error
    else:
        expect_kind(call.outcome, "failed")
    expect_gone(process)
    expect_refused(Call(stub, "shell", bytes(4 << 20)))


def messages_after_the_open_must_make_sense(channel, stub):
    call = shell(stub, b"cat")
    process, outputs = started(call)
    call.requests.put(legatus_pb2.CallRequest(message=b"\xff\xff\xff"))
    try:
        for _ in outputs:
            pass
    except grpc.RpcError as error:
        assert error.code() != grpc.StatusCode.DEADLINE_EXCEEDED, error
    else:
        expect_kind(call.outcome, "failed")
    expect_gone(process)


def many_calls_run_at_once(channel, stub):
    def run(number, results):
        results[number] = shell(stub, b"echo", str(number).encode()).finish()[0]

    results = {}
    threads = [threading.Thread(target=run, args=(number, results)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n".encode() for number in range(40)}


def attaching_runs_nothing(channel, stub):
    """What a client says beside the session that it wants was not looked at by policy."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        marker = os.path.join(folder, "marker")
        command = shell_pb2.Command(arguments=[b"touch", marker.encode()])
        tcp = forward_pb2.Tcp(host="127.0.0.1", port=listener.getsockname()[1])
        requests = {
            "shell": shell_pb2.Request(command=command),
            "forward": forward_pb2.Request(connect=forward_pb2.Socket(tcp=tcp)),
        }
        for module, request in requests.items():
            for resume in False, True:
                attach = legatus_pb2.Attach(session=uuid.uuid4().hex, resume=resume)
                call = Call(stub, module, request.SerializeToString(), attach=attach)
                expect_kind(call.finish()[2], "lost")
        assert not os.path.exists(marker)
        listener.settimeout(0)
        try:
            listener.accept()
        except BlockingIOError:
            return
        raise AssertionError("a connection was made")


def a_call_in_doubt_begins_once(channel, stub):
    """However often it is said, as clients do whose connections are lost before the first answer."""
    with tempfile.TemporaryDirectory() as folder:
        runs = os.path.join(folder, "runs")
        command = shell_pb2.Command(arguments=[b"sh", b"-c", f"echo ran >>{runs}; exit 3".encode()])
        request = shell_pb2.Request(command=command).SerializeToString()
        id = uuid.uuid4().hex
        attach = legatus_pb2.Attach(session=id, resume=True, or_open=True)
        keeping = legatus_pb2.Keeping(linger_milliseconds=10_000, keep_milliseconds=1_000)
        calls = [Call(stub, "shell", request, id=id, attach=attach, keeping=keeping) for _ in range(10)]
        outcomes = []
        for call in calls:
            try:
                outcomes.append(call.finish()[2])
            except (grpc.RpcError, AssertionError):
                pass  # another has taken its place
        assert any(outcome.exit == 3 for outcome in outcomes), outcomes
        with open(runs) as file:
            assert file.read() == "ran\n"


TESTS = [
    attaching_runs_nothing,
    a_call_in_doubt_begins_once,
    reads_describe,
    gets_health,
    lists_services_by_reflection,
    runs_uname,
    finds_modules_in_any_case,
    sends_stdin_and_reads_streams,
    ends_stdin_by_half_closing,
    runs_a_script,
    cancels_by_control,
    signals_by_control,
    cancels_by_reset,
    has_a_deadline,
    control_passes_unread_stdin,
    sixty_four_stuck_calls_do_not_slow_another,
    unknown_modules_are_told_with_the_nearest_name,
    nonsense_is_refused,
    one_id_is_one_call,
    oversized_messages_are_refused,
    messages_after_the_open_must_make_sense,
    many_calls_run_at_once,
]


def main():
    address, name = sys.argv[1:]
    tests = {test.__name__: test for test in TESTS}
    if name == "--list":
        print("\n".join(tests))
        return
    with connect(address) as channel:
        tests[name](channel, legatus_pb2_grpc.LegatusStub(channel))
    # Threads that still feed a request must not hold the process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

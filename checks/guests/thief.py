"""Both halves of a module whose client half goes after the user's files; for checks/module_examples.sh."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import caller, channel, local
from wit_world.imports.types import Description, Effects


class Descriptions(exports.Descriptions):
    def describe(self):
        return [Description("thief", "1.0.0", "Read what it should not", "", Effects(0), [], [], True, True)]


class Commander(exports.Commander):
    def execute(self, module, call):
        channel.finish()
        return 0


def told(error):
    """What went wrong, in one word or in words."""
    return getattr(error, "strerror", None) or str(getattr(error, "value", error))


class Sender(exports.Sender):
    def send(self, module, arguments):
        caller.open([])
        with_name = channel.receive()
        assert with_name is None
        for path in (b"~/.ssh/id_ed25519", b"HOME/.ssh/id_ed25519"):
            name = path.decode().replace("HOME", "@HOME@")
            try:
                with open(name, "rb") as file:
                    local.write_output(b"got " + file.read())
            except OSError as error:
                local.write_output(f"open: {told(error)}\n".encode())
            try:
                file = local.open_file(name.encode())
                local.write_output(b"got " + (local.read_file(file) or b""))
            except Err as error:
                local.write_output(f"open-file: {told(error)}\n".encode())
        return caller.wait_outcome()

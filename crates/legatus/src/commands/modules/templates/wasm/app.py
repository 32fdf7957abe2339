"""NAME: a module for Legatus."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import channel
from wit_world.imports.types import (
    Argument,
    ArgumentKind,
    Call,
    Description,
    Effects,
    Example,
    Fault,
    ValueKind,
)

WHOM = Argument(
    name="whom",
    short=None,
    kind=ArgumentKind.POSITIONAL,
    value=ValueKind.TEXT,
    value_name="WHOM",
    help="Whom to greet",
    required=True,
    repeated=False,
)


class Descriptions(exports.Descriptions):
    def describe(self):
        return [
            Description(
                name="NAME",
                version="0.1.0",
                summary="Greet somebody",
                details="",
                effects=Effects(0),
                arguments=[WHOM],
                examples=[Example("legatus NAME web1 world", "Greets the world")],
                commander=True,
                sender=False,
            )
        ]


class Commander(exports.Commander):
    def execute(self, module: str, call: Call) -> int:
        """Greets the first argument, then sends back what it gets. Returns the exit status."""
        if len(call.arguments) != 1:
            raise Err(Fault("whom to greet?", "name somebody"))
        channel.send(b"hello, " + call.arguments[0] + b"\n")
        while (message := channel.receive()) is not None:
            channel.send(message)
        return 0

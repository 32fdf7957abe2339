"""A host's facts as JSON: one object, with what could not be read under `missing`.

Each fact comes from files below a few folders, which the configuration of the server has to grant:
what it does not grant is missing, and nothing else goes wrong.
"""

import json
import platform

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


def text(path):
    """The text of a file, without the end of its last line."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip().strip("\0")


def system():
    """Which system it is, from os-release(5)."""
    lines = (line.partition("=") for line in text("/usr/lib/os-release").splitlines())
    told = {key: value.strip("\"'") for key, _, value in lines}
    return {"id": told.get("ID"), "version": told.get("VERSION_ID"), "name": told.get("PRETTY_NAME")}


def processors():
    """How many processors are there, and how many of them are in use."""

    def count(ranges):
        ends = (part.split("-") for part in ranges.split(",") if part)
        return sum(int(part[-1]) - int(part[0]) + 1 for part in ends)

    folder = "/sys/devices/system/cpu"
    return {"present": count(text(f"{folder}/present")), "online": count(text(f"{folder}/online"))}


def memory():
    """The machine's memory in bytes, over all its nodes."""
    total = free = 0
    for part in text("/sys/devices/system/node/online").split(","):
        first, _, last = part.partition("-")
        for node in range(int(first), int(last or first) + 1):
            for line in text(f"/sys/devices/system/node/node{node}/meminfo").splitlines():
                _, _, name, amount, *_ = line.split()
                total += int(amount) * 1024 if name == "MemTotal:" else 0
                free += int(amount) * 1024 if name == "MemFree:" else 0
    return {"total": total, "free": free}


def kernel(name):
    """One of the kernel's parameters."""
    return lambda: text(f"/proc/sys/kernel/{name}")


def hardware():
    """Who made the machine, and what it is called."""
    folder = "/sys/devices/virtual/dmi/id"
    return {"vendor": text(f"{folder}/sys_vendor"), "product": text(f"{folder}/product_name")}


FACTS = {
    "hostname": kernel("hostname"),
    "kernel": kernel("osrelease"),
    "boot": kernel("random/boot_id"),
    "system": system,
    "processors": processors,
    "memory": memory,
    "hardware": hardware,
}


def facts(names):
    """The facts of these names, and why others could not be told."""
    told, missing = {}, {}
    for name in names:
        try:
            told[name] = FACTS[name]()
        except (OSError, ValueError) as error:
            missing[name] = getattr(error, "strerror", None) or str(error)
    return {**told, "missing": missing}


class Descriptions(exports.Descriptions):
    def describe(self):
        names = ", ".join(FACTS)
        return [
            Description(
                name="facts",
                version="1.0.0",
                summary="Tell facts about the host as JSON",
                details=f"Facts are: {names}. Gathered by Python {platform.python_version()}.",
                effects=Effects.READ,
                arguments=[
                    Argument(
                        name="fact",
                        short=None,
                        kind=ArgumentKind.POSITIONAL,
                        value=ValueKind.TEXT,
                        value_name="FACT",
                        help="Only these facts [default: all]",
                        required=False,
                        repeated=True,
                    )
                ],
                examples=[
                    Example("legatus facts web1", "Tells all facts"),
                    Example("legatus facts web1 hostname memory", "Tells two of them"),
                ],
                commander=True,
                sender=False,
            )
        ]


class Commander(exports.Commander):
    def execute(self, module: str, call: Call) -> int:
        asked = [word.decode("utf-8", "replace") for word in call.arguments if word != b"--"]
        unknown = [name for name in asked if name not in FACTS]
        if unknown:
            raise Err(Fault(f"there is no fact `{unknown[0]}`", "facts are: " + ", ".join(FACTS)))
        told = json.dumps(facts(asked or FACTS), indent=2, ensure_ascii=False)
        channel.send(told.encode() + b"\n")
        return 0

"""The frame of every recipe: options, servers, verdicts, exit status."""

import argparse
import contextlib
import json
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import cleanup, legatus, peers

OURS = "legatus"


@dataclass
class Figure:
    """One measured figure against its limit."""

    name: str
    value: float
    unit: str
    limit: float
    at_most: bool
    # What was seen, by contender: median and unit, for people.
    seen: dict = field(default_factory=dict)
    # Every single value, by contender.
    values: dict = field(default_factory=dict)
    # CPU by contender, for people.
    cpu: dict = field(default_factory=dict)

    def met(self):
        """Whether the figure keeps its limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def line(self, judged):
        """The figure for people."""
        verdict = ("ok" if self.met() else "MISSED") if judged else "not judged"
        seen = "   ".join(f"{who} {what}" for who, what in self.seen.items())
        bound = f"{'at most' if self.at_most else 'at least'} {self.limit:g}{self.unit}"
        return f"{self.name:<34} {self.value:>9.2f}{self.unit:<5} {bound:<18} {verdict:<10} {seen}"


class Recipe:
    """A recipe's run. Use as a context manager, then exit with `status()`."""

    def __init__(self, name, description, rounds, smoke_rounds=1, options=None):
        self.name = name
        self.figures = []
        self._stack = contextlib.ExitStack()
        self.parser = argparse.ArgumentParser(
            prog=f"bench/{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        option = self.parser.add_argument
        option("--legatus", metavar="FILE", help="program (default: target/release/legatus)")
        option("--rounds", type=int, help=f"runs of each contender (default: {rounds})")
        option("--smoke", action="store_true", help="tiny; proves the recipe, judges nothing")
        option("--json", metavar="FILE", help="append the figures with all values to FILE")
        if options is not None:
            options(option)
        self._rounds = (rounds, smoke_rounds)

    def __enter__(self):
        self.options = self.parser.parse_args()
        self.rounds = self.options.rounds or self._rounds[self.options.smoke]
        self.binary = legatus.find_binary(self.options.legatus)
        cleanup.end_cleanly_on_signals()
        try:
            self.folder = self._stack.enter_context(cleanup.scratch_folder())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def pick(self, full, smoke):
        """A size, depending on --smoke."""
        return smoke if self.options.smoke else full

    def enter(self, manager):
        """Keeps a context manager open until the recipe ends."""
        return self._stack.enter_context(manager)

    def legatus(self, *options):
        """Starts a Legatus server."""
        return self.enter(legatus.server(self.binary, self.folder, options))

    def peers(self):
        """Starts the peers' servers."""
        return self.enter(peers.servers(self.folder))

    def compare(self, name, contenders, judge, limit, at_most, amount=None):
        """Adds the ratio of medians between Legatus and the contender named `judge`.

        Without `amount` the values are milliseconds; with it (in MB) they are MB/s.
        """
        unit = " ms" if amount is None else " MB/s"
        values = {}
        for contender in contenders:
            seconds = contender.seconds()
            values[contender.name] = [
                1e3 * second if amount is None else amount / second for second in seconds
            ]
        medians = {who: statistics.median(them) for who, them in values.items()}
        self.add(
            Figure(
                name=name,
                value=medians[OURS] / medians[judge],
                unit=" x",
                limit=limit,
                at_most=at_most,
                seen={who: f"{median:.4g}{unit}" for who, median in medians.items()},
                values=values,
                cpu={contender.name: _cpu_text(contender) for contender in contenders},
            )
        )

    def add(self, figure):
        """Prints and keeps a figure."""
        self.figures.append(figure)
        print(figure.line(not self.options.smoke), flush=True)
        for who, what in figure.cpu.items():
            print(f"    CPU of {who}: {what}", flush=True)
        if self.options.json:
            record = {"recipe": self.name, "smoke": self.options.smoke, "met": figure.met()}
            with Path(self.options.json).open("a") as file:
                file.write(json.dumps({**record, **asdict(figure)}) + "\n")

    def status(self):
        """Exit status: 1 if a figure is missed; a smoke run judges nothing."""
        missed = [figure.name for figure in self.figures if not figure.met()]
        return 1 if missed and not self.options.smoke else 0


def _cpu_text(contender):
    own, reaped = contender.server_cpu
    text = f"client {1e3 * contender.client_cpu():.1f} ms"
    if contender.server is not None:
        text += f", server {1e3 * own:.1f} ms, its children {1e3 * reaped:.1f} ms"
    return text


def main(body, *arguments, **keywords):
    """Runs `body(recipe)` in a new recipe and exits with its verdict."""
    recipe = Recipe(*arguments, **keywords)
    try:
        with recipe:
            body(recipe)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(recipe.status())

"""Results: collected while measuring, then written as JSON, Markdown and plots."""

import json
import statistics
from pathlib import Path

from . import plot
from .cases import EVERY
from .contenders import CONTENDERS
from .targets import TARGETS

HERE = Path(__file__).parent.parent


class Results:
    targets = TARGETS

    def __init__(self, machine, plan):
        self.machine, self.plan = machine, plan
        self.runs = {}  # (case, contender): one dictionary a repetition
        self.extra = {"memory": {}, "syscalls": {}}
        self.failures = []

    def median(self, case, contender, figure):
        return statistics.median(run[figure] for run in self.runs[case, contender])

    def value(self, kind, *path):
        found = self.extra[kind]
        for step in path:
            found = found[step]
        return found

    def per_client(self, contender, state):
        """KiB."""
        memory = self.value("memory", contender)
        return (memory[state] - memory["rest"]) / memory["clients"]

    def requests(self, case):
        return self.plan.requests * EVERY[case].many

    def write(self, into):
        into.mkdir(parents=True, exist_ok=True)
        (into / "results.json").write_text(json.dumps(self._json(), indent=1) + "\n")
        (into / "RESULTS.md").write_text("\n".join(self._markdown()) + "\n")
        (into / "cpu.svg").write_text(self._plot("CPU per request", ("cpu_us",), ("us, median",)))
        (into / "latency.svg").write_text(self._plot(
            f"Latency at {self.plan.rate:,} requests a second", ("p50", "p99"), ("p50", "p99, us")))

    def _json(self):
        runs = [{"case": case, "contender": contender, "repetitions": runs} for (case, contender), runs
                in self.runs.items()]
        return {"machine": self.machine, "plan": vars(self.plan), "runs": runs, **self.extra,
                "targets": targets_json(self.targets, self),
                "failures": self.failures}

    def _plot(self, title, figures, series):
        groups = [(EVERY[case].what, [(name, tuple(self.median(case, name, figure) for figure in figures))
                                      for name in self._contenders(case)]) for case in self._cases()]
        return plot.bars(title, groups, series)

    def _cases(self):
        return [case for case in EVERY if self._contenders(case)]

    def _contenders(self, case):
        return [name for name in EVERY[case].contenders if (case, name) in self.runs]

    def _markdown(self):
        yield "# Results"
        yield ""
        yield ("Written by `benches/compare/run`; [README.md](README.md) says what is measured and how to read it, [NOTES.md](NOTES.md)"
               " has remarks by hand.")
        yield ""
        yield from table(("machine", ""), [(key, str(value)) for key, value in self.machine.items()])
        yield "## Targets"
        yield ""
        yield ("Ratios are of medians of this run; 5 % over a limit is a tie. Allocations are not of this run:"
               " `tests/instructions/run` has counted them, in `tests/instructions/record.json`. What was tried where a"
               " target is missed, and what would be needed: [NOTES.md](NOTES.md#missed).")
        yield ""
        yield from targets_table(self.targets, self)
        for case in self._cases():
            yield from self._case(case)
        yield from self._workers()
        yield "## CPU and latency"
        yield ""
        yield "![CPU per request](cpu.svg)"
        yield ""
        yield "![latency](latency.svg)"
        yield ""
        yield from self._memory()
        yield from self._syscalls()
        if self.failures:
            yield "## Left out"
            yield ""
            yield from (f"- {failure}" for failure in self.failures)
            yield ""

    def _case(self, case):
        yield f"## {EVERY[case].what}"
        yield ""
        yield (f"{self.requests(case):,} requests, 32 in flight; then {self.plan.rate:,} a second for latency,"
               " in microseconds from the moment each was due. TIME_WAIT: of clients / proxy / upstream.")
        yield ""
        head = ("", "", "CPU us/request", "least - most", "requests/s", "p50", "p90", "p99", "p99.9",
                "connections opened", "TIME_WAIT", "wrong, failed")
        rows = []
        for name in self._contenders(case):
            def middle(figure):
                return f"{self.median(case, name, figure):,.0f}"
            cpu = [run["cpu_us"] for run in self.runs[case, name]]
            total = [sum(run[figure] for run in self.runs[case, name]) for figure in ("wrong", "failed")]
            left = " / ".join(middle(f"time_wait_{side}") for side in ("client", "proxy", "upstream"))
            rows.append((name, CONTENDERS[name].what, f"**{statistics.median(cpu):.1f}**",
                         f"{min(cpu):.1f} - {max(cpu):.1f}", middle("per_second"), middle("p50"), middle("p90"),
                         middle("p99"), middle("p99.9"), middle("opened"), left, f"{total[0]}, {total[1]}"))
        yield from table(head, rows)

    def _workers(self):
        pairs = [(case, name.rpartition(", ")[0], name) for case in self._cases() for name in self._contenders(case)
                 if CONTENDERS[name].workers > 1]
        rows = [(EVERY[case].what, f"{self.median(case, many, 'cpu_us') / self.median(case, one, 'cpu_us'):.2f}")
                for case, one, many in pairs if (case, one) in self.runs]
        if rows:
            yield "## Two workers"
            yield ""
            yield ("CPU per request of two workers over that of one. The two have both cores, one of them shared with load"
                   " and server.")
            yield ""
            yield from table(("", "over one"), rows)

    def _memory(self):
        if not self.extra["memory"]:
            return
        yield "## Memory"
        yield ""
        yield "Resident, with idle clients that have sent nothing yet, and after one request each."
        yield ""
        yield from table(("", "clients", "at rest, MiB", "idle, MiB", "after a request, MiB", "KiB a client", "after a request"), [
            (name, f"{memory['clients']:,}", *(f"{memory[state] / 1024:.1f}" for state in ("rest", "idle", "asked")),
             f"{self.per_client(name, 'idle'):.2f}", f"{self.per_client(name, 'asked'):.2f}")
            for name, memory in self.extra["memory"].items()])

    def _syscalls(self):
        if not self.extra["syscalls"]:
            return
        yield "## System calls per request"
        yield ""
        yield (f"`strace -c` over {self.plan.traced:,} requests, 32 in flight. Under strace the proxy is slower, so more"
               " requests share a wake-up than without.")
        yield ""
        for case, counted in self.extra["syscalls"].items():
            yield f"{EVERY[case].what}:"
            yield ""
            yield from table(("", *counted), call_rows(counted))


def measured(figure, results):
    """None where what it needs was not measured."""
    try:
        return figure(results)
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def verdicts(targets, results):
    for target in targets:
        figure = measured(target.figure, results)
        if figure is None:
            yield target, None, "not measured"
            continue
        tied = figure <= target.limit * (1 + target.tie)
        yield target, figure, "reached" if figure <= target.limit else "a tie" if tied else "**missed**"


def targets_json(targets, results):
    return [{"what": target.what, "limit": target.limit, "unit": target.unit, "figure": figure, "verdict": verdict}
            for target, figure, verdict in verdicts(targets, results)]


def targets_table(targets, results):
    yield from table(("", "target", "measured", ""), [
        (target.what, f"≤ {target.limit:g} {target.unit}", "-" if figure is None else f"{figure:.2f} {target.unit}",
         verdict) for target, figure, verdict in verdicts(targets, results)])


def call_rows(counted):
    """`counted`: what strace has found, by column."""
    names = sorted({name for found in counted.values() for name, calls in found["calls"].items() if calls >= 0.005},
                   key=lambda name: (-max(found["calls"].get(name, 0) for found in counted.values()), name))
    yield ("**all**", *(f"**{found['total']:.2f}**" for found in counted.values()))
    for name in names:
        yield (f"`{name}`", *(f"{found['calls'].get(name, 0):.2f}" for found in counted.values()))


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.strip() for cell in row) + " |"
    yield ""

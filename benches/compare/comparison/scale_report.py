"""The results of `../scale`: collected while measuring, then written as JSON, Markdown and a plot."""

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Callable

from . import fit, plot
from .report import call_rows, measured, table, targets_json, targets_table
from .series import HOST_RATE, SERIES, SERVER_RATE, SYSCALLS, TOGETHER
from .targets import Target

# Its name, what varies, the state looked at.
LINES = {
    "silent": ("clients", "silent", "an idle client that has sent nothing yet"),
    "asked": ("clients", "asked", "an idle client, after a request"),
    "open": ("connections", "open", "an upstream connection"),
    "used": ("connections", "used", "an upstream connection, after requests"),
    "untouched": ("upstreams", "untouched", "an upstream in the file, without connections"),
    "working": ("upstreams", "used", "an upstream with a connection, after a request"),
}


def proxied(series):
    return SERIES[series].points[0].proxy


def last_over_first(series, figure):
    def ratio(r):
        points = SERIES[series].points
        return r.median(series, points[-1].value, figure) / r.median(series, points[0].value, figure)
    return ratio


def growth(what, series):
    return [Target(f"{what}, {kind} connections", 1.2, last_over_first(series, f"proxy_{kind}"))
            for kind in ("short", "persistent")]


TARGETS = [
    *growth("10 to 10,000 idle clients: CPU per request", "clients"),
    *growth("1 to 64 upstream connections, exclusive: CPU per request", "exclusive"),
    *growth("1 to 64 upstream connections, multiplex: CPU per request", "multiplex"),
    *growth("1 to 500 upstreams, load on one: CPU per request", "upstreams"),
    *growth("1 to 500 upstreams, load on all: CPU per request", "everywhere"),
    Target("memory at rest", 6.0, lambda r: r.line("asked").intercept / 1024, "MiB", tie=0),
    Target("memory per idle client", 1.5, lambda r: r.line("silent").slope, "KiB", tie=0),
    Target("memory per idle client, after a request", 1.5, lambda r: r.line("asked").slope, "KiB", tie=0),
    Target("upstream connections opened under load", 0,
           lambda r: max(r.median(*key, "opened") for key in r.runs if proxied(key[0])), tie=0),
]


@dataclass(frozen=True)
class Coefficient:
    """A figure that `docs/scaling/simulate.py` reads."""

    name: str
    what: str
    figure: Callable


COEFFICIENTS = [
    Coefficient("server_rate", "requests a second at which the server was measured", lambda r: SERVER_RATE),
    *(Coefficient(f"server_{kind}_us", f"server, direct, {kind} connections: CPU us/request",
                  lambda r, kind=kind: r.median("rate direct", SERVER_RATE, f"server_{kind}"))
      for kind in ("short", "persistent")),
    *(Coefficient(f"server_{mode}_short_us", f"server behind warmline, {mode}, short client connections: CPU us/request",
                  lambda r, mode=mode: r.median(f"rate {mode}", SERVER_RATE, "server_short"))
      for mode in ("multiplex", "exclusive")),
    Coefficient("host_rate", "requests a second at which the host was measured", lambda r: HOST_RATE),
    *(Coefficient(f"proxy_{mode}_us", f"warmline, {mode}, short connections: CPU us/request",
                  lambda r, mode=mode: r.median(f"rate {mode}", HOST_RATE, "proxy_short"))
      for mode in ("multiplex", "exclusive")),
    Coefficient("base_kib", "warmline at rest: KiB", lambda r: r.line("asked").intercept),
    Coefficient("client_kib", "an idle client, after a request: KiB", lambda r: r.line("asked").slope),
    Coefficient("connection_kib", "an upstream connection, after requests: KiB", lambda r: r.line("used").slope),
    Coefficient("upstream_kib", "an upstream in the file: KiB", lambda r: r.line("untouched").slope),
    Coefficient("kernel_kib", "kernel, a TCP connection, both ends: KiB", lambda r: statistics.median(r.kernel)),
]


class Results:
    def __init__(self, machine, plan):
        self.machine, self.plan = machine, plan
        self.runs = {}  # (series, value): one dictionary a repetition
        self.memory = {"clients": [], "connections": [], "upstreams": []}  # (value, states) each
        self.together, self.start, self.kernel = [], [], []
        self.syscalls = {}  # (series, value)
        self.failures = []

    def median(self, series, value, figure):
        return statistics.median(run[figure] for run in self.runs[series, value])

    def line(self, name):
        """KiB over what varies."""
        varied, state, _ = LINES[name]
        return fit.line([(value, states[state]) for value, states in self.memory[varied]])

    def _lines(self):
        return {name: self.line(name) for name, (varied, *_) in LINES.items() if self.memory[varied]}

    def predicted(self):
        """KiB at the point where clients, connections and upstreams come together."""
        c = self.coefficients()
        return (c["base_kib"] + TOGETHER.clients * c["client_kib"] + TOGETHER.upstreams * c["upstream_kib"]
                + TOGETHER.upstreams * TOGETHER.connections * c["connection_kib"])

    def coefficients(self):
        return {c.name: measured(c.figure, self) for c in COEFFICIENTS}

    def write(self, into):
        into.mkdir(parents=True, exist_ok=True)
        (into / "scale.json").write_text(json.dumps(self._json(), indent=1) + "\n")
        (into / "SCALE.md").write_text("\n".join(self._markdown()) + "\n")
        (into / "scale.svg").write_text(self._plot())

    def _json(self):
        return {
            "machine": self.machine, "plan": vars(self.plan),
            "coefficients": self.coefficients(),
            "targets": targets_json(TARGETS, self),
            "lines": {name: asdict(line) for name, line in self._lines().items()},
            "runs": [{"series": series, "value": value, "repetitions": runs}
                     for (series, value), runs in self.runs.items()],
            "memory": self.memory, "together": self.together, "start": self.start, "kernel": self.kernel,
            "syscalls": [{"series": series, "value": value, **found}
                         for (series, value), found in self.syscalls.items()],
            "failures": self.failures,
        }

    def _plot(self):
        panels = []
        for series in SERIES.values():
            values = [point.value for point in series.points if (series.name, point.value) in self.runs]
            if len(values) > 1 and proxied(series.name):
                panels.append((series.what, series.axis, [
                    (kind, [(value, self.median(series.name, value, f"proxy_{kind}")) for value in values])
                    for kind in ("short", "persistent") if f"proxy_{kind}" in self.runs[series.name, values[0]][0]]))
        return plot.lines("CPU of warmline per request, us", panels)

    def _markdown(self):
        yield "# Scale"
        yield ""
        yield ("Written by `benches/compare/scale`; [README.md](README.md) says what is measured and how to read it."
               " What a fleet makes of it: [docs/scaling.md](../../docs/scaling.md). Remarks, and of which run:"
               " [NOTES-SCALE.md](NOTES-SCALE.md).")
        yield ""
        yield from table(("machine", ""), [(key, str(value)) for key, value in self.machine.items()])
        yield "## Targets"
        yield ""
        yield "Ratios are of medians of this run, the last row of a table over its first; 5 % over a limit is a tie."
        yield ""
        yield from targets_table(TARGETS, self)
        yield "## CPU per request"
        yield ""
        yield (f"{self.plan.requests:,} requests with a connection each, then {self.plan.many:,} on connections that"
               f" make 200 each; at a rate, {self.plan.rate_seconds} s of it. Microseconds of CPU, medians (least - most).")
        yield ""
        yield "![CPU per request](scale.svg)"
        yield ""
        for series in SERIES.values():
            yield from self._series(series)
        yield from self._syscalls()
        yield from self._memory()
        yield from self._start()
        if self.failures:
            yield "## Left out"
            yield ""
            yield from (f"- {failure}" for failure in self.failures)
            yield ""

    def _series(self, series):
        rows = []
        for point in series.points:
            key = (series.name, point.value)
            if key not in self.runs:
                continue
            cells = [self._spread(key, f"{who}_{kind}") for who in ("proxy", "server")
                     for kind in ("short", "persistent")]
            total = [sum(run[figure] for run in self.runs[key]) for figure in ("wrong", "failed")]
            rows.append((f"{point.value:,}" if series.axis else "", *cells, f"{self.median(*key, 'opened'):,.0f}",
                         f"{total[0]}, {total[1]}"))
        if rows:
            yield f"### {series.what}"
            yield ""
            yield from table((series.axis, "warmline, short", "warmline, persistent", "server, short",
                              "server, persistent", "connections opened", "wrong, failed"), rows)

    def _spread(self, key, figure):
        found = [run[figure] for run in self.runs[key] if figure in run]
        return f"**{statistics.median(found):.1f}** ({min(found):.1f} - {max(found):.1f})" if found else ""

    def _syscalls(self):
        ends = [(name, point.value) for name in SYSCALLS for point in (SERIES[name].points[0], SERIES[name].points[-1])]
        found = {f"{name} {value:,}": self.syscalls[name, value] for name, value in ends
                 if (name, value) in self.syscalls}
        if not found:
            return
        yield "## System calls per request"
        yield ""
        yield f"`strace -c` over {self.plan.traced:,} short connections, at the first and the last point of a series."
        yield ""
        yield from table(("", *found), call_rows(found))

    def _memory(self):
        lines = self._lines()
        if not lines:
            return
        yield "## Memory"
        yield ""
        yield (f"Resident memory of warmline, measured {times(self.plan.memory_repetitions)} at each point, and the"
               " straight line (least squares) through them.")
        yield ""
        yield from table(("KiB for each further one", "", "at none, MiB", "points", "largest residual, KiB",
                          "of the highest point"), [
            (LINES[name][2], f"**{line.slope:.2f}**", f"{line.intercept / 1024:.1f}", self._points(name),
             f"{line.residual:.0f}", f"{100 * line.residual / self._highest(name):.1f} %")
            for name, line in lines.items()])
        if self.together and len(lines) == len(LINES):
            c = self.coefficients()
            yield (f"**{c['base_kib'] / 1024:.1f} MiB + {c['client_kib']:.2f} KiB a client + {c['connection_kib']:.2f} KiB"
                   f" an upstream connection + {c['upstream_kib']:.2f} KiB an upstream.** With {TOGETHER.clients:,} clients,"
                   f" {TOGETHER.upstreams} upstreams and {TOGETHER.upstreams * TOGETHER.connections} connections at once"
                   f" that makes {self.predicted() / 1024:.1f} MiB; measured:"
                   f" {statistics.median(self.together) / 1024:.1f} MiB.")
            yield ""
        if self.kernel:
            yield (f"The kernel's own, not in the above: {statistics.median(self.kernel):.1f} KiB for a TCP connection with"
                   " both ends on this host (growth of the slabs), as long as its buffers are empty.")
            yield ""

    def _points(self, name):
        return ", ".join(f"{value:,}" for value in sorted({value for value, _ in self.memory[LINES[name][0]]}))

    def _highest(self, name):
        varied, state, _ = LINES[name]
        return max(states[state] for _, states in self.memory[varied])

    def _start(self):
        if not self.start:
            return
        yield "## Start-up"
        yield ""
        yield ("Until every upstream has its first connection and a request has its reply. The time on the clock is only"
               " indicative.")
        yield ""
        rows = []
        for value in sorted({value for value, _ in self.start}):
            found = [times for at, times in self.start if at == value]
            cpu, wall = (statistics.median(times[figure] for times in found) for figure in ("cpu_ms", "wall_ms"))
            rows.append((f"{value:,}", f"**{cpu:.0f}**", f"{wall:.0f}"))
        yield from table(("upstreams", "CPU, ms", "time, ms"), rows)


def times(count):
    return "once" if count == 1 else f"{count} times"

"""What `../thrift` adds to the measurement and the results of `../run`: its plan, its targets and its document."""

import json
import statistics

from . import report
from .cases import ENVOYS, THRIFT
from .measure import Plan
from .report import table, targets_table
from .targets import Target, cpu, opened, share_left

# More and shorter repetitions than those of `../run`: the ratio of two of the same repetition says how far to trust it.
FULL = Plan(repetitions=15, requests=6000, rate_seconds=1)


def beside_the_better(case, contender):
    """CPU over that of whichever Envoy took less."""
    return lambda r: max(cpu(case, contender, envoy)(r) for envoy in ENVOYS)


def ratio(case, contender):
    return Target(f"{case}, {contender.removeprefix('warmline ')}: CPU over Envoy's", 0.5, beside_the_better(case, contender))


# All of warmline that is measured.
WARMLINES = [(name, contender) for name, case in THRIFT.items() for contender in case.contenders if "warmline" in contender]
TARGETS = [
    *(ratio(*each) for each in WARMLINES),
    Target("upstream connections opened in all repetitions, all of these", 0,
           lambda r: sum(opened(*each)(r) for each in WARMLINES), tie=0),
    Target("TIME_WAIT left, the most of these", 0.5, lambda r: max(share_left(*each)(r) for each in WARMLINES), "%", tie=0),
]


class Results(report.Results):
    targets = TARGETS

    def write(self, into):
        into.mkdir(parents=True, exist_ok=True)
        (into / "thrift.json").write_text(json.dumps(self._json(), indent=1) + "\n")
        (into / "THRIFT.md").write_text("\n".join(self._markdown()) + "\n")

    def _markdown(self):
        yield "# Thrift"
        yield ""
        yield ("Written by `benches/compare/thrift`; [README.md](README.md#thrift) says what is measured, [NOTES.md](NOTES.md#thrift)"
               " has remarks by hand.")
        yield ""
        yield from table(("machine", ""), [(key, str(value)) for key, value in self.machine.items()])
        yield "## Targets"
        yield ""
        yield ("Ratios are of medians of this run, over the Envoy that took less; 5 % over a limit is a tie. TIME_WAIT is in % of"
               " the calls.")
        yield ""
        yield from targets_table(self.targets, self)
        for case in self._cases():
            yield from self._case(case)
            yield from self._beside(case)
        yield from self._syscalls()
        if self.failures:
            yield "## Left out"
            yield ""
            yield from (f"- {failure}" for failure in self.failures)
            yield ""

    def _beside(self, case):
        """Each beside each Envoy, and what the server has of it."""
        envoys = [name for name in ENVOYS if (case, name) in self.runs]
        rows = []
        for name in self._contenders(case):
            runs = self.runs[case, name]
            rows.append((name, *(self._ratio(case, name, envoy) for envoy in envoys),
                         f"{self.median(case, name, 'server_us'):.1f}", f"{100 * self.median(case, name, 'waited'):.0f}",
                         f"{max(run['accepted'] for run in runs):,}"))
        yield ("CPU of the proxy over Envoy's: ratio of the medians (quartiles of the ratios of one repetition). CPU of the server"
               " in us a call. Without a core: the time for which other programs had that of the proxy. Connections that"
               " the server has accepted in all, warm-up and fixed rate included, at most.")
        yield ""
        yield from table(("", *(f"over {envoy}" for envoy in envoys), "CPU of the server", "without a core, %",
                          "connections in all"), rows)

    def _ratio(self, case, name, envoy):
        if name in (envoy, "direct"):
            return ""
        ratios = [one["cpu_us"] / other["cpu_us"] for one, other in zip(self.runs[case, name], self.runs[case, envoy])]
        low, _, high = statistics.quantiles(ratios) if len(ratios) > 1 else ratios * 3
        middle = self.median(case, name, "cpu_us") / self.median(case, envoy, "cpu_us")
        return f"**{middle:.2f}** ({low:.2f} - {high:.2f})"

"""What the commands `run` and `scale` have in common: options, the machine they run on, a measurement that fails."""

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import install, measure
from .contenders import CONTENDERS
from .lab import Failed, need_root
from .report import HERE


def options(what, quick):
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--quick", action="store_true", help=f"one short repetition, {quick}")
    parser.add_argument("--out", type=Path, help="where to write (default: here; with --quick: target/compare)")
    found = parser.parse_args()
    found.out = found.out or (install.ROOT / "target" / "compare" if found.quick else HERE)
    return found


def prepare():
    need_root()
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("benches/compare needs two cores: one for the proxy, one for load and server")


def attempt(results, what, measurement, *parameters):
    """A measurement that fails is named in the results, and the others go on."""
    try:
        return measurement(*parameters)
    except (Failed, OSError, subprocess.TimeoutExpired) as failure:
        results.failures.append(f"{what}: {failure}")
        install.say(results.failures[-1])
        return None


def load(results, cases, plan, programs):
    """All cases with all contenders, as often as planned: interleaved."""
    for repetition in range(1, plan.repetitions + 1):
        for case in cases.values():
            install.say(f"{case.name}, repetition {repetition} of {plan.repetitions}")
            for name in present(case.contenders, programs):
                found = attempt(results, name, measure.under_load, case.name, name, plan, programs)
                if found:
                    results.runs.setdefault((case.name, name), []).append(found)


def syscalls(results, cases, plan, programs):
    install.say("system calls")
    if "strace" not in programs:
        return
    for case, contenders in cases:
        for name in present(contenders, programs):
            found = attempt(results, f"system calls of {name}", measure.syscalls, case, name, plan, programs)
            if found:
                results.extra["syscalls"].setdefault(case, {})[name] = found


def present(contenders, programs):
    return [name for name in contenders if CONTENDERS[name].program is None or CONTENDERS[name].program in programs]


def machine(programs):
    cpu = next(line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
               if line.startswith("model name"))
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return {
        "command": f"benches/compare/{Path(sys.argv[0]).name} " + " ".join(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown",
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "rustc": subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=False).stdout.strip(),
        **install.versions(programs),
        "load average before": average(),
    }


def machine_after(begin):
    return {"took": f"{time.monotonic() - begin:.0f} s", "load average after": average()}


def average():
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def finish(results, out):
    """Writes, and ends the command: with an error if a reply was wrong."""
    results.write(out)
    install.say(f"written to {out}")
    bad = [key for key, runs in results.runs.items() if any(run["wrong"] for run in runs)]
    return f"compare: wrong replies: {bad}" if bad else 0

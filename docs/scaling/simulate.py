#!/usr/bin/env python3
"""Simulates a fleet with the coefficients that `benches/compare/scale` has measured, and writes the figures, the plots
and the tables of `../scaling.md`. `--check`: whether they are those of the coefficients and of this simulation.
`--test`: whether the simulation is right, and the rules of that page with it."""

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import checks
import fleet
from tables import PLOTS, TABLES

HERE = Path(__file__).parent
TEXT, FIGURES = HERE.parent / "scaling.md", HERE / "figures.json"
MEASURED = HERE.parent.parent / "benches" / "compare" / "scale.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file would change")
    parser.add_argument("--test", action="store_true", help="compare the simulation with theory")
    options = parser.parse_args()
    if options.test:
        sys.exit(checks.run())
    coefficients = json.loads(MEASURED.read_text())["coefficients"]
    if missing := [name for name, value in coefficients.items() if value is None]:
        sys.exit(f"{MEASURED.name} lacks {', '.join(missing)}: run benches/compare/scale, and look at what it left out")
    if options.check:
        sys.exit(stale(coefficients))
    figures = fleet.figures(coefficients)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    for name, plot in PLOTS.items():
        (HERE / name).write_text(plot(figures))
    TEXT.write_text(filled(TEXT.read_text(), figures))


def stale(coefficients):
    """What is not as this program would write it now, or nothing. What takes seconds is not simulated again."""
    figures = json.loads(FIGURES.read_text())
    if figures.get("sources") != fleet.sources():
        return "host.py, fleet.py or subset.py is not what the figures were made with: run docs/scaling/simulate.py"
    expected = fleet.rounded({
        "coefficients": coefficients, "assumptions": asdict(fleet.FLEET), "load": asdict(fleet.LOAD),
        "memory": fleet.memory(coefficients), "at_once": fleet.at_once(),
        "hosts": fleet.hosts(coefficients, figures["fleet"])})
    found = [f"figures.json: {name}" for name, value in expected.items() if not alike(value, figures[name])]
    if filled(TEXT.read_text(), figures) != TEXT.read_text():
        found.append("the tables of scaling.md")
    found += [name for name, plot in PLOTS.items() if plot(figures) != (HERE / name).read_text()]
    return f"not up to date: {', '.join(found)}; run docs/scaling/simulate.py" if found else 0


def alike(one, other):
    """The same, but for the last of the digits that are kept."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) <= 0.002 * abs(one)
    return one == other


def filled(text, figures):
    """`text` with the tables of `figures` between their markers."""
    names = re.findall(r"<!-- begin (\w+) -->", text)
    if sorted(names) != sorted(TABLES):
        raise SystemExit(f"scaling.md has places for {names}, there are {list(TABLES)}")
    for name, table in TABLES.items():
        body = "\n".join(table(figures)).strip()
        before, after = text.split(f"<!-- begin {name} -->\n")
        text = f"{before}<!-- begin {name} -->\n{body}\n<!-- end -->{after.partition('<!-- end -->')[2]}"
    return text


if __name__ == "__main__":
    main()

"""The tables and the plot of `../scaling.md`, from the figures."""

import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benches" / "compare"))
from comparison import plot as drawing  # noqa: E402
from comparison.report import table  # noqa: E402

from fleet import EXCLUSIVE, MULTIPLEXED, PORTS, SHORT, SIZES, TIME_WAIT_SECONDS  # noqa: E402
from subset import DOWN  # noqa: E402


def number(value):
    """Short, for people."""
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{value:,.0f}" if value >= 20 or value == int(value) else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def percent(cores):
    return f"{number(100 * cores)} % of a core" if cores else "0"


def assumptions(figures):
    a, load = figures["assumptions"], figures["load"]
    came = figures["offered"]
    whole = a["hosts"] * a["rate"]
    yield from table(("assumed", ""), [
        ("hosts, servers", f"{a['hosts']:,}, {a['servers']}"),
        ("requests", f"{number(a['rate'])} a second and host (simulated: {came:.1f}), {number(whole / a['servers'])} a second and server"),
        ("a host is busy", f"for {load['on']} s, then quiet for {load['off']} s, on average (exponential)"),
        ("a burst", f"1 to {load['largest']} requests (Pareto, {load['alpha']}), {1000 * load['apart']:g} ms apart"),
        ("a server needs", f"{1000 * load['service']:g} ms for one on average (log-normal, sigma {load['sigma']:g}),"
                           " whatever its load"),
        ("round trip", f"{1000 * a['rtt']:g} ms"),
        ("processes that ask", f"{a['processes']} a host, each replaced after {a['process_requests']:,} requests"),
    ])


def paragraph(*sentences):
    return textwrap.wrap(" ".join(sentences), 140, break_long_words=False, break_on_hyphens=False)


def short(figures):
    direct, pooled, shared = (next(one for one in figures["fleet"] if one["name"] == name)
                              for name in (SHORT, EXCLUSIVE, MULTIPLEXED))
    def of(way, key):
        return number(way[key])
    yield from paragraph(
        f"Of {of(direct, 'handshakes')} handshakes a second at each server, {of(pooled, 'handshakes')} are left (multiplex:",
        f"{of(shared, 'handshakes')}); of {of(direct, 'time_wait')} sockets in TIME_WAIT, none. A call is",
        f"{1000 * figures['assumptions']['rtt']:g} ms shorter, the round trip of the connect. A server holds",
        f"{of(pooled, 'mean')} open connections in place of {of(direct, 'mean')} short-lived ones: **in exclusive more, not",
        f"fewer**; in multiplex {of(shared, 'mean')}.")


def servers(figures):
    rate = number(figures["coefficients"]["server_rate"])
    yield from table(("seen by a server", "connections, mean", "p99", "peak", "handshakes a second", "of these, for bursts",
                      "TIME_WAIT, if it closes first", "kernel memory, MiB",
                      f"CPU for connections and echo, measured at {rate} requests a second"), [
        (one["name"], *(number(one[key]) for key in ("mean", "p99", "peak", "handshakes")),
         number(one["for_bursts"]) if "for_bursts" in one else "",
         *(number(one[key]) for key in ("time_wait", "kernel_mib")), percent(one["cores"])) for one in figures["fleet"]])


def hosts(figures):
    measured = number(figures["coefficients"]["host_rate"])
    yield from table(("paid by a host", f"CPU of warmline, measured at {measured} requests a second", "memory of warmline, MiB", "TIME_WAIT, if clients close first",
                      f"ports of {PORTS:,}, to one server address", "wait for a connection, p99, ms"), [
        (one["name"], percent(one["cores"]), *(number(one[key]) for key in ("mib", "time_wait", "ports")),
         number(one["p99_wait_ms"]) if "p99_wait_ms" in one else "") for one in figures["hosts"]])
    rate = figures["assumptions"]["rate"]
    yield from paragraph(
        f"One host can open {PORTS // TIME_WAIT_SECONDS} short connections a second to one server address before its ports",
        f"are used up; at {number(rate)} a second it takes {number(rate * TIME_WAIT_SECONDS)} of them.")


def balance(figures):
    c, a = figures["coefficients"], figures["assumptions"]
    rows = []
    for mode in ("exclusive", "multiplex"):
        paid, direct, behind = c[f"proxy_{mode}_us"], c["server_short_us"], c[f"server_{mode}_short_us"]
        saved = direct - behind
        whole = a["hosts"] * a["rate"] / 1e6
        rows.append((mode, f"{paid:.0f}", f"{direct:.0f}", f"{behind:.0f}", f"{saved:.0f}", number(paid * whole), number(saved * whole)))
    at_host, at_server = (f"us, at {number(c[key])} a second" for key in ("host_rate", "server_rate"))
    yield from table(("CPU of a request", f"paid at the host, {at_host}", f"server, direct, {at_server}",
                      f"server behind warmline, {at_server}", "saved at the server, us", "paid by all hosts, cores",
                      "saved by all servers, cores"), rows)


def waiting(figures):
    sweeps = figures["sweep"]
    yield from table(("`max_connections`, exclusive", *(f"{number(s['rate'])} requests a second" for s in sweeps)), [
        *((str(size), *(cell(s, size) for s in sweeps)) for size in SIZES[:max(len(s["pools"]) for s in sweeps)]),
        ("multiplex, at most 4", *(wait(s["multiplex"]) for s in sweeps)),
        ("**enough**", *(f"**{s['enough'] or 'more'}**" for s in sweeps)),
        ("in service on average (Little's law)", *(number(s["in_service"]) for s in sweeps)),
        ("in service when a request comes, itself included, p99", *(number(s["p99_found"]) for s in sweeps)),
        ("simulated", *(f"{s['offered']:,.1f} a second for {s['hosts'] * s['seconds']:,} s" for s in sweeps)),
    ])


def cell(sweep, size):
    return next((wait(row) for row in sweep["pools"] if row["max_connections"] == size), "")


def wait(row):
    refused = f", {100 * row['refused']:.1f} % refused" if row["refused"] else ""
    return f"{number(row['mean_ms'])} / {number(row['p99_ms'])} ms, {number(row['open'])} open{refused}"


def together(figures):
    yield from table(("all hosts at once", "connections of a server", "handshakes at a server", "last reply after, ms"), [
        (one["name"], *(number(one[key]) for key in ("connections", "handshakes", "last_ms")))
        for one in figures["at_once"]])


def subsets(figures):
    a = figures["assumptions"]
    hosts, servers = a["hosts"], a["servers"]
    def row(name, one, changed, moved, shared, without):
        return (name, number(one["mean"]), f"{number(one['least'])} to {number(one['most'])}",
                f"{100 * (one['most'] / one['mean'] - 1):.0f} %", number(changed), f"{100 * moved:.2g} %", *shared, without)
    yield from table(("`subset`", "hosts of a server, mean", "least to most", "requests of the busiest, above the mean",
                      "hosts that change when a server comes", "of all connections, moved then", "deterministic: hosts",
                      "deterministic: moved", f"hosts cut off while {DOWN} servers are down"), [
        *(row(f"{one['subset']}", one, one["changed"], one["moved"],
              (number(one["deterministic"]["changed"]), f"{100 * one['deterministic']['moved']:.0f} %"),
              number(one["cut_off"])) for one in figures["subsets"]),
        row("0 (all)", {"mean": hosts, "least": hosts, "most": hosts}, hosts, 1 / (servers + 1), ("", ""), "0")])


def memory(figures):
    c = figures["coefficients"]
    yield from paragraph(
        f"**{c['base_kib'] / 1024:.1f} MiB + {c['client_kib']:.2f} KiB × clients + {c['connection_kib']:.2f} KiB ×",
        f"upstream connections + {c['upstream_kib']:.2f} KiB × upstreams**, and {c['kernel_kib']:.1f} KiB of the kernel for each",
        "connection on loopback.")
    yield ""
    yield from table(("clients", "upstream connections", "upstreams", "resident, MiB"), [
        (*(f"{one[key]:,}" for key in ("clients", "connections", "upstreams")), f"{one['mib']:.1f}")
        for one in figures["memory"]])


TABLES = {"short": short, "assumptions": assumptions, "servers": servers, "hosts": hosts, "balance": balance,
          "waiting": waiting, "together": together, "subsets": subsets, "memory": memory}


def waiting_plot(figures):
    panels = [(f"{number(s['rate'])} requests a second", "max_connections, exclusive",
               [("", [(row["max_connections"], row["p99_ms"]) for row in s["pools"]])]) for s in figures["sweep"]]
    return drawing.lines("Time that requests wait for a connection, p99, ms", panels)


def connections_plot(figures):
    rows = [(one["name"], (one["mean"], one["peak"])) for one in figures["fleet"]]
    return drawing.bars("Connections of a server", [("", rows)], ("mean", "peak"))


PLOTS = {"waiting.svg": waiting_plot, "connections.svg": connections_plot}

"""Whether the simulation is right where theory knows the answer, and whether a wrong one would be noticed."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import queueing
import subset
from fleet import MULTIPLEX, NEAR, PERSISTENT, RATES, SHORT, TIME_WAIT_SECONDS, WARM_UP, offered, traffic
from host import TICK, Host, Load, Pool, direct, found_at_arrival, requests

FIGURES = Path(__file__).parent / "figures.json"

SEED = 7
MARKOV = Load(rate=400.0, on=0, alpha=0, sigma=0, service=0.010)
SECONDS = 300
BURSTY = Load(rate=100.0)


def run():
    """0, or what failed."""
    checks = (erlang_by_hand, waits_are_those_of_m_m_c, requests_here_are_rate_times_stay,
              short_connections_are_poisson, bursts_have_the_mean_they_should, a_pool_stays_within_its_bounds,
              an_idle_connection_is_closed, a_pool_that_stays_full_opens_nothing, what_bursts_open_does_not_fade,
            the_rate_is_what_is_meant, a_request_finds_those_that_came_before,
            subsets_are_spread_as_chance_has_it, a_server_more_takes_one_place_of_its_share_of_hosts,
            hosts_are_cut_off_as_often_as_the_formula_says, the_formulas_of_the_page_give_its_table, the_rule_of_thumb_gives_the_size_that_is_enough)
    failed = [check.__name__ for check in checks if not check()]
    print(f"{len(checks)} checks, {len(failed)} failed")
    return f"failed: {', '.join(failed)}" if failed else 0


def near(found, expected, share):
    return abs(found - expected) <= share * expected


def erlang_by_hand():
    # One server: as many wait as find it busy. Two at a load of 1: a third.
    return near(queueing.erlang_c(50, 0.01, 1), 0.5, 1e-9) and near(queueing.erlang_c(100, 0.01, 2), 1 / 3, 1e-9)


def waits_are_those_of_m_m_c():
    """And those of a pool one larger or smaller are not."""
    arrivals = requests(MARKOV, SECONDS, random.Random(SEED))
    rate = len(arrivals) / SECONDS
    mean_service = sum(service for _, service in arrivals) / len(arrivals)
    for size in (5, 6):
        waits = Host(Pool(size, min_connections=size), 0.0).run(arrivals, SECONDS).waits
        mean = sum(waits) / len(waits)
        expected = queueing.mean_wait(rate, mean_service, size)
        other = queueing.mean_wait(rate, mean_service, size + 1)
        if not near(mean, expected, 0.1) or near(mean, other, 0.1):
            return False
    return True


def requests_here_are_rate_times_stay():
    """Little's law, in bursts, for any pool."""
    arrivals = requests(BURSTY, SECONDS / 5, random.Random(SEED))
    for pool in (Pool(16), Pool(32, endpoints=5), MULTIPLEX):
        # Until long after the last arrival, so that all have left.
        run = Host(pool, 0.0005).run(arrivals, SECONDS)
        if run.refused or len(run.waits) != len(arrivals) or not near(run.held, run.sojourns, 1e-6):
            return False
    return True


def short_connections_are_poisson():
    """M/G/infinity: mean and variance are rate times life."""
    load = Load(rate=2000.0, on=0, alpha=0, service=0.010, sigma=0.5)
    counts = direct(requests(load, 200, random.Random(SEED)), 0.0005, 200)[100:-1]
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    return near(mean, 2000 * 0.011, 0.03) and near(variance, mean, 0.12)


def bursts_have_the_mean_they_should():
    slow = replace(BURSTY, rate=5.0)
    return near(len(requests(slow, 20_000, random.Random(SEED))) / 20_000, slow.rate, 0.05)


def a_pool_stays_within_its_bounds():
    arrivals = requests(BURSTY, 60, random.Random(SEED))
    for pool in (Pool(4), Pool(8, min_connections=3, endpoints=3), MULTIPLEX):
        ticks = Host(pool, 0.0005).run(arrivals, 60).ticks
        if max(ticks) > pool.max_connections or min(ticks) < pool.min_connections:
            return False
    return True


def an_idle_connection_is_closed():
    """A burst of four, and nothing more: two rest, the others go after `idle_timeout`."""
    pool = Pool(4, min_connections=2, idle_timeout=5.0)
    ticks = Host(pool, 0.0005).run([(1.0, 0.1)] * 4, 60).ticks
    at = [ticks[math.ceil(second / TICK)] for second in (0.5, 3, 8)]
    return at == [2, 4, 2]


def a_pool_that_stays_full_opens_nothing():
    """Its first connections belong to the warm-up."""
    arrivals = requests(BURSTY, 4 * WARM_UP, random.Random(SEED))
    cold, warm = (Host(Pool(4), 0.0005, begin).run(arrivals, 4 * WARM_UP) for begin in (0, WARM_UP))
    return cold.opened == 3 and warm.opened == 0


def what_bursts_open_does_not_fade():
    """As much in the first half of what is counted as in the second."""
    half = 600
    arrivals = traffic(100, 4, 2 * half)
    both, second = (sum(Host(Pool(32), 0.0005, begin).run(one, WARM_UP + 2 * half).opened for one in arrivals)
                    for begin in (WARM_UP, WARM_UP + half))
    return near(both - second, second, 0.35)


def the_rate_is_what_is_meant():
    return all(near(offered(traffic(rate, 1, 60), 1, 60), rate, NEAR) for rate in RATES)


def a_request_finds_those_that_came_before():
    """The first has left when the third comes; a round trip is part of its stay."""
    return found_at_arrival([(1.0, 0.1), (1.05, 0.2), (1.105, 0.1), (1.2, 0.1)], 0.01, 1.05) == [2, 3, 3]


def subsets_are_spread_as_chance_has_it():
    """Mean and variance of the hosts of a server are binomial; deterministic ones do not vary."""
    hosts, servers, size = 4000, 100, 5
    def variance(subsets):
        counts = [sum(server in one for one in subsets) for server in range(servers)]
        mean = sum(counts) / servers
        return mean, sum((count - mean) ** 2 for count in counts) / servers
    mean, drawn = variance([subset.rendezvous(one, size, servers) for one in subset.rankings(hosts, servers)])
    same, shared = variance([subset.deterministic(host, size, servers) for host in range(hosts)])
    share = size / servers
    return mean == same == hosts * share and near(drawn, hosts * share * (1 - share), 0.4) and shared == 0


def a_server_more_takes_one_place_of_its_share_of_hosts():
    """Which deterministic subsetting does not."""
    hosts, servers, size = 4000, 100, 5
    ranked = list(subset.rankings(hosts, servers + 1))
    due = hosts * size / (servers + 1)
    changed, places = 0, set()
    for one in ranked:
        before, after = (subset.rendezvous(one, size, count) for count in (servers, servers + 1))
        changed += after != before
        places |= after - before
    shared = sum(subset.deterministic(host, size, servers) != subset.deterministic(host, size, servers + 1)
                 for host in range(hosts))
    return places == {servers} and near(changed, due, 0.3) and shared > 5 * due


def hosts_are_cut_off_as_often_as_the_formula_says():
    hosts, servers, size = 20_000, 40, 2
    down = set(range(subset.DOWN))
    found = sum(subset.rendezvous(one, size, servers) <= down for one in subset.rankings(hosts, servers))
    return near(found, hosts * subset.cut_off(size, servers), 0.1)


def the_formulas_of_the_page_give_its_table():
    """Those of "For your own figures"."""
    figures = json.loads(FIGURES.read_text())
    a, load = figures["assumptions"], figures["load"]
    per_server = a["hosts"] * a["rate"] / a["servers"]
    lives = a["process_requests"] * a["processes"] / a["rate"]
    for one in figures["fleet"]:
        if one["name"] == SHORT:
            mean = per_server * (load["service"] + 2 * a["rtt"])
            opened, left = per_server, per_server * TIME_WAIT_SECONDS
        elif one["name"] == PERSISTENT:
            mean, left = a["hosts"] * a["processes"] / a["servers"], 0
            opened = mean / lives
        else:
            mean, left = a["hosts"] * one["open"] / a["servers"], 0
            opened = mean / a["max_lifetime"] + one["for_bursts"]
        if not (near(one["mean"], mean, 0.05) and near(one["handshakes"], opened, 0.01) and one["time_wait"] == left):
            print(one, mean, opened, left)
            return False
    return True


def the_rule_of_thumb_gives_the_size_that_is_enough():
    """The power of two that holds what 99 of 100 requests find in service, themselves included."""
    sweeps = json.loads(FIGURES.read_text())["sweep"]
    return all(one["enough"] == 2 ** math.ceil(math.log2(one["p99_found"])) for one in sweeps)

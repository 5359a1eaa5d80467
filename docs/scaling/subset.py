"""Which servers each host of a fleet uses where `balance.subset` says how many, as `src/pool/subset.rs` draws them: each
host ranks the servers by a draw of its own and uses the first ones (rendezvous hashing). Chance stands for the hash. Beside
it deterministic subsetting, as the SRE book of Google has it."""

import math
import random
from collections import Counter

SEED = 6
SIZES = (2, 5, 10, 20, 50)
# Servers that are down at the same time.
DOWN = 10


def rankings(hosts, servers):
    """By host: the servers in the order of its draws. A draw depends on host and server alone."""
    for host in range(hosts):
        rng = random.Random(f"{SEED} {host}")
        draws = [rng.random() for _ in range(servers)]
        yield sorted(range(servers), key=draws.__getitem__, reverse=True)


def rendezvous(ranking, size, servers):
    """Of a ranking that may know more servers than there are."""
    return set([server for server in ranking if server < servers][:size])


def deterministic(host, size, servers):
    """Hosts are numbered. Each round of them shares all servers out in an order of its own."""
    subsets = servers // size
    order = list(range(servers))
    random.Random(f"{SEED} {host // subsets}").shuffle(order)
    start = host % subsets * size
    return set(order[start:start + size])


def figures(hosts, servers):
    """What a server sees of it, and what one server more changes, by size."""
    ranked = list(rankings(hosts, servers + 1))
    found = []
    for size in SIZES:
        drawn = compare([rendezvous(one, size, servers) for one in ranked],
                        [rendezvous(one, size, servers + 1) for one in ranked], servers)
        shared = compare(*([deterministic(host, size, count) for host in range(hosts)]
                           for count in (servers, servers + 1)), servers)
        found.append({"subset": size, "mean": hosts * size / servers, **drawn, "deterministic": shared,
                      "cut_off": hosts * cut_off(size, servers)})
    return found


def compare(before, after, servers):
    uses = Counter(server for one in before for server in one)
    counts = [uses[server] for server in range(servers)]
    new = [len(later - one) for one, later in zip(before, after)]
    return {"least": min(counts), "most": max(counts), "changed": sum(map(bool, new)),
            "moved": sum(new) / sum(map(len, after)), "places": max(new)}


def cut_off(size, servers):
    """The chance that all that a host uses is among the servers that are down."""
    return math.comb(DOWN, size) / math.comb(servers, size)

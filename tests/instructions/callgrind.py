"""Reads what callgrind writes: cost by function and by source file, and who called the allocator how often.

https://valgrind.org/docs/manual/cl-format.html
"""

import re
from collections import Counter
from dataclasses import dataclass, field

ALLOCATORS = ("malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign")
BULK = re.compile("_*mem(set|cpy|move)")
NAME = re.compile(r"\((\d+)\)(?: (.*))?")


@dataclass
class Counts:
    instructions: int = 0
    functions: Counter = field(default_factory=Counter)
    files: Counter = field(default_factory=Counter)
    allocations: Counter = field(default_factory=Counter)  # by caller
    bulk: Counter = field(default_factory=Counter)  # instructions that copy and fill memory, by caller

    def since(self, other, rounds):
        """What one of `rounds` rounds cost that `self` had more than `other`."""
        def per_round(mine, its):
            return {key: (mine[key] - its[key]) / rounds for key in mine.keys() | its.keys()}
        return Counts((self.instructions - other.instructions) / rounds, *map(per_round,
                      (self.functions, self.files, self.allocations, self.bulk),
                      (other.functions, other.files, other.allocations, other.bulk)))


def read(path):
    """The counts of one run. A cost line belongs to the function and file named last."""
    counts, names = Counts(), {"function": {}, "file": {}}
    function = file = callee = None
    calls = 0  # of the call whose cost, already counted at the callee, is on the next line

    def name(kind, text):
        number, value = NAME.match(text).groups()
        return names[kind].setdefault(number, value)

    with open(path) as lines:
        for line in map(str.strip, lines):
            key, equals, value = line.partition("=")
            if key == "fn":
                function = plain(name("function", value))
            elif key in ("fl", "fi", "fe"):
                file = name("file", value)
            elif key in ("cfl", "cfi"):
                name("file", value)
            elif key == "cfn":
                callee = plain(name("function", value))
            elif key == "calls":
                calls = int(value.split()[0])
            elif line[:1] in "+-*0123456789" and line and not equals:
                cost = int(line.split()[1])
                if calls:
                    if callee in ALLOCATORS and function not in ALLOCATORS:
                        counts.allocations[function] += calls
                    if BULK.match(callee):
                        counts.bulk[function] += cost
                    calls = 0
                else:
                    counts.instructions += cost
                    counts.functions[function] += cost
                    counts.files[file] += cost
    return counts


def plain(function):
    """Without the mark of a recursion."""
    return re.sub(r"'\d+$", "", function)

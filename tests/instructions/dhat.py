"""Reads what valgrind's dhat writes: how many blocks, and how many bytes, were allocated from each stack."""

import json
import re

FRAME = re.compile(r"0x[0-9A-F]+: (.*) \((.*)\)$")
FRAMES = 8


def read(path):
    """Stacks, innermost frame first, each with its blocks and bytes."""
    with open(path) as file:
        profile = json.load(file)
    frames = [FRAME.match(text) for text in profile["ftbl"]]
    found = {}
    for point in profile["pps"]:
        stack = told([frames[index].groups() for index in point["fs"] if frames[index]])
        blocks, size = found.get(stack, (0, 0))
        found[stack] = (blocks + point["tbk"], size + point["tb"])
    return found


def told(stack):
    """Without the standard library's frames, and without those of the runtime that every task has."""
    told = []
    for function, place in stack:
        if "tokio::runtime::task::core" in function and told:
            break
        if not any(part in place for part in ("library/", "vgpreload")):
            told.append(f"{place}  {function}")
    return tuple(told[:FRAMES])

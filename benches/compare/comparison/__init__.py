"""The comparison: `run` drives it. Tables to add to: contenders.py, cases.py, targets.py."""

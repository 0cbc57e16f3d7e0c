"""Runs contenders in processes of their own, in turn, pinned to the same processors."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

# Memory is kept and in large pages: a layer's outputs would otherwise be fresh pages at each call, and their faults
# would be half of what is timed.
_KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"hugetlb": 1, "mmap_threshold": 2**32, "trim_threshold": 2**34, "top_pad": 2**28}.items()
)


def run_in_turn(
    commands: dict[str, Sequence[str]], *, rounds: int, threads: int, keep_memory: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """The JSON object that each contender prints last, round by round: A B A B ...

    Args:
      commands: for each contender the arguments of the Python interpreter.
      rounds: how often each runs.
      threads: processors that a contender may use.
      keep_memory: whether the C library of each contender keeps what it frees.

    Raises:
      RuntimeError: a contender failed; its output is in the message.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    memory = {"GLIBC_TUNABLES": _KEEP_MEMORY} if keep_memory else {}
    processors = sorted(os.sched_getaffinity(0))[:threads]
    for number in range(rounds):
        for name, command in commands.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            done = subprocess.run(
                [sys.executable, *command],
                capture_output=True,
                text=True,
                env={**os.environ, "JAX_PLATFORMS": "cpu", **memory},
                preexec_fn=lambda: os.sched_setaffinity(0, processors),
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{name} failed:\n{done.stderr}\n{done.stdout}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def median(results: Sequence[dict[str, Any]], name: str) -> float:
    """The median of one figure over the rounds."""
    return statistics.median(result[name] for result in results)

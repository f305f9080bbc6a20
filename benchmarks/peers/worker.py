"""One contender on one case, in its own process: prints what it is, then times itself whenever it is told to.

python -m benchmarks.peers.worker CONTENDER CASE THREADS      # then a number of calls on each line of its input
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
import warnings
from typing import Any, TextIO

AWAKE, TURN = 0.02, 0.1  # seconds


def main() -> None:
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with our answers
    name, case, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    try:
        serve(name, case, threads, answers)
    except Exception as error:
        message = str(error).strip().splitlines()
        say(answers, {"missing": f"{type(error).__name__}: {message[0][:160] if message else ''}"})


def serve(name: str, case_name: str, threads: int, answers: TextIO) -> None:
    import torch

    from benchmarks.peers.cases import case_named
    from benchmarks.peers.contenders import CONTENDERS, Task, first

    torch.set_num_threads(threads)
    case = case_named(case_name)
    module, inputs = case.build(1)
    with torch.no_grad():
        exact = first(module(*inputs)).clone()
        run = CONTENDERS[name].prepare(Task(module, inputs, case.build(2)[1], case.macs, case.hasty))
        got = run()
        run()
        del module
        gc.collect()
        say(answers, {"sqnr": None if got is None else sqnr(exact, got), "resident MB": resident()})
        take_turns(run, answers)


def take_turns(run: Any, answers: TextIO) -> None:
    """What calls took, for each line of the input that many, or more."""
    for line in sys.stdin:
        calls(run, 1, AWAKE)  # wakes threads and caches, which were others' while they had their turn
        say(answers, {"seconds": calls(run, int(line), TURN)})


def calls(run: Any, least: int, seconds: float) -> list[float]:
    """What each call took: at least so many, and so long: a step of a sampling loop follows the one before it."""
    taken: list[float] = []
    while len(taken) < least or sum(taken) < seconds:
        taken.append(timed(run))
    return taken


def timed(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def sqnr(exact: Any, got: Any) -> float:
    """Decibels of the exact output over the error."""
    error = (got.double() - exact.double()).square().sum().item()
    return 10 * math.log10(exact.double().square().sum().item() / error) if error else math.inf


def resident() -> float:
    with open("/proc/self/status") as stream:  # noqa: PTH123
        return next(int(line.split()[1]) / 1e3 for line in stream if line.startswith("VmRSS"))


def say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

"""What integration needs on published integrands: a line of JSON for each run; cases are kept in `results`.

    python tests/benchmarks/integrate.py published [case ...] [--seeds 5]
    python tests/benchmarks/integrate.py accuracy [case ...] [--seeds 1] [--cell CELL]
    python tests/benchmarks/integrate.py pulls [case ...] [--seeds 100]
    python tests/benchmarks/integrate.py narrow [--seeds 2]
    python tests/benchmarks/integrate.py overhead
    python tests/benchmarks/integrate.py defaults [case ...] [--seeds 2]
    python tests/benchmarks/integrate.py equal_seconds [case ...] [--seeds 2]
    python tests/benchmarks/integrate.py settings [case ...] [--seeds 2]

`published` integrates to the tolerance of the literature and compares the calls of f with the fewest that
i-flow, VEGAS or Foam needed, by medians over seeds. `accuracy` trains with 300 000 calls and gives the
standard deviation a point, in units of the integral, over 100 000 fresh ones. `pulls` gives mean and
standard deviation of (mean - exact)/sdev over seeds, the largest one, and that of runs without a warning.
`narrow` integrates Gaussians somewhere in many dimensions, whose integral is 1. `overhead` times a call of
an f that costs nothing. `defaults` is `accuracy` for flows that differ from the default in one setting each,
geometric means over seeds; `equal_seconds` is the same with as many calls of training as take the default's
time, by short trainings of the two in turn. `settings` is `defaults` for the survey.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from statistics import fmean, median, stdev
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
from integrands import CAMEL, CHEAP, IFLOW, Case
from results import record

import varflow as vf
from varflow.integration import survey

Line = dict[str, Any]

DIFFICULT = {
    name: CHEAP[name]
    for name in ("ridge", "correlated Gaussian", "resonances", "shell", "corner", "narrow peak")
}
LIMIT = 50_000_000  # calls, as in the literature
N_TRAINING, N_FRESH, N_PULLS, N_OVERHEAD = 300_000, 100_000, 60_000, 1_000_000
N_NARROW = 400_000
NARROW = (8, 0.05), (8, 0.02), (16, 0.1)  # dimensions, and widths of peaks
N_SHORT, ROUNDS = 20_000, 3  # calls of the trainings that are timed in turn, and how often
VARIANTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "8 bins": {"flow_options": {"n_bins": 8}},
    "32 bins": {"flow_options": {"n_bins": 32}},
    "width 32": {"flow_options": {"d_hidden": 32}},
    "width 128": {"flow_options": {"d_hidden": 128}},
    "1 hidden layer": {"flow_options": {"n_hidden": 1}},
    "3 hidden layers": {"flow_options": {"n_hidden": 3}},
    "checkerboard": {"flow_options": {"masking": "checkerboard"}},
    "twice the cells": {"flow_options": {"repetitions": 2}},
    "rqs, 10 bins": {"flow": "rqs", "flow_options": {"n_bins": 10}},
    "pwlinear, 32 bins": {"flow": "pwlinear", "flow_options": {"n_bins": 32}},
}
SETTINGS: dict[str, dict[str, Any]] = {  # names in varflow, and their values
    "nothing": {},
    "learning rate 0.0035": {"integration.survey.LEARNING_RATE": 0.0035},
    "learning rate 0.014": {"integration.survey.LEARNING_RATE": 0.014},
    "constant learning rate": {
        "integration.steps.stage_optimiser": lambda: vf.Adam(
            lr=survey.LEARNING_RATE, schedule="constant", betas=survey.BETAS
        )
    },
    "minibatches of 256": {"integration.survey.MINIBATCH": 256},
    "minibatches of 1024": {"integration.survey.MINIBATCH": 1024},
    "6 steps a round": {"integration.survey.STEPS": 6},
    "24 steps a round": {"integration.survey.STEPS": 24},
    "rounds of 2048": {"integration.survey.ROUND": 2048, "integration.plan.ROUND": 2048},
    "1 % uniform points": {"integration.survey.EXPLORATION_SHARE": 0.01},
    "10 % uniform points": {"integration.survey.EXPLORATION_SHARE": 0.1},
    "the later half of the points": {"integration.survey.RECENT": 0.5},
    "all points": {"integration.survey.RECENT": 1.0},
    "tempered to 5 %": {"training.tempering.ESS": 0.05},
    "tempered to 50 %": {"training.tempering.ESS": 0.5},
    "not tempered": {"training.tempering.ESS": 0.0},
}
MEDIANS = ("calls", "pull", "rel", "seconds", "ratio")


def pull(result: Any, exact: float) -> float:
    """Error in units of the standard deviation."""
    return (result.mean - exact) / result.sdev


def integrated(case: Case, seed: int) -> Line:
    """Integrate to the tolerance of the case."""
    begin = perf_counter()
    result = vf.integrate(case.f, case.d, rtol=case.rtol, n_calls=LIMIT, seed=seed)
    seconds = perf_counter() - begin
    relative = result.sdev / abs(result.mean)
    return {
        "calls": result.n_calls,
        "mean": result.mean,
        "sdev": result.sdev,
        "pull": pull(result, case.exact),
        "rel": relative,
        "seconds": seconds,
        "best_peer": case.best_peer,
        "ratio": result.n_calls / (1e6 * case.best_peer),
        "reached": relative <= case.rtol,
    }


def published(cases: dict[str, Case], n_seeds: int, cell: str | None) -> Iterator[Line]:
    """Compare calls with the best of the literature."""
    found = []
    for name, case in cases.items():
        lines = []
        for seed in range(n_seeds):
            lines.append(integrated(case, seed))
            yield {"case": name, "seed": seed, **lines[-1]}
        medians = {key: median(line[key] for line in lines) for key in MEDIANS}
        record("published", name, {"seeds": n_seeds, **medians})
        found += [line["pull"] for line in lines]
    if cases.keys() == IFLOW.keys():
        largest = max(map(abs, found))
        record("pulls", "published", {**scatter(found), "largest": largest})


def scatter(found: list[float]) -> Line:
    """Number, mean and standard deviation of pulls."""
    return {"seeds": len(found), "mean": fmean(found), "sdev": stdev(found)}


def trained_and_sampled(case: Case, seed: int, n_training: int = N_TRAINING, **options: Any) -> Line:
    """Train, and give the standard deviation a point of fresh ones."""
    integrator = vf.Integrator(
        case.f, case.d, n_iter_survey=1, n_points_survey=n_training, n_iter_refine=1,
        n_points_refine=N_FRESH, seed=seed, **options,
    )  # fmt: skip
    begin = perf_counter()
    integrator.survey()
    trained = perf_counter()
    integrator.refine()
    sampled = perf_counter()
    result = integrator.integrate()
    return {
        "sigma": result.sdev / abs(result.mean) * math.sqrt(N_FRESH),
        "ess": result.ess,
        "pull": pull(result, case.exact),
        "train_s": trained - begin,
        "sample_s": sampled - trained,
    }


def accuracy(cases: dict[str, Case], n_seeds: int, cell: str | None) -> Iterator[Line]:
    """Give the standard deviation a point after training."""
    options = {} if cell is None else {"flow": cell}
    benchmark = "accuracy" if cell is None else f"accuracy_{cell}"
    for name, case in cases.items():
        lines = []
        for seed in range(n_seeds):
            lines.append(trained_and_sampled(case, seed, **options))
            yield {"case": name, "seed": seed, **lines[-1], "zunis_gain": case.zunis_gain}
        medians = {key: median(line[key] for line in lines) for key in ("sigma", "ess", "train_s")}
        record(benchmark, name, {"seeds": n_seeds, **medians})


def short_training(case: Case, **options: Any) -> float:
    """Seconds of a short training."""
    integrator = vf.Integrator(case.f, case.d, n_iter_survey=1, n_points_survey=N_SHORT, seed=0, **options)
    begin = perf_counter()
    integrator.survey()
    return perf_counter() - begin


def affordable_calls(case: Case, **options: Any) -> int:
    """Calls of a training that takes as long as the default flow's N_TRAINING do."""
    short_training(case, **options)  # compiles
    ratios = [short_training(case) / short_training(case, **options) for _ in range(ROUNDS)]
    return round(N_TRAINING * median(ratios))


def varied(
    changed: str, cases: dict[str, Case], n_seeds: int, equal_seconds: bool = False, **options: Any
) -> Line:
    """Give the same with one setting changed: geometric means over seeds, and over all cases."""
    lines = {}
    for name, case in cases.items():
        n_training = affordable_calls(case, **options) if equal_seconds else N_TRAINING
        lines[name] = [trained_and_sampled(case, seed, n_training, **options) for seed in range(n_seeds)]
    logs = {name: fmean(math.log(line["sigma"]) for line in of_case) for name, of_case in lines.items()}
    return {
        "seeds": n_seeds,
        **{f"sigma_{name}": math.exp(log) for name, log in logs.items()},
        "sigma": math.exp(fmean(logs.values())),
        "train_s": sum(fmean(line["train_s"] for line in of_case) for of_case in lines.values()),
    }


def defaults(cases: dict[str, Case], n_seeds: int, cell: str | None) -> Iterator[Line]:
    """Change one setting of the flow at a time."""
    for changed, options in VARIANTS.items():
        line = varied(changed, cases, n_seeds, **options)
        record("defaults", changed, line)
        yield {"changed": changed, **line}


def equal_seconds(cases: dict[str, Case], n_seeds: int, cell: str | None) -> Iterator[Line]:
    """Do so in the time that the default flow takes."""
    for changed, options in VARIANTS.items():
        line = varied(changed, cases, n_seeds, equal_seconds=True, **options)
        record("equal_seconds", changed, line)
        yield {"changed": changed, **line}


def settings(cases: dict[str, Case], n_seeds: int, cell: str | None) -> Iterator[Line]:
    """Change one setting of the survey at a time."""
    for changed, constants in SETTINGS.items():
        with ExitStack() as stack:
            for name, value in constants.items():
                stack.enter_context(patch(f"varflow.{name}", value))
            line = varied(changed, cases, n_seeds)
        record("settings", changed, line)
        yield {"changed": changed, **line}


def pulls(cases: dict[str, Case], n_seeds: int, cell: str | None) -> Iterator[Line]:
    """Give mean and standard deviation of the pulls of short integrations."""
    for name, case in cases.items():
        results = [vf.integrate(case.f, case.d, n_calls=N_PULLS, seed=seed) for seed in range(n_seeds)]
        found = [pull(result, case.exact) for result in results]
        silent = [abs(one) for one, result in zip(found, results, strict=True) if not result.warnings]
        figures = scatter(found) | {
            "largest": max(map(abs, found)),
            "largest_silent": max(silent, default=None),
            "n_warned": n_seeds - len(silent),
        }
        record("pulls", name, figures)
        yield {"case": name, **figures}


def gaussians(centres: np.ndarray, width: float) -> Callable[[np.ndarray], np.ndarray]:
    """Sum of Gaussians of one width at centres (n, d), of integral 1 but for what is beyond the cube."""
    n, d = centres.shape
    scale = n * (width * math.sqrt(math.pi)) ** d

    def f(x: np.ndarray) -> np.ndarray:
        return sum(np.exp(-np.sum((x - centre) ** 2, axis=1) / width**2) for centre in centres) / scale

    return f


def narrow(cases: dict[str, Case], n_seeds: int, cell: str | None) -> Iterator[Line]:
    """Integrate one or two narrow peaks."""
    for n_peaks, (d, width) in product((1, 2), NARROW):
        results = []
        for seed in range(n_seeds):
            centres = np.random.default_rng(seed).uniform(0.3, 0.7, (n_peaks, d))
            result = vf.integrate(gaussians(centres, width), d, n_calls=N_NARROW, seed=seed)
            results.append(result)
            yield {
                "d": d,
                "width": width,
                "peaks": n_peaks,
                "seed": seed,
                "mean": result.mean,
                "sdev": result.sdev,
                "pull": pull(result, 1.0),
                "warnings": list(result.warnings),
            }
        figures = {
            "seeds": n_seeds,
            "means": [result.mean for result in results],
            "sdevs": [result.sdev for result in results],
            "warnings": [list(result.warnings) for result in results],
        }
        record("narrow", f"d={d}, width {width:g}, {n_peaks} peak{'s' * (n_peaks - 1)}", figures)


def first_coordinate(x: np.ndarray) -> np.ndarray:
    """Cost nothing, whatever the number of points."""
    return x[:, 0]


def overhead(cases: dict[str, Case], n_seeds: int, cell: str | None) -> Iterator[Line]:
    """Time a call in a refinement with the default flow in eight dimensions."""
    times = []
    for seed in range(n_seeds):
        integrator = vf.Integrator(
            first_coordinate, 8, n_iter_survey=1, n_points_survey=20_000, n_iter_refine=1,
            n_points_refine=N_OVERHEAD, seed=seed,
        )  # fmt: skip
        integrator.survey()  # compiles the kernels besides
        begin = perf_counter()
        integrator.refine()
        times.append(perf_counter() - begin)
    line = {"us_per_call": median(times) / N_OVERHEAD * 1e6}
    record("overhead", "d=8", line)
    yield line


CHOOSING = {
    name: IFLOW[name] for name in ("camel4", "circles", "annulus", "box", "gauss8", "camel8", "camel16")
}
MODES = {  # with the cases of each, and how many seeds
    "published": (published, IFLOW, 5),
    "accuracy": (accuracy, IFLOW | CAMEL, 1),
    "pulls": (
        pulls,
        {name: IFLOW[name] for name in ("camel4", "circles", "annulus", "box")} | DIFFICULT,
        100,
    ),
    "defaults": (defaults, CHOOSING, 2),
    "equal_seconds": (equal_seconds, CHOOSING, 2),
    "settings": (settings, CHOOSING, 2),
    "narrow": (narrow, {}, 2),
    "overhead": (overhead, {}, 3),
}


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("cases", nargs="*", metavar="case")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--cell")
    arguments = parser.parse_args()
    run, cases, n_seeds = MODES[arguments.mode]
    if unknown := [name for name in arguments.cases if name not in cases]:
        parser.error(f"{arguments.mode} has no {', '.join(unknown)}; its cases: {', '.join(cases) or 'none'}")
    if arguments.cell is not None and run is not accuracy:
        parser.error("--cell goes with accuracy")
    chosen = {name: cases[name] for name in arguments.cases or cases}
    for line in run(chosen, arguments.seeds or n_seeds, arguments.cell):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

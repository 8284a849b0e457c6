"""Write the measured figures into the Markdown pages, from the lines that the benchmarks have left.

    python tests/benchmarks/tables.py [--check]

A page has a pair of comments around each table, `<!-- figures: NAME -->` and `<!-- end of figures -->`; what
stands between them is written here. With `--check` nothing is written: the exit status is 1 if a page
differs from the lines in `results`.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import geometric_mean, linear_regression, mean, median
from typing import Any

from integrands import CHEAP, IFLOW
from mpi import LATENCY, modelled, ranks_that_pay
from results import ROOT, Line, latest

PAGES = [
    ROOT / "README.md",
    Path(__file__).with_name("README.md"),
    *sorted((ROOT / "examples").rglob("*.md")),
]
BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
LITERATURE = "i-flow, VEGAS and Foam"
PEERS = {"zunis_pwlinear": "ZüNIS, pwlinear", "zunis_pwquad": "ZüNIS, pwquad", "madnis": "MadNIS",
         "vegas": "vegas"}  # fmt: skip
CELLS = "pwlinear", "pwquad", "rqs"


# Pieces


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None, digits: int = 3) -> str:
    """Number with so many significant digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:#.{digits}g}".rstrip(".") if 1e-4 <= abs(value) < 10**digits else f"{value:.{digits}g}"


def milliseconds(seconds: float) -> str:
    """Time in milliseconds."""
    return f"{number(1e3 * seconds)} ms"


def span(values: Iterable[float], form: Callable[[float], str] = number) -> str:
    """Smallest and largest of some numbers."""
    low, high = form(min(values := list(values))), form(max(values))
    return low if low == high else f"{low} to {high}"


def percent(value: float) -> str:
    """Share in percent, with two significant digits below ten."""
    return f"{100 * value:.2g} %" if value < 0.1 else f"{value:.0%}".replace("%", " %")


def figures(benchmark: str) -> dict[str, dict[str, Any]]:
    """Figures of each case of a benchmark."""
    return {case: line["figures"] for case, line in latest(benchmark).items()}


def provenance(*benchmarks: str) -> str:
    """Say when, where and by which versions the lines of some benchmarks were measured."""
    counts: dict[str, int] = {}
    for benchmark in benchmarks:
        for line in latest(benchmark).values():
            text = _circumstances(line)
            counts[text] = counts.get(text, 0) + 1
    parts = [f"{text} ({n} {'line' if n == 1 else 'lines'})" for text, n in sorted(counts.items())]
    text = "; ".join(parts)
    return f"*{text[:1].upper()}{text[1:]}.*"


def _circumstances(line: Line) -> str:
    if "source" in line:
        return f"taken from {line['source']} of {line['date']}, which had no machine or versions"
    machine = dict(line["machine"])
    where = f"{machine.pop('cpu')}, {machine.pop('cores')} cores"
    where += "".join(f", {name} {value}" for name, value in machine.items())
    packages = ", ".join(f"{name} {found}" for name, found in line["versions"].items())
    return f"measured on {line['date']} on {where} with {packages}"


def shown_name(case: str) -> str:
    """Name of an integrand as the pages have it."""
    d, _, sigma = case.removeprefix("zcamel").partition("_")
    return f"camel, d={d}, {sigma}" if sigma else case


# Blocks of the page of tables


def speed() -> str:
    """Training steps and sampling beside ZüNIS."""
    titles = ["case", "parameters", "step, ZüNIS", "step, varflow", "ratio", "ratio of sampling", "roofline"]
    rows = [
        [case, f"{found['n_params']:,}", milliseconds(found["zunis_step_s"]),
         milliseconds(found["varflow_step_s"]), number(found["step_ratio"], 2),
         number(found["sample_ratio"], 2), percent(found["roofline_share"])]
        for case, found in figures("speed").items()
    ]  # fmt: skip
    return f"{table(titles, rows)}\n\n{provenance('speed')}"


def held_out() -> str:
    """Losses of equal trainings beside ZüNIS."""
    titles = ["integrand", "loss, ZüNIS", "loss, varflow", "seconds, ZüNIS", "seconds, varflow"]
    rows = [
        [case, *(f"{found[key]:.4f}" for key in ("zunis_loss", "varflow_loss")),
         *(f"{found[key]:.1f}" for key in ("zunis_s", "varflow_s"))]
        for case, found in figures("held_out").items()
    ]  # fmt: skip
    return f"{table(titles, rows)}\n\n{provenance('held_out')}"


def cells_accuracy() -> str:
    """Standard deviations of the kinds of cells."""
    found = figures("cells_accuracy")
    gains = {cell: [sigma["pwlinear"] / sigma[cell] for sigma in found.values()] for cell in CELLS[1:]}
    rows = [
        [case, *(number(sigma[cell]) for cell in CELLS), *(f"{gains[cell][k]:.2f}" for cell in gains)]
        for k, (case, sigma) in enumerate(found.items())
    ]
    rows.append(["geometric mean", "", "", "", *(f"{geometric_mean(gain):.2f}" for gain in gains.values())])
    titles = ["integrand", *CELLS, *(f"pwlinear / {cell}" for cell in gains)]
    return f"{table(titles, rows)}\n\n{provenance('cells_accuracy')}"


def cells_speed() -> str:
    """Training steps of the kinds of cells."""
    rows = [
        [cell, str(found["n_bins"]), milliseconds(found["step_s"]), f"{found['of_pwlinear']:.2f}"]
        for cell, found in figures("cells_speed").items()
    ]
    text = table(["cell", "bins", "step", "over that of pwlinear"], rows)
    for case, found in figures("cells_zunis").items():
        times = f"{milliseconds(found['zunis_step_s'])} and {milliseconds(found['varflow_step_s'])}"
        text += (
            f"\n\nA step of {case}, with {found['n_params']:,} parameters takes {times} in ZüNIS and in "
            f"varflow: a factor of {number(found['ratio'], 2)}."
        )
    return f"{text}\n\n{provenance('cells_speed', 'cells_zunis')}"


def cells_unbounded() -> str:
    """What affine cells leave of the variance on points without bounds."""
    rows = [
        [case, number(found["of_p"]), number(found["of_q"])]
        for case, found in figures("cells_unbounded").items()
    ]
    text = table(["integrand", "relative variance of f/p", "of f/q"], rows)
    return f"{text}\n\n{provenance('cells_unbounded')}"


def cells_parts() -> str:
    """Parts of a training step of the kinds of cells."""
    found = {case: one["parts_s"] for case, one in figures("cells_parts").items()}
    names = [name for name in next(iter(found.values())) if name not in ("step", "waiting")]
    busy = {case: sum(one[name] for name in names) for case, one in found.items()}
    rows = [[name, *(f"{one[name] / busy[case]:.1%}" for case, one in found.items())] for name in names]
    rows.append(["all of them", *(milliseconds(seconds) for seconds in busy.values())])
    return f"{table(['part', *found], rows)}\n\n{provenance('cells_parts')}"


def sampling() -> str:
    """Points and events drawn and written."""
    titles = ["what", "number", "a second", "points drawn a second", "unweighting efficiency", "roofline",
              "memory", "for a tenth of them"]  # fmt: skip
    rows = [
        [case, f"{one['n']:,}", f"{one['a_second']:,}", f"{one['points_a_second']:,}",
         "" if one["efficiency"] is None else percent(one["efficiency"]), percent(one["roofline_share"]),
         f"{one['peak_mb']} MB", f"{one['peak_mb_of_a_tenth']} MB"]
        for case, one in figures("sampling").items()
    ]  # fmt: skip
    return f"{table(titles, rows)}\n\n{provenance('sampling')}"


def gpu() -> str:
    """Training steps on a GPU beside PyTorch."""
    found = figures("gpu")
    device = found.pop("device")
    titles = ["case", "varflow", "PyTorch, eager", "PyTorch, graph", "eager / varflow", "graph / varflow",
              "share of the float32 rate"]  # fmt: skip
    rows = [
        [case, *(milliseconds(one[key]) for key in ("varflow_s", "eager_s", "graph_s")),
         *(number(one[key] / one["varflow_s"], 2) for key in ("eager_s", "graph_s")),
         percent(one["rate_share"])]
        for case, one in found.items()
    ]  # fmt: skip
    text = (
        f"{table(titles, rows)}\n\nThe GPU is an {device['gpu']}; it reached {device['tflop_s']:.1f} TFLOP/s."
    )
    surveys = [
        f"{one['gpu_s']} s for {case} ({one['cpu_s']} s on the {one['cpu_cores']} cores of its host)"
        for case, one in figures("gpu_survey").items()
    ]
    text += f" A survey of 300 000 calls took {' and '.join(surveys)}, with slower kernels than those above."
    return f"{text}\n\n{provenance('gpu', 'gpu_survey')}"


def first_call() -> str:
    """Seconds until the first integral and sample of a host program."""
    steps = "start_s", "integral_s", "sample_s", "total_s", "processor_s"
    rows = [[case, *(f"{one[step]:.2f}" for step in steps)] for case, one in figures("first_call").items()]
    titles = ["program", "`vf_start`", "100 calls", "1000 points", "all three", "processor time"]
    return f"{table(titles, rows)}\n\n{provenance('first_call')}"


def load() -> str:
    """Memory during long trainings."""
    rows = [
        [case, f"{one['steps']:,}", f"{one['rss_after_first_minute_mb']} MB", f"{one['rss_max_mb']} MB",
         f"{one['drift_percent']} %"]
        for case, one in figures("load").items()
    ]  # fmt: skip
    titles = ["run", "steps", "resident after the first minute", "largest from then on", "drift"]
    return f"{table(titles, rows)}\n\n{provenance('load')}"


def export() -> str:
    """Time a point and size of exported flows."""
    rows = [
        [case, f"{one['sample_ns']:,} ns", f"{one['log_prob_ns']:,} ns", number(one["sample_ratio"], 2),
         number(one["log_prob_ratio"], 2), f"{one['n_weights']:,}", f"{one['static_bytes'] / 1000:.0f} kB"]
        for case, one in figures("export").items()
    ]  # fmt: skip
    titles = [
        "cell, language",
        "sample",
        "log_prob",
        "sample / Python",
        "log_prob / Python",
        "weights",
        "static size",
    ]
    return f"{table(titles, rows)}\n\n{provenance('export')}"


def published() -> str:
    """Calls to reach the tolerance of the literature."""
    rows = [
        [case, number(one["calls"] / 1e6), number(IFLOW[case].best_peer), number(one["ratio"])]
        for case, one in figures("published").items()
    ]
    rows.append(["geometric mean", "", "", number(geometric_mean(_published_ratios()))])
    titles = ["integrand", "varflow", f"best of {LITERATURE}", "ratio"]
    return f"{table(titles, rows)}\n\n{provenance('published')}"


def _published_ratios() -> list[float]:
    return [one["ratio"] for one in figures("published").values()]


def accuracy() -> str:
    """Standard deviations a point after equal calls of training, beside ZüNIS, MadNIS and vegas."""
    peers = figures("accuracy_peers")
    ratios = _accuracy_ratios("accuracy")
    rows = [
        [shown_name(case), number(one["sigma"]), *(number(peers[case].get(key)) for key in PEERS),
         number(ratios[case], 2), f"{one['ess']:.1%}"]
        for case, one in figures("accuracy").items()
    ]  # fmt: skip
    rows.append(["geometric mean", *[""] * 5, number(geometric_mean(ratios.values()), 2), ""])
    titles = ["integrand", "varflow", *PEERS.values(), "ratio", "effective sample"]
    text = f"{table(titles, rows)}\n\n{provenance('accuracy', 'accuracy_peers')}"
    linear = _of_zunis_pwlinear()
    text += (
        f"\n\nWith `pwlinear` cells, varflow's deviation is {linear['smallest']} "
        f"({linear['smallest_case']}) to {linear['largest']} ({linear['largest_case']}) of that of ZüNIS's "
        f"`pwlinear`; the geometric mean is {linear['geometric_mean']}.\n\n{provenance('accuracy_pwlinear')}"
    )
    return text


def _accuracy_ratios(benchmark: str) -> dict[str, float]:
    """Varflow's deviation over the smallest of the others."""
    peers = figures("accuracy_peers")
    return {
        case: one["sigma"] / min(peers[case][key] for key in PEERS if key in peers[case])
        for case, one in figures(benchmark).items()
    }


def _of_zunis_pwlinear() -> dict[str, Any]:
    """Extremes and geometric mean of varflow's deviations with `pwlinear` over those of ZüNIS's."""
    peers, found = figures("accuracy_peers"), figures("accuracy_pwlinear")
    if "all" in found:
        return found["all"]
    ratios = {case: one["sigma"] / peers[case]["zunis_pwlinear"] for case, one in found.items()}
    smallest, largest = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
    return {
        "smallest": float(number(ratios[smallest], 2)),
        "smallest_case": smallest,
        "largest": float(number(ratios[largest], 2)),
        "largest_case": largest,
        "geometric_mean": float(number(geometric_mean(ratios.values()), 2)),
    }


def training() -> str:
    """Seconds of trainings beside those of ZüNIS."""
    rows = [
        [shown_name(case), _seconds(one["varflow_s"]), _seconds(one.get("zunis_s")), _seconds(one["ratio"])]
        for case, one in figures("training").items()
    ]
    titles = ["integrand", "seconds, varflow", "seconds, ZüNIS, pwlinear", "ratio"]
    return f"{table(titles, rows)}\n\n{provenance('training')}"


def _seconds(value: float | list[float] | None) -> str:
    if isinstance(value, list):
        return " to ".join(f"{one:g}" for one in value)
    return "" if value is None else f"{value:g}"


def pulls() -> str:
    """Mean and standard deviation of pulls, and the largest ones."""
    titles = ["integrand", "runs", "mean", "standard deviation", "largest", "without a warning", "warned"]
    rows = [
        ["runs ended by a tolerance, all published integrands" if case == "published" else case,
         str(one["seeds"]), f"{one['mean']:.2f}", f"{one['sdev']:.2f}", number(one["largest"], 2),
         number(one["largest_silent"], 2) if "largest_silent" in one else "", str(one.get("n_warned", ""))]
        for case, one in figures("pulls").items()
    ]  # fmt: skip
    return f"{table(titles, rows)}\n\n{provenance('pulls')}"


def narrow() -> str:
    """Estimates of narrow peaks, whose integral is 1."""
    rows = [[case, _estimates(one)] for case, one in figures("narrow").items()]
    return f"{table(['case', 'estimates'], rows)}\n\n{provenance('narrow')}"


def _estimates(one: dict[str, Any]) -> str:
    if "error_below" in one:
        return f"errors below {one['error_below']:g}"
    pairs = zip(one["means"], one["sdevs"], strict=True)
    return ", ".join(f"{mean:.5f} ± {number(sdev, 2)}" for mean, sdev in pairs)


def overhead() -> str:
    """Time of a call beyond f."""
    one = figures("overhead")["d=8"]
    text = f"A refinement takes {one['us_per_call']:.2g} µs a call beyond f itself (d = 8, default flow)."
    return f"{text}\n\n{provenance('overhead')}"


def defaults() -> str:
    """Flows that differ from the default in one setting."""
    equal, found = figures("equal_seconds"), figures("defaults")
    cases = [key for key in next(iter(found.values())) if key.startswith("sigma_")]
    rows = [
        [changed, *(number(one[key]) for key in cases), number(one["sigma"]),
         number(equal.get(changed, {}).get("sigma"))]
        for changed, one in found.items()
    ]  # fmt: skip
    names = [key.removeprefix("sigma_") for key in cases]
    text = table(["changed", *names, "equal calls", "equal seconds"], rows)
    chance = equal["nothing"]["sigma"] / found["nothing"]["sigma"] - 1
    text += f"\n\nThe two figures of the default itself differ by {percent(abs(chance))}, by chance."
    return f"{text}\n\n{provenance('defaults', 'equal_seconds')}"


def settings() -> str:
    """Surveys that differ from the default in one setting."""
    found = figures("settings")
    cases = [key for key in next(iter(found.values())) if key.startswith("sigma_")]
    rows = [
        [changed, *(number(one[key]) for key in cases), number(one["sigma"]), f"{one['train_s']:.0f}"]
        for changed, one in found.items()
    ]
    names = [key.removeprefix("sigma_") for key in cases]
    return f"{table(['changed', *names, 'mean', 'seconds'], rows)}\n\n{provenance('settings')}"


def seconds() -> str:
    """Seconds and calls to reach a tolerance, beside vegas."""
    titles = ["integrand", "d", "rtol", "calls, vegas", "calls, varflow", "seconds, vegas",
              "seconds, varflow", "varflow is faster"]  # fmt: skip
    rows = []
    for case, one in figures("seconds").items():
        name, _, rtol = case.rpartition(", ")
        vegas, varflow = one["vegas"], one["varflow"]
        rows.append(
            [name, str(CHEAP[name].d), rtol, _reached(vegas, f"{vegas['calls']:,}"), f"{varflow['calls']:,}",
             _reached(vegas, number(vegas["seconds"])), number(varflow["seconds"]), pays_from(vegas, varflow)]
        )  # fmt: skip
    return f"{table(titles, rows)}\n\n{provenance('seconds')}"


def family() -> str:
    """Calls for all values of a parameter, beside runs for one at a time."""
    titles = ["integrand", "values", "rtol", "calls, one flow for all", "of them to train it",
              "calls, varflow one by one", "calls, vegas one by one", "pulls, root mean square"]  # fmt: skip
    rows = []
    for name, one in figures("family").items():
        runs, own, vegas = one["family"], one["own"], one["vegas"]
        n, n_own = len(runs[0]["calls"]), len(own["calls"])
        from_some = "" if n_own == n else f" (from {n_own} values)"
        surveyed = [run["surveyed"] for run in runs]
        in_all = [run["surveyed"] + sum(run["calls"]) for run in runs]
        rows.append(
            [name, str(n), f"{one['rtol']:g}", *(span(calls, "{:,}".format) for calls in (in_all, surveyed)),
             f"{sum(own['calls']) * n // n_own:,}{from_some}", f"{sum(vegas['calls']):,}",
             span(run["pull"] for run in runs)]
        )  # fmt: skip
    return f"{table(titles, rows)}\n\n{provenance('family')}"


def discrete() -> str:
    """Errors of sums over discrete states, beside MadNIS."""
    titles = [
        "sum over",
        "relative error, varflow",
        "MadNIS 1.0",
        "their ratio",
        "pulls, varflow",
        "pulls, MadNIS",
    ]
    rows = []
    for name, one in figures("discrete").items():
        errors = [mean(run["error"] for run in one[package]) for package in ("varflow", "madnis")]
        rows.append(
            [name, *map(number, errors), number(errors[0] / errors[1]),
             *(span(run["pull"] for run in one[package]) for package in ("varflow", "madnis"))]
        )  # fmt: skip
    return f"{table(titles, rows)}\n\n{provenance('discrete')}"


def _reached(one: dict[str, Any], text: str) -> str:
    """Mark what did not reach the tolerance within the limit."""
    return text if one["reached"] else f"> {text}"


def pays_from(vegas: dict[str, Any], varflow: dict[str, Any]) -> str:
    """Say from which cost of a call on varflow takes fewer seconds than vegas."""
    saved, lost = vegas["calls"] - varflow["calls"], varflow["seconds"] - vegas["seconds"]
    if lost <= 0:
        return "whatever f costs" if saved >= 0 else f"below {number(1e6 * lost / saved, 2)} µs a call"
    return f"from {number(1e6 * lost / saved, 2)} µs a call" if saved > 0 else "never"


def fixed_points() -> str:
    """Relative variance that trainings on fixed points leave, as they come."""
    found = figures("fixed_points")
    keys = [case.rsplit(", ", 2) for case in found]
    columns = list(dict.fromkeys((cell, n.removeprefix("n=")) for _, cell, n in keys))
    rows = []
    for name in dict.fromkeys(name for name, _, _ in keys):
        ones = [found.get(f"{name}, {cell}, n={n}") for cell, n in columns]
        rows.append([name, *(number(one["variance"]) if one else "" for one in ones)])
    titles = ["case", *(f"{cell}, {int(n):,}" for cell, n in columns)]
    return f"{table(titles, rows)}\n\n{provenance('fixed_points')}"


def fixed_points_peers() -> str:
    """Relative variance and seconds beside ZüNIS."""
    titles = ["case", "cell", "points", "ZüNIS, best epoch", "varflow", "ratio", "seconds, ZüNIS",
              "seconds, varflow"]  # fmt: skip
    rows, ratios = [], {}
    for case, one in figures("fixed_points_peers").items():
        name, cell, n = case.rsplit(", ", 2)
        ours, theirs = one["varflow"], one["zunis"]
        ratio = ours["variance"] / theirs["variance"]
        ratios.setdefault(cell, []).append(ratio)
        rows.append(
            [name, cell, f"{int(n.removeprefix('n=')):,}", number(theirs["variance"]),
             number(ours["variance"]), number(ratio), number(theirs["seconds"]), number(ours["seconds"])]
        )  # fmt: skip
    rows += [
        ["geometric mean", cell, "", "", "", number(geometric_mean(found)), "", ""]
        for cell, found in ratios.items()
    ]
    return f"{table(titles, rows)}\n\n{provenance('fixed_points_peers')}"


def fixed_points_flows() -> str:
    """One flow, several, and a larger one."""
    found = figures("fixed_points_flows")
    names = [key for key in next(iter(found.values())) if key != "seconds"]
    rows = [
        [case, *(number(one[name]) for name in names), number(geometric_mean(one[name] for name in names)),
         f"{one['seconds']:.0f}"]
        for case, one in found.items()
    ]  # fmt: skip
    titles = ["learnt", *names, "geometric mean", "seconds"]
    return f"{table(titles, rows)}\n\n{provenance('fixed_points_flows')}"


def fixed_points_settings() -> str:
    """Trainings that differ from the recipe in one setting."""
    found = figures("fixed_points_settings")
    names = [key for key in next(iter(found.values())) if key not in ("ratio", "seconds")]
    rows = [
        [case, *(number(one[name]) for name in names), number(one["ratio"], 2), number(one["seconds"], 2)]
        for case, one in found.items()
    ]
    titles = ["changed", *names, "mean ratio", "seconds"]
    return f"{table(titles, rows)}\n\n{provenance('fixed_points_settings')}"


def fixed_points_pulls() -> str:
    """How honest the error of the held-out figure is."""
    rows = [
        [case, str(one["n"]), f"{one['mean']:+.2f}", f"{one['deviation']:.2f}"]
        for case, one in figures("fixed_points_pulls").items()
    ]
    text = table(["case", "trainings", "mean of the pull", "its deviation"], rows)
    return f"{text}\n\n{provenance('fixed_points_pulls')}"


# Blocks of other pages


def performance() -> str:
    """Summary for the README."""
    ratios = _accuracy_ratios("accuracy")
    step, steps = figures("speed"), figures("gpu")
    steps.pop("device")
    pull, memory = figures("pulls"), figures("load")["60 minutes"]
    narrow_steps = [one["step_ratio"] for case, one in step.items() if "x 64" in case]
    wide_steps = [one["step_ratio"] for case, one in step.items() if "x 256" in case]
    eager = [one["eager_s"] / one["varflow_s"] for one in steps.values()]
    graph = [one["graph_s"] / one["varflow_s"] for one in steps.values()]
    scatter = [one["sdev"] for one in pull.values()]
    items = [
        ("calls of f to an error of 10⁻⁴ (10⁻⁵ for polynomials), training included",
         f"{span(_published_ratios(), percent)} of those of the best of {LITERATURE}, on "
         f"{len(_published_ratios())} published integrands", "integrate.py published"),
        ("error a point after 300 000 calls of training",
         f"{percent(geometric_mean(ratios.values()))} of that of the best of ZüNIS, MadNIS and vegas "
         f"(geometric mean of {len(ratios)} integrands)", "integrate.py accuracy"),
        *_fixed_points_summary(),
        *_seconds_summary(),
        ("training step on a CPU",
         f"{span(narrow_steps, lambda value: number(value, 2))} times as fast as ZüNIS's on PyTorch where "
         f"networks are 64 wide, {span(wide_steps, lambda value: number(value, 2))} times where they are 256 "
         "wide", "beside_zunis.py speed"),
        ("training step on a GPU (H100)",
         f"{span(eager, lambda value: number(value, 2))} times as fast as PyTorch in eager mode, "
         f"{span(graph, lambda value: number(value, 2))} times as fast as a CUDA graph", "gpu.py"),
        ("cost of a call beyond f, d = 8", f"{figures('overhead')['d=8']['us_per_call']:.2g} µs",
         "integrate.py overhead"),
        ("standard deviation of (estimate − exact) / error",
         f"{span(scatter, lambda value: f'{value:.2f}')}", "integrate.py pulls"),
        ("an hour of training", f"{memory['rss_after_first_minute_mb']:.0f} MB after a minute, at most "
         f"{memory['rss_max_mb']:.0f} MB", "load.py"),
    ]  # fmt: skip
    return table(["what", "measured", "by `python tests/benchmarks/...`"],
                 [[what, found, f"`{by}`"] for what, found, by in items])  # fmt: skip


def _fixed_points_summary() -> list[tuple[str, str, str]]:
    """Items on fixed sets of points beside ZüNIS, one for each cell."""
    found = figures("fixed_points_peers")
    items = []
    for cell in dict.fromkeys(case.rsplit(", ", 2)[1] for case in found):
        ones = [one for case, one in found.items() if case.rsplit(", ", 2)[1] == cell]
        ratio = geometric_mean(one["varflow"]["variance"] / one["zunis"]["variance"] for one in ones)
        seconds = median(one["varflow"]["seconds"] / one["zunis"]["seconds"] for one in ones)
        items.append(
            (f"variance that a fixed set of points leaves, `{cell}`, as it comes",
             f"{percent(ratio)} of that of ZüNIS's best epoch (geometric mean of {len(ones)}), in "
             f"{number(seconds, 2)} times its seconds (median)", "fixed_points.py peers")
        )  # fmt: skip
    return items


def _seconds_summary() -> list[tuple[str, str, str]]:
    """Items on seconds beside vegas, one for each tolerance."""
    items = []
    found = figures("seconds")
    for rtol in sorted({case.rpartition(", ")[2] for case in found}, key=float, reverse=True):
        pairs = [(one["vegas"], one["varflow"]) for case, one in found.items() if case.endswith(f", {rtol}")]
        faster = sum(
            varflow["reached"] and varflow["seconds"] <= vegas["seconds"] for vegas, varflow in pairs
        )
        ratio = median(vegas["seconds"] / varflow["seconds"] for vegas, varflow in pairs)
        calls = median(varflow["calls"] / vegas["calls"] for vegas, varflow in pairs)
        items.append(
            (f"cheap NumPy integrands to a relative error of {rtol}",
             f"fewer seconds than vegas on {faster} of {len(pairs)}; median: {number(ratio, 2)} times as "
             f"fast, with {percent(calls)} of the calls", "beside_vegas.py")
        )  # fmt: skip
    return items


def few_calls() -> str:
    """Errors with few calls beside those of vegas and of Sobol points, and pulls."""
    lines = figures("few_calls")
    rows = [
        (
            name.rpartition(" ")[0],
            f"{one['n_calls']:,}",
            *(
                "-" if one.get(who) is None else number(one[who], 2)
                for who in ("varflow", "stated", "vegas", "madnis", "sobol")
            ),
            number(one["varflow"] / one["vegas"], 2),
            number(one["seconds"], 2),
        )
        for name, one in sorted(lines.items(), key=lambda item: item[1]["n_calls"])
    ]
    titles = "case", "calls", "varflow", "stated", "vegas", "MadNIS", "Sobol", "of vegas's", "seconds"
    ratios: dict[int, list[float]] = {}
    for one in lines.values():
        ratios.setdefault(one["n_calls"], []).append(one["varflow"] / one["vegas"])
    means = [
        (f"{n:,}", str(len(found)), number(geometric_mean(found), 2), number(max(found), 2))
        for n, found in sorted(ratios.items())
    ]
    pulled = [
        (
            name.rpartition(" ")[0],
            f"{one['n_calls']:,}",
            str(one["n_seeds"]),
            f"{one['mean']:+.2f}",
            number(one["sdev"], 3),
        )
        for name, one in figures("few_calls_pulls").items()
    ]
    return "\n\n".join(
        [
            table(titles, rows),
            table(("calls", "cases", "of vegas's error, geometric mean", "largest"), means),
            table(("case", "calls", "seeds", "mean of the pulls", "their deviation"), pulled),
            provenance("few_calls", "few_calls_pulls"),
        ]
    )


def known_integrals() -> str:
    """Errors and largest pulls of varflow and vegas on integrals with known values."""
    of_each = ("error", "rms", "largest_pull")
    rows = [
        (
            name.rpartition(" ")[0],
            f"{one['n_calls']:,}",
            *(number(one[who][figure], 2) for figure in of_each for who in ("varflow", "vegas")),
            str(one["varflow"]["n_warned"]),
        )
        for name, one in figures("known_integrals").items()
    ]
    titles = (
        *("case", "calls", "stated", "of vegas", "rms", "of vegas", "largest pull", "of vegas"),
        "with a warning",
    )
    return f"{table(titles, rows)}\n\n{provenance('known_integrals')}"


def channels() -> str:
    """Errors with channels beside those of a single flow and of MadNIS, told and true."""
    found = figures("channels")
    titles = ["case", "varflow", "varflow, one flow", "MadNIS", "MadNIS / varflow"]
    rows = [
        [case,
         *(f"{one[who]['told']:.1e} ({one[who]['true']:.1e})" for who in ("channels", "alone", "madnis")),
         number(one["madnis"]["told"] / one["channels"]["told"], 2)]
        for case, one in found.items()
    ]  # fmt: skip
    seconds = {
        who: span((one[who]["seconds"] for one in found.values()), lambda value: number(value, 2))
        for who in ("channels", "madnis")
    }
    return (
        f"{table(titles, rows)}\n\nErrors are relative to the integral of |f|; the true ones are in "
        f"parentheses. A run took {seconds['channels']} s, MadNIS {seconds['madnis']} s.\n\n"
        f"{provenance('channels')}"
    )


def mixtures() -> str:
    """Relative variances that one flow leaves, two flows, and two that each learn a part."""
    ways = {"one": "one flow", "cross_fitting": "two, each of all of f", "em": "two, each of a part"}
    found = figures("mixtures")
    rows = [
        [case, *(f"{number(one[way]['variance'], 2)} ({number(one[way]['seconds'], 2)} s)" for way in ways)]
        for case, one in found.items()
    ]
    return f"{table(['integrand', *ways.values()], rows)}\n\n{provenance('mixtures')}"


def error_by_calls() -> str:
    """Errors against calls beside vegas and MadNIS, and slopes of straight lines through their logarithms."""
    lines = sorted(figures("error_by_calls").values(), key=lambda one: (one["integrand"], one["n_calls"]))
    who = "varflow", "vegas", "madnis"
    rows = [
        (
            one["integrand"],
            f"{one['n_calls']:,}",
            str(one["n_seeds"]),
            *(number(one[name], 2) for name in who),
            number(one["seconds"], 2),
        )
        for one in lines
    ]
    slopes = []
    for integrand, of_case in groupby(lines, key=lambda one: one["integrand"]):
        points = list(of_case)
        calls = [math.log(one["n_calls"]) for one in points]
        found = (linear_regression(calls, [math.log(one[name]) for one in points]).slope for name in who)
        slopes.append((integrand, *(f"{slope:.2f}" for slope in found)))
    names = "varflow", "vegas", "MadNIS"
    return "\n\n".join(
        [
            table(("integrand", "calls", "seeds", *names, "seconds"), rows),
            table(("integrand", *(f"slope, {name}" for name in names)), slopes),
            provenance("error_by_calls"),
        ]
    )


def many_dimensions() -> str:
    """Errors and seconds in many dimensions beside vegas's, and the cost of a step."""
    rows = [
        (
            name,
            str(one["d"]),
            number(one["varflow"], 2),
            number(one["stated"], 2),
            percent(one["ess"]),
            number(one["seconds"], 2),
            number(one["vegas"], 2),
            number(one["vegas_seconds"], 2),
        )
        for name, one in figures("many_dimensions").items()
    ]
    titles = ("case", "d", "varflow", "stated", "ess", "seconds", "vegas", "its seconds")
    steps = figures("many_dimensions_steps").values()
    dimensions = sorted({one["d"] for one in steps})
    by_masking = [
        (masking, *(_step_and_cells(steps, masking, d) for d in dimensions), _slope(steps, masking))
        for masking in dict.fromkeys(one["masking"] for one in steps)
    ]
    heads = ("masking", *(f"d = {d}" for d in dimensions), "power of d")
    return "\n\n".join(
        [
            table(titles, rows),
            table(heads, by_masking),
            provenance("many_dimensions", "many_dimensions_steps"),
        ]
    )


def _step_and_cells(steps: Iterable[Line], masking: str, d: int) -> str:
    """Milliseconds of a step, and the number of cells."""
    one = next(one for one in steps if (one["masking"], one["d"]) == (masking, d))
    return f"{milliseconds(one['step_s'])}, {one['n_cells']} cells"


def _slope(steps: Iterable[Line], masking: str) -> str:
    """Power of d with which the time of a step grows between the two largest."""
    few, many = sorted((one for one in steps if one["masking"] == masking), key=lambda one: one["d"])[-2:]
    return number(math.log(many["step_s"] / few["step_s"]) / math.log(many["d"] / few["d"]), 2)


def evidence() -> str:
    """Errors of log evidences beside those of nested and importance samplers."""
    rows = [
        (
            name.partition(" ")[0],
            one["who"],
            f"{one['n_calls']:,}",
            str(one["n_seeds"]),
            number(one["off"], 2),
            number(one["told"], 2),
            number(one["farthest"], 2),
            str(one.get("n_warned", "-")),
            number(one["seconds"], 2),
        )
        for name, one in sorted(figures("evidence").items(), key=lambda item: item[0].partition(" ")[0])
    ]
    titles = ("case", "by", "calls", "seeds", "off", "told", "farthest, in errors", "warned", "seconds")
    return "\n\n".join([table(titles, rows), provenance("evidence")])


def compiled() -> str:
    """Cost of calling a compiled integrand, and seconds beside vegas with cffi."""
    rows = [
        [f"`{kind}`", *(number(one[key], 2) for key in ("own_ns", "call_ns", "refine_ns")),
         number(one["refine_ns"] - one["own_ns"], 2)]
        for kind, one in figures("compiled").items()
    ]  # fmt: skip
    titles = [
        "kind",
        "the function, ns",
        "a call, ns",
        "in a refinement, ns",
        "of that beyond the function, ns",
    ]
    beside = [
        [rtol, *(f"{one[who]['calls']:,.0f}" for who in ("vegas", "varflow")),
         *(number(one[who]["seconds"], 2) for who in ("vegas", "varflow")),
         number(one["varflow"]["seconds"] / one["vegas"]["seconds"], 2)]
        for rtol, one in figures("compiled_vegas").items()
    ]  # fmt: skip
    beside_titles = ["rtol", "calls, vegas", "calls, varflow", "seconds, vegas", "seconds, varflow", "ratio"]
    return "\n\n".join(
        [table(titles, rows), table(beside_titles, beside), provenance("compiled", "compiled_vegas")]
    )


def workers() -> str:
    """Cost of a call in workers beyond f."""
    keys = "one_us", "chunks_us", "alone_us"
    rows = [
        [f"`{case}`", *(" / ".join(number(part, 2) for part in one[key]) for key in keys),
         f"{one['sent_s']:.2f} s"]
        for case, one in figures("workers").items()
    ]  # fmt: skip
    titles = [
        "workers",
        "a round of 1000 points",
        "chunks of 1000 of a cheap f",
        "chunks of 1000 of an f of 20 µs",
        "f of 8 MB arrives",
    ]
    loads = span((one["load"] for one in figures("workers").values()), lambda load: f"{load:.0f}")
    note = f"The machine was busy with other work meanwhile (load {loads})."
    return f"{table(titles, rows)}\n\n{note}\n\n{provenance('workers')}"


def workers_dask() -> str:
    """Ways to send chunks of points to a Dask cluster."""
    found = figures("workers_dask")
    rows = [
        [name, number(one["seconds_us"], 2), number(one["processor_us"], 2)] for name, one in found.items()
    ]
    loads = span((one["load"] for one in found.values()), lambda load: f"{load:.0f}")
    note = f"The machine was busy with other work meanwhile (load {loads})."
    titles = ["200 chunks of 1000 points", "µs a call", "processors' µs"]
    return f"{table(titles, rows)}\n\n{note}\n\n{provenance('workers_dask')}"


def mpi_memory() -> str:
    """Bytes a point that a training on a dataset needs, by ranks on a node, and what that means for many."""
    found = figures("mpi_memory")
    needs = {
        case: (
            one["reading_first"] + one["training_first"],
            max(one["reading_others"], one["training_others"]),
            one["reading_shared"] + one["training_shared"],
        )
        for case, one in found.items()
    }
    rows = [[case, *(f"{part:.0f}" for part in parts)] for case, parts in needs.items()]
    titles = ["bytes a point", "the first rank's own", "another rank's own", "all ranks' in common"]
    case, (first, other, common) = list(needs.items())[-1]
    in_all = first + other * (int(case.split()[0]) - 1) + common
    one = found[case]
    told = (
        f"Measured with {one['n_points']:,} points of {one['d']} coordinates, {8 * (one['d'] + 2)} bytes "
        f"each as they are read. 100,000,000 such points need {in_all / 10:.0f} GB on a node with {case}, "
        f"{common / 10:.0f} GB of it in `/dev/shm`."
    )
    return f"{table(titles, rows)}\n\n{told}\n\n{provenance('mpi_memory')}"


def mpi_scaling() -> str:
    """Rounds of points on ranks that share them, and how many are waited for where some are dear."""
    scaling, balance = figures("mpi_scaling"), figures("mpi_balance")
    costs = next(iter(scaling.values()))
    rows = [[case, *(percent(one[cost]) for cost in costs)] for case, one in scaling.items()]
    dear = [
        [
            case,
            *(percent(one[kind][way]) for kind in ("scattered", "clustered") for way in ("dealt", "fixed")),
        ]
        for case, one in balance.items()
    ]
    titles = ["", "scattered, dealt", "shares fixed", "clustered, dealt", "shares fixed"]
    return "\n\n".join(
        [table(["", *costs], rows), table(titles, dear), provenance("mpi_scaling", "mpi_balance")]
    )


def mpi_messages() -> str:
    """Exchanges by their size, and steps that are shared."""
    messages, steps = figures("mpi_messages"), figures("mpi_steps")["2 ranks"]
    sizes = next(iter(messages.values()))
    rows = [[case, *(milliseconds(one[size]) for size in sizes)] for case, one in messages.items()]
    shared = [
        [name, f"{one['n_params']:,}", milliseconds(one["alone"]), milliseconds(one["shared"]),
         number(one["shared"] / one["alone"], 2)]
        for name, one in steps.items()
    ]  # fmt: skip
    titles = ["network, step", "parameters", "alone", "shared by 2", "ratio"]
    return "\n\n".join(
        [table(["bytes", *sizes], rows), table(titles, shared), provenance("mpi_messages", "mpi_steps")]
    )


def mpi_pays() -> str:
    """Share of the ideal speed-up by ranks and cost of f, modelled from what was measured."""
    training = figures("mpi_survey")["1 rank"]["round"]
    overhead = min(figures("mpi_messages")["2 ranks"].values())
    n_ranks = 2, 10, 100, 1000
    stages = {"survey, 1024 points": (1024, training), "refinement, 100 000 points": (100_000, 0.0)}
    rows = [
        [stage, name, *(percent(modelled(k, cost, n, seconds, overhead)) for k in n_ranks),
         f"{ranks_that_pay(cost, n, seconds, overhead):,}"]
        for stage, (n, seconds) in stages.items()
        for name, cost in (("1 µs", 1e-6), ("100 µs", 1e-4), ("10 ms", 1e-2), ("1 s", 1.0))
    ]  # fmt: skip
    titles = ["round of", "a call of f", *(f"{k} ranks" for k in n_ranks), "ranks to half of the ideal"]
    told = (
        "Share of the ideal speed-up, computed by `modelled` in `tests/benchmarks/mpi.py` from the seconds "
        f"measured of the training after a round ({milliseconds(training)}) and of an exchange "
        f"({milliseconds(overhead)}); {1e6 * LATENCY:g} µs a message are assumed of a network."
    )
    return f"{told}\n\n{table(titles, rows)}\n\n{provenance('mpi_survey', 'mpi_messages')}"


BLOCKS = {
    name.replace("_", "-"): write
    for name, write in (
        ("speed", speed), ("held_out", held_out), ("cells_accuracy", cells_accuracy),
        ("cells_speed", cells_speed), ("cells_parts", cells_parts), ("cells_unbounded", cells_unbounded),
        ("sampling", sampling), ("gpu", gpu),
        ("load", load), ("published", published),
        ("accuracy", accuracy), ("training", training), ("pulls", pulls), ("narrow", narrow),
        ("overhead", overhead), ("defaults", defaults), ("settings", settings), ("seconds", seconds),
        ("performance", performance), ("family", family), ("discrete", discrete),
        ("fixed_points", fixed_points),
        ("fixed_points_peers", fixed_points_peers), ("fixed_points_flows", fixed_points_flows),
        ("fixed_points_settings", fixed_points_settings), ("fixed_points_pulls", fixed_points_pulls),
        ("few_calls", few_calls), ("error_by_calls", error_by_calls), ("known_integrals", known_integrals),
        ("channels", channels), ("mixtures", mixtures),
        ("many_dimensions", many_dimensions), ("evidence", evidence),
        ("compiled", compiled), ("first_call", first_call), ("export", export), ("workers", workers),
        ("workers_dask", workers_dask), ("mpi_memory", mpi_memory),
        ("mpi_scaling", mpi_scaling), ("mpi_messages", mpi_messages), ("mpi_pays", mpi_pays),
    )
}  # fmt: skip


def rewritten(text: str) -> str:
    """Text of a page with its blocks written anew."""

    def block(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in BLOCKS:
            raise SystemExit(f"there are no figures named {name!r}, but {', '.join(BLOCKS)}")
        return f"{begin}\n{BLOCKS[name]()}\n\n{end}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if pages differ")
    check = parser.parse_args().check
    differ = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        written = rewritten(text)
        if written != text:
            differ.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(written, encoding="utf-8")
    if differ:
        print(f"{'differ from the results' if check else 'written'}: {', '.join(differ)}")
    if check and differ:
        sys.exit(1)


if __name__ == "__main__":
    main()

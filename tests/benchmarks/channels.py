"""Integrals with channels, beside a single flow and beside MadNIS with the same channels, as they come.

    python tests/benchmarks/channels.py [case ...] [--seeds 3] [--calls 400000] --peers-python PYTHON

Each case has an exact integral. Errors are relative to the integral of |f|: the root mean square over seeds
of those that are told, and of the true ones. MadNIS trains with the share of the calls that varflow's survey
has, and integrates with the rest; its settings are those that it comes with.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import peer_versions, record

import varflow as vf

SURVEY_SHARE = 0.75
DISTANCE, SIGMA = 0.3, 0.2
MASSES, WIDTHS = (0.5, 0.8), (1e-4, 1e-3)
PLACES, WIDTH = (0.3, 0.6), 1e-6  # of the crossed lines


class ChannelCase(NamedTuple):
    """An integrand of two dimensions, its channels, and what is known of it."""

    f: Callable[[np.ndarray], np.ndarray]
    channels: Sequence[Any]
    exact: float
    size: float  # integral of |f|
    prior: Callable[[np.ndarray], np.ndarray] | None = None  # of MadNIS, if not by the densities of maps


def gaussians(x: np.ndarray) -> list[np.ndarray]:
    """Two Gaussians on the diagonal."""
    return [np.exp(-((x - 0.5 + sign * DISTANCE) ** 2).sum(axis=1) / (2 * SIGMA**2)) for sign in (1, -1)]


def difference(x: np.ndarray) -> np.ndarray:
    """Difference of two Gaussians, of MadNIS's documentation."""
    first, second = gaussians(x)
    return first - second


def by_gaussians(x: np.ndarray) -> np.ndarray:
    """Prior weights of MadNIS's documentation."""
    weights = np.stack(gaussians(x), axis=1)
    share: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return share


def sigmoid_channel(shift: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Map of MadNIS's documentation, which moves points to one of the peaks."""

    def forward(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(np.log(z / (1 - z)) + shift)))

    def log_prob(x: np.ndarray) -> np.ndarray:
        z = 1 / (1 + np.exp(-(np.log(x / (1 - x)) - shift)))
        logs: np.ndarray = np.log(z * (1 - z) / (x * (1 - x))).sum(axis=1)
        return logs

    return forward, log_prob


def peak(x: np.ndarray, place: float, width: float) -> np.ndarray:
    """Breit-Wigner peak in one coordinate (n,)."""
    return width / ((x - place) ** 2 + width**2)


def angles(place: float, width: float) -> tuple[float, float]:
    """Ends of the variable in which the peak is flat."""
    return float(np.arctan(-place / width)), float(np.arctan((1 - place) / width))


def line_channel(axis: int, place: float, width: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Map that flattens a peak in a coordinate."""
    low, high = angles(place, width)

    def forward(z: np.ndarray) -> np.ndarray:
        x = z.copy()
        x[:, axis] = place + width * np.tan(low + (high - low) * z[:, axis])
        return x

    def log_prob(x: np.ndarray) -> np.ndarray:
        return np.log(peak(x[:, axis], place, width) / (high - low))

    return forward, log_prob


def resonances(x: np.ndarray) -> np.ndarray:
    """Two resonances in the square of a mass, each with a dependence on the angle, and a continuum."""
    cosine = 2 * x[:, 1] - 1
    first, second = (peak(x[:, 0], m**2, m * w) for m, w in zip(MASSES, WIDTHS, strict=True))
    return first * (1 + cosine**2) + second * (1 - cosine / 2) + 1 + x[:, 0]


def of_resonances() -> float:
    """Integral of that."""
    first, second = (np.ptp(angles(m**2, m * w)) for m, w in zip(MASSES, WIDTHS, strict=True))
    return float(first * 4 / 3 + second + 1.5)


def crossed(x: np.ndarray) -> np.ndarray:
    """Two narrow lines that cross."""
    first, second = (peak(x[:, axis], PLACES[axis], WIDTH) for axis in (0, 1))
    return first * (1 + x[:, 1]) + second * (2 - x[:, 0])


def of_crossed() -> float:
    """Integral of that."""
    return float(1.5 * sum(np.ptp(angles(place, WIDTH)) for place in PLACES))


SIZE = float(np.abs(difference((np.indices((1000, 1000)).reshape(2, -1).T + 0.5) / 1000)).mean())
CASES = {
    "difference of Gaussians": ChannelCase(difference, ["flow", "flow"], 0.0, SIZE),
    "difference of Gaussians, with maps": ChannelCase(
        difference, [sigmoid_channel(shift) for shift in (-0.5, 0.5)], 0.0, SIZE, by_gaussians
    ),
    "resonances and a continuum": ChannelCase(
        resonances,
        [*(line_channel(0, m**2, m * w) for m, w in zip(MASSES, WIDTHS, strict=True)), "flow"],
        of_resonances(),
        of_resonances(),
    ),
    "crossed lines": ChannelCase(
        crossed,
        [line_channel(axis, place, WIDTH) for axis, place in enumerate(PLACES)],
        of_crossed(),
        of_crossed(),
    ),
}

MADNIS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import torch
sys.modules["varflow"] = type(sys)("varflow")  # the cases need none of it
from channels import CASES, SURVEY_SHARE
from madnis.integrator import Integrand, Integrator

torch.set_num_threads(1)
name, n_calls, n_seeds = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
case = CASES[name]
m, is_flow = len(case.channels), [one == "flow" for one in case.channels]


def density(k, x):
    return np.ones(len(x)) if is_flow[k] else np.exp(case.channels[k][1](x))


def function(z, channel):
    z, channel = np.clip(z.detach().double().numpy(), 1e-9, 1 - 1e-9), channel.numpy()
    x, own = z.copy(), np.ones(len(z))
    for k in range(m):
        rows = channel == k
        if rows.any() and not is_flow[k]:
            x[rows] = case.channels[k][0](z[rows])
            own[rows] = density(k, x[rows])
    densities = np.stack([density(k, x) for k in range(m)], axis=1)
    alpha = densities / densities.sum(axis=1, keepdims=True) if case.prior is None else case.prior(x)
    return [torch.as_tensor(one, dtype=torch.float32) for one in (case.f(x) / own, x, alpha)]


found = []
for seed in range(n_seeds):
    torch.manual_seed(seed)
    if all(is_flow):
        integrand = Integrand(lambda z, c: function(z, c)[0], input_dim=2, channel_count=m)
    else:
        integrand = Integrand(
            function, input_dim=2, channel_count=m, remapped_dim=2, has_channel_weight_prior=True
        )
    integrator = Integrator(integrand)
    n_steps = int(SURVEY_SHARE * n_calls) // integrator.batch_size
    integrator.train(n_steps)
    found.append(integrator.integrate(n_calls - n_steps * integrator.batch_size))
print(json.dumps(found))
"""


def of_madnis(python: str, name: str, n_calls: int, n_seeds: int) -> list[tuple[float, float]]:
    """Estimates of MadNIS and their errors, in its own environment."""
    arguments = [str(Path(__file__).parent), name, str(n_calls), str(n_seeds)]
    command = [python, "-W", "ignore", "-c", MADNIS, *arguments]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: list[tuple[float, float]] = json.loads(out)
    return found


def figures_of(found: Sequence[tuple[float, float]], case: ChannelCase, seconds: float) -> dict[str, float]:
    """Root mean squares of the errors that are told and of the true ones."""
    means, sdevs = np.array(found).T
    return {
        "told": float(np.sqrt(np.mean(sdevs**2)) / case.size),
        "true": float(np.sqrt(np.mean((means - case.exact) ** 2)) / case.size),
        "seconds": seconds / len(found),
    }


def measured(estimates: Callable[[], Sequence[tuple[float, float]]], case: ChannelCase) -> dict[str, float]:
    """Figures of some estimates, and the time they take each."""
    begin = time.perf_counter()
    found = estimates()
    return figures_of(found, case, time.perf_counter() - begin)


def of_varflow(case: ChannelCase, n_calls: int, n_seeds: int, channels: Any) -> list[tuple[float, float]]:
    """Estimates of varflow and their errors."""
    results = [
        vf.integrate(case.f, 2, n_calls=n_calls, seed=seed, channels=channels, threads=1)
        for seed in range(n_seeds)
    ]
    return [(one.mean, one.sdev) for one in results]


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=400_000)
    parser.add_argument("--peers-python", default="python")
    options = parser.parse_args()
    peers = peer_versions(options.peers_python, ["madnis", "torch"])
    sizes = options.calls, options.seeds
    for name in options.cases or CASES:
        case = CASES[name]
        figures = {
            "n_calls": options.calls,
            "n_seeds": options.seeds,
            "channels": measured(partial(of_varflow, case, *sizes, case.channels), case),
            "alone": measured(partial(of_varflow, case, *sizes, None), case),
            "madnis": measured(partial(of_madnis, options.peers_python, name, *sizes), case),
        }
        record("channels", name, figures, peers=peers)


if __name__ == "__main__":
    main()

"""How often right densities are called wrong, and wrong ones are noticed.

    python tests/benchmarks/normalization.py [kind ...] [--seeds 200] [--power-seeds 40]

Random densities are given as they are, and times a factor. Two tables are printed, by kind and number of
points: which right densities are called wrong, and which share of wrong ones is noticed.
"""

import argparse
import math
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

import varflow as vf
from varflow.training.normalization import Normalization, estimate_normalization

N_POINTS = (500, 2000, 20_000)
FACTORS = (0.5, 1.5, 2.0, 2 * math.pi, 10.0, 1e-30, 1e30)
MAX_D = 8


class Points(NamedTuple):
    x: np.ndarray  # (n, d), in the unit cube
    log_p: np.ndarray  # (n,)


def betas(n: int, generator: np.random.Generator) -> Points:
    """Products of beta distributions, from singular at the borders to a narrow peak."""
    from scipy.stats import beta

    d = int(generator.integers(1, MAX_D + 1))
    a, b = 10 ** generator.uniform(math.log10(0.3), math.log10(30), (2, d))
    x = np.clip(generator.beta(a, b, (n, d)), 1e-300, np.nextafter(1, 0))
    return Points(x, beta.logpdf(x, a, b).sum(axis=1))


def gaussians(n: int, generator: np.random.Generator) -> Points:
    """Up to five correlated Gaussians, cut by the borders."""
    d = int(generator.integers(1, MAX_D + 1))
    shares = generator.dirichlet(np.ones(generator.integers(1, 6)))
    centres = generator.uniform(0.1, 0.9, (len(shares), d))
    roots = [_root(d, generator) for _ in shares]

    def draw(m: int) -> np.ndarray:
        which = generator.choice(len(shares), m, p=shares)
        y = generator.normal(size=(m, d))
        x = centres[which] + np.einsum("kij,kj->ki", np.asarray(roots)[which], y)
        return x[((x >= 0) & (x <= 1)).all(axis=1)]

    kept = len(draw(200_000)) / 200_000
    if kept < 0.02:
        return gaussians(n, generator)
    x = np.concatenate([draw(n) for _ in range(math.ceil(1.5 / kept) + 3)])[:n]
    logs = []
    for share, centre, root in zip(shares, centres, roots, strict=True):
        y = np.linalg.solve(root, (x - centre).T)
        log_det = np.linalg.slogdet(root)[1]
        logs.append(math.log(share) - (y**2).sum(axis=0) / 2 - log_det - d / 2 * math.log(2 * math.pi))
    return Points(x, np.logaddexp.reduce(logs) - math.log(kept))


def _root(d: int, generator: np.random.Generator) -> np.ndarray:
    """Root of a covariance with widths of 0.01 to 0.3 along random axes."""
    axes = np.linalg.qr(generator.normal(size=(d, d)))[0]
    return axes * 10 ** generator.uniform(-2, math.log10(0.3), d)


def grids(n: int, generator: np.random.Generator) -> Points:
    """Steps as those of vegas, with jumps of up to 1e3, in products."""
    d = int(generator.integers(1, MAX_D + 1))
    x, log_p = np.empty((n, d)), np.zeros(n)
    for i in range(d):
        n_bins = int(generator.integers(2, 51))
        widths = generator.dirichlet(np.full(n_bins, 2.0))
        heights = 10 ** generator.uniform(-generator.uniform(0, 3), 0, n_bins)
        heights /= widths @ heights
        k = generator.choice(n_bins, n, p=widths * heights)
        x[:, i] = (np.cumsum(widths) - widths)[k] + widths[k] * generator.random(n)
        log_p += np.log(heights[k])
    return Points(np.clip(x, 0, 1), log_p)


def flows(n: int, generator: np.random.Generator) -> Points:
    """Flows with random parameters, which bend and tear."""
    d = int(generator.integers(1, MAX_D + 1))
    cell = str(generator.choice(["pwlinear", "pwquad", "rqs"]))
    flow = vf.Flow(d, cell, n_bins=8, d_hidden=16, n_hidden=2, seed=0, dtype="float64")
    flow.params = flow.params + generator.normal(size=flow.n_params) * generator.uniform(0.1, 1)
    return Points(*flow.sample(n, int(generator.integers(1 << 31))))


def boxes(n: int, generator: np.random.Generator) -> Points:
    """Mixtures of uniform densities in boxes: steps along no common grid, holes where p is zero."""
    d = int(generator.integers(1, MAX_D + 1))
    m = int(generator.integers(1, 9))
    shares = generator.dirichlet(np.ones(m))
    widths = 10 ** generator.uniform(-1, 0, (m, d))
    lower = generator.random((m, d)) * (1 - widths)
    which = generator.choice(m, n, p=shares)
    x = lower[which] + widths[which] * generator.random((n, d))
    inside = ((x[:, None] >= lower) & (x[:, None] <= lower + widths)).all(axis=2)
    return Points(np.clip(x, 0, 1), np.log(inside @ (shares / widths.prod(axis=1))))


def plateaus(n: int, generator: np.random.Generator) -> Points:
    """A narrow peak, as narrow as 1e-4, on a uniform plateau."""
    d = int(generator.integers(1, MAX_D + 1))
    share, width = generator.uniform(0.01, 0.99), 10 ** generator.uniform(-4, -1.2)
    root: np.ndarray = np.linalg.qr(generator.normal(size=(d, d)))[0] * width
    y = generator.normal(size=(n, d))
    x = np.where(generator.random((n, 1)) < share, 0.5 + y @ root.T, generator.random((n, d)))
    x = x[((x >= 0) & (x <= 1)).all(axis=1)]
    y = np.linalg.solve(root, (x - 0.5).T)
    log_peak = math.log(share) - (y**2).sum(axis=0) / 2 - d * math.log(width * math.sqrt(2 * math.pi))
    return Points(x, np.logaddexp(log_peak, math.log1p(-share)))


def shapes(n: int, generator: np.random.Generator) -> Points:
    """Uniform where a cut holds, and zero elsewhere: balls, shells and slanted strips."""
    kind = generator.choice(["ball", "shell", "strip"])
    d = int(generator.integers(1 if kind == "ball" else 2, 5))
    thickness = generator.uniform(0.02, 0.9)

    def holds(x: np.ndarray) -> np.ndarray:
        if kind == "strip":
            return np.abs(x[:, 0] - x[:, 1]) < thickness
        r = 2 * np.linalg.norm(x - 0.5, axis=1)
        return (r < 1) & ((kind == "ball") | (r > 1 - thickness))

    return _uniform_where(holds, d, n, generator)


def boards(n: int, generator: np.random.Generator) -> Points:
    """Chequerboards. If their squares are finer than distances of points, they cannot be told from 2 p."""
    d, cells = int(generator.integers(1, 5)), int(generator.integers(2, 9))
    return _uniform_where(lambda x: np.floor(x * cells).sum(axis=1) % 2 == 0, d, n, generator)


def _uniform_where(
    holds: Callable[[np.ndarray], np.ndarray], d: int, n: int, generator: np.random.Generator
) -> Points:
    kept = holds(generator.random((400_000, d))).mean()
    x = generator.random((math.ceil(1.2 * n / kept) + 1000, d))
    x = x[holds(x)][:n]
    return Points(x, np.full(len(x), -math.log(kept)))


KINDS: dict[str, Callable[[int, np.random.Generator], Points]] = {
    kind.__name__: kind for kind in (betas, gaussians, grids, flows, boxes, plateaus, shapes, boards)
}


def drawn(kind: str, n: int, seed: int) -> Points:
    """Draw a random density of a kind, and points from it."""
    return KINDS[kind](n, np.random.default_rng([zlib.crc32(kind.encode()), n, seed]))


def estimate(points: Points, factor: float = 1.0) -> Normalization:
    """Estimate the integral of a density times a factor."""
    bounds = np.tile([0.0, 1.0], (points.x.shape[1], 1))
    return estimate_normalization(points.x, points.log_p + math.log(factor), bounds)


def false_alarms(kind: str, n: int, seeds: range) -> Iterator[tuple[int, Normalization]]:
    """Find the seeds whose right density is called wrong."""
    for seed in seeds:
        found = estimate(drawn(kind, n, seed))
        if found.is_wrong:
            yield seed, found


def share_noticed(kind: str, n: int, seeds: range) -> list[float]:
    """Compute the share of densities that are noticed, by factor, when they are given times it."""
    noticed = [
        [estimate(points, f).is_wrong for f in FACTORS] for points in (drawn(kind, n, s) for s in seeds)
    ]
    return np.mean(noticed, axis=0).tolist()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="kind")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--power-seeds", type=int, default=40)
    options = parser.parse_args()
    cases = [(kind, n) for kind in options.kinds for n in N_POINTS]
    print(f"{'kind':10}{'n':>7}  called wrong, of {options.seeds} right densities")
    for kind, n in cases:
        found = list(false_alarms(kind, n, range(options.seeds)))
        which = "".join(f"  seed {seed}: {each.factor:.3g} ± {each.error:.1%}" for seed, each in found)
        print(f"{kind:10}{n:>7}  {len(found)}{which}", flush=True)
    print(f"\n{'kind':10}{'n':>7}  " + "".join(f"{f:>8.3g}" for f in FACTORS))
    for kind, n in cases:
        shares = share_noticed(kind, n, range(options.power_seeds))
        print(f"{kind:10}{n:>7}  " + "".join(f"{share:>8.0%}" for share in shares), flush=True)


if __name__ == "__main__":
    main()

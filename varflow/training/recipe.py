"""Settings of a training that are not given: they follow from the numbers of points and of dimensions.

With the sizes of the flow (`varflow.flow.defaults`), the rules are fitted to the cases of
`tests/benchmarks/fixed_points.py` with 500 to 200 000 points; `tests/benchmarks/README.md` has the figures.
"""

from typing import Any

from varflow.flow.architecture import Architecture
from varflow.training.adam import Adam

__all__ = [
    "held_out_share",
    "n_epochs_for",
    "optimiser_for",
    "patience_for",
    "rows_a_step",
]

REFERENCE = 2000  # points at which the rules have their constants


def n_epochs_for(n: int) -> int:
    """Choose the number of epochs for n points."""
    return max(4, min(300, round(96 * (n / REFERENCE) ** -0.37)))


def patience_for(n_epochs: int) -> int:
    """Choose the epochs without improvement after which a training of so many epochs ends."""
    return max(20, n_epochs // 2)


def rows_a_step(n: int) -> int:
    """Choose the rows of a minibatch of n points, such that the last one of an epoch has hardly fewer."""
    least = min(n, round(128 * (n / REFERENCE) ** 0.3))
    return min(range(least, min(n, least + least // 4) + 1), key=lambda rows: (-n % rows) / rows)


def held_out_share(n: int) -> float:
    """Choose the share of n points that tells the loss after an epoch."""
    return min(0.2, 0.05 + 25 / n)


def optimiser_for(n: int, architecture: Architecture, **given: Any) -> Adam:
    """Choose the optimiser for n points and a flow, but for the settings that are given."""
    if architecture.cell == "pwlinear":
        decay = 0.3 if architecture.d <= 2 else 1.0
    else:
        decay = 0.1 if architecture.d <= 2 else 0.7
    chosen: dict[str, Any] = {
        "lr": 5e-3,
        "betas": (0.9, 0.99),
        "weight_decay": decay * min(1.0, REFERENCE / n),
        "schedule": "cosine",
        "average": 0.995,
        "warm_up": 100,
    }
    if architecture.latent == "normal":  # q is tiny far away, and a single point there would be all there is
        chosen["clip_norm"] = 1.0
    return Adam(**chosen | given)

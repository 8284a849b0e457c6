"""Proposal density: a defensive mixture of a flow and the uniform density, and its latent points."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.domain import MAX_ON_CUBE, MIN_ON_CUBE
from varflow.integration.sobol import sobol_points

__all__ = ["LATENT_POINTS", "Draw", "draw", "draw_given", "inside", "log_mixture"]


class Draw(NamedTuple):
    """Points drawn from a mixture of a flow and the uniform density, in fixed numbers from each.

    Attributes
    ----------
    u : ndarray, (n, d)
        The points: first those from the flow, then the `n_uniform` uniform ones.
    log_flow : ndarray, (n,)
        Log density of the flow at all points.
    log_q : ndarray, (n,)
        Log density of the mixture at all points.
    n_uniform : int
        Number of uniform points.
    """

    u: np.ndarray
    log_flow: np.ndarray
    log_q: np.ndarray
    n_uniform: int

    @classmethod
    def of_flow(cls, u: np.ndarray, log_flow: np.ndarray, n_uniform: int) -> "Draw":
        """Make a draw of points (n, d) with the log densities (n,) of the flow, the last ones uniform."""
        return _mixture(u, log_flow, n_uniform)

    @property
    def uniform_share(self) -> float:
        """Share of the uniform density in the mixture."""
        return self.n_uniform / len(self.u)

    def only(self, is_kept: np.ndarray) -> "Draw":
        """Give the points that are left, with the density of the mixture that these alone were drawn from.

        Parameters
        ----------
        is_kept : ndarray of bool, (n,)
            Which points are left. That must not depend on the integrand at them.
        """
        u, log_flow, log_q = (part[is_kept] for part in self[:3])
        if self.n_uniform == 0:
            return Draw(u, log_flow, log_q, 0)
        return _mixture(u, log_flow, int(np.count_nonzero(is_kept[len(is_kept) - self.n_uniform :])))


def draw(flow: Flow, z: np.ndarray, uniform: np.ndarray) -> Draw:
    """Draw points from the defensive mixture of a flow on the unit cube and the uniform density.

    Each point gets the density of the whole mixture, whichever part it was drawn from (deterministic mixture
    sampling; Owen and Zhou, J. Am. Stat. Assoc. 95 (2000) 135, section 3):

        q = (1 - a) q_flow + a,    a = n_uniform / (n_flow + n_uniform),

    so that no weight f/q exceeds f/a, however small q_flow is.

    Parameters
    ----------
    flow : Flow
        The flow.
    z : ndarray, (n_flow, d)
        Latent points, uniform in the unit cube; n_flow may be 0.
    uniform : ndarray, (n_uniform, d)
        Uniform points of the unit cube; n_uniform may be 0.

    Returns
    -------
    Draw
        The n_flow + n_uniform points.
    """
    u, log_flow = flow.from_latent(z) if len(z) else (np.empty((0, flow.d)), np.empty(0))
    u, uniform = inside(u), inside(uniform)
    if len(uniform):
        u = np.concatenate([u, uniform])
        log_flow = np.concatenate([log_flow, flow.log_prob(uniform)])
    return _mixture(u, log_flow, len(uniform))


def draw_given(flow: Flow, z: np.ndarray, uniform: np.ndarray, conditions: np.ndarray) -> Draw:
    """Do what `draw` does with a flow that has conditions: those of each point, in the order of the draw."""
    conditions, n_flow = flow.condition_map.checked(conditions, len(z) + len(uniform)), len(z)
    to_columns = flow.condition_map.columns
    u, log_flow = flow.columns_from_latent(to_columns(z, conditions[:n_flow]))
    u, uniform = inside(u), inside(uniform)
    _, log_flow_there = flow.columns_to_latent(to_columns(uniform, conditions[n_flow:]))
    return _mixture(np.concatenate([u, uniform]), np.concatenate([log_flow, log_flow_there]), len(uniform))


def inside(u: np.ndarray) -> np.ndarray:
    """Move points (n, d) that lie on faces of the unit cube, where f may be singular, just inside."""
    moved: np.ndarray = np.clip(u, MIN_ON_CUBE, MAX_ON_CUBE)
    return moved


def _mixture(u: np.ndarray, log_flow: np.ndarray, n_uniform: int) -> Draw:
    """Compute the density of the mixture that points were drawn from, the last `n_uniform` uniformly."""
    if n_uniform == 0:
        return Draw(u, log_flow, log_flow, 0)
    return Draw(u, log_flow, log_mixture(log_flow, n_uniform / len(u)), n_uniform)


def log_mixture(log_flow: np.ndarray, share: float) -> np.ndarray:
    """Compute the log density (n,) of the mixture with a share of the uniform one, from that of the flow."""
    if share in (0.0, 1.0):
        return log_flow if share == 0 else np.zeros(len(log_flow))
    with np.errstate(under="ignore"):
        log_q: np.ndarray = np.logaddexp(log_flow + np.log1p(-share), np.log(share))
    return log_q


def random_points(n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    """Draw pseudo-random points (n, d)."""
    return generator.random((n, d))


LATENT_POINTS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "sobol": sobol_points,
    "random": random_points,
}

"""Points of a file that a flow is measured on."""

import logging
from typing import Any

from varflow.data.dataset import Dataset
from varflow.data.discrete import Discrete
from varflow.data.points import read_points
from varflow.errors import FileFormatError
from varflow.flow.discrete_flow import DiscreteFlow
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture, discrete_columns
from varflow.integration.domain import finite_bounds
from varflow.integration.result import Result

__all__ = ["points_for"]

logger = logging.getLogger(__name__)


def points_for(
    flow: Flow | Mixture | Result,
    path: str,
    columns: list[str] | None,
    conditions: list[str] | None = None,
) -> Dataset:
    """Read points that lie in the box of a flow; what is wrong with them is told with the file."""
    arrays: dict[str, Any] = read_points(path, columns, conditions)
    d = len(flow.bounds)
    if arrays["x"].ndim == 2 and arrays["x"].shape[1] != d:
        has_conditions = not isinstance(flow, Result) and flow.n_conditions > 0
        hint = "; --conditions names columns that are conditions" if has_conditions else ""
        raise ValueError(f"{path} has d = {arrays['x'].shape[1]}, the flow has d = {d}{hint}")
    bounds = finite_bounds(flow.bounds) if isinstance(flow, Result) else flow.bounds
    try:
        data = Dataset(**{**arrays, "bounds": bounds}, discrete=_states_in(flow))
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: {error}") from error
    logger.info("read %s, %d points with d = %d", path, data.n, data.d)
    return data


def _states_in(flow: Flow | Mixture | Result) -> dict[int, Discrete]:
    """Give the discrete columns of points of the box of a flow."""
    if isinstance(flow, Result):
        return flow.flow.discrete if isinstance(flow.flow, DiscreteFlow) else {}
    return discrete_columns(flow)

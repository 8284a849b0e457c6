"""What notebooks and reports show of a flow: its cells, and the box."""

import numpy as np

from varflow.flow.architecture import Architecture
from varflow.markup import number, table

__all__ = ["box_table", "cells_table", "scale_table"]

MAX_NAMED = 8  # coordinates of a cell


def cells_table(architecture: Architecture) -> str:
    """Make a table of the cells: what each transforms, given which coordinates, and its parameters."""
    rows = []
    for k, (mask, layers) in enumerate(zip(architecture.masks, architecture.layers, strict=True)):
        n_params = int(((layers[:, 0] + 1) * layers[:, 1]).sum())
        rows.append([k + 1, _names(mask), _names(~mask, architecture.n_conditions), f"{n_params:,}"])
    titles = ["cell", "transforms", "conditioned on", "parameters"]
    return table("Cells, from target space to latent space", titles, rows)


def _names(mask: np.ndarray, n_conditions: int = 0) -> str:
    names = [f"x{k + 1}" for k in np.flatnonzero(mask)] + ["the conditions"] * (n_conditions > 0)
    if len(names) > MAX_NAMED:
        names[MAX_NAMED - 1 : -1] = ["…"]
    return ", ".join(names) or "nothing"


def box_table(bounds: np.ndarray) -> str:
    """Make a table of the bounds, (d, 2), in one row where they are the same in all dimensions."""
    names = [f"x{k + 1}" for k in range(len(bounds))]
    if len(bounds) > 1 and (bounds == bounds[0]).all():
        names, bounds = [f"{names[0]} to {names[-1]}"], bounds[:1]
    rows = [[name, number(lower), number(upper)] for name, (lower, upper) in zip(names, bounds, strict=True)]
    return table("Box", ["coordinate", "lower bound", "upper bound"], rows)


def scale_table(location: np.ndarray, scale: np.ndarray) -> str:
    """Make a table of location and scale, (d,), of a flow that has no bounds."""
    pairs = zip(location, scale, strict=True)
    rows = [[f"x{k}", number(centre), number(width)] for k, (centre, width) in enumerate(pairs, 1)]
    return table("All real numbers", ["coordinate", "location", "scale"], rows)

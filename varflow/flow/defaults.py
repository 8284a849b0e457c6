"""Sizes of a flow that are not given: they follow from the numbers of dimensions and of points."""

from typing import Any

__all__ = ["MANY_POINTS", "default_sizes"]

MANY_POINTS = 10_000  # from which on deeper networks pay


def default_sizes(d: int, cell: str, n_points: int | None = None) -> dict[str, Any]:
    """Choose the sizes of a flow that learns from a set of points.

    Few dimensions need more cells for what coordinates have in common, and narrower bins are cheap there.
    More layers help where there are many points, and harm where there are few.

    Parameters
    ----------
    d : int
        Number of dimensions.
    cell : str
        Kind of cell.
    n_points : int, optional
        Number of points to learn from; few if not given.

    Returns
    -------
    dict
        Arguments n_bins, d_hidden, n_hidden and repetitions of `Flow`.
    """
    if cell == "realnvp":  # an affine map bends nothing: what is not normal takes several cells in turn
        return {"n_bins": 1, "d_hidden": 64, "n_hidden": 2, "repetitions": 4 if d <= 3 else 2}
    is_linear = cell == "pwlinear"  # whose bins are steps: it needs more of them, and of cells
    are_many = (n_points or 0) >= MANY_POINTS
    return {
        "n_bins": 16 if d <= 2 else 12 if is_linear else 8,
        "d_hidden": 32 if is_linear and not are_many else 64,
        "n_hidden": 3 if is_linear or (are_many and d >= 3) else 2,
        "repetitions": 3 if d <= 2 or is_linear else 2 if d == 3 else 1,
    }

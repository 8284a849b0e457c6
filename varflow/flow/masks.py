"""Masks: which coordinates each coupling cell transforms, and which it is conditioned on."""

import numpy as np

from varflow.validation import unknown_name

__all__ = ["MASKS", "make_masks"]


def checkerboard(d: int) -> np.ndarray:
    """Transform every other coordinate, then the rest: two cells.

    Parameters
    ----------
    d : int
        Number of dimensions.

    Returns
    -------
    ndarray of bool, shape (2, d)
        True where the cell transforms the coordinate.
    """
    odd = np.arange(d) % 2 == 1
    return np.array([odd, ~odd])


def maximal(d: int) -> np.ndarray:
    """Transform one coordinate a cell, conditioned on all the others: d cells.

    Parameters
    ----------
    d : int
        Number of dimensions.

    Returns
    -------
    ndarray of bool, shape (d, d)
        True where the cell transforms the coordinate.
    """
    return np.eye(d, dtype=bool)


def iflow(d: int) -> np.ndarray:
    """Number the coordinates in binary and give each digit two cells, one a value: 2 ceil(log2 d) cells.

    Every pair of coordinates is then told apart by some cell: the fewest cells that can learn all
    correlations (Gao, Isaacson and Krause, arXiv 2001.05486, section 2.3).

    Parameters
    ----------
    d : int
        Number of dimensions.

    Returns
    -------
    ndarray of bool, shape (2 ceil(log2 d), d)
        True where the cell transforms the coordinate.
    """
    digits = range((d - 1).bit_length())
    ones = [(np.arange(d) >> digit) & 1 == 1 for digit in reversed(digits)]
    return np.array([mask for one in ones for mask in (~one, one)])


MASKS = {"checkerboard": checkerboard, "maximal": maximal, "iflow": iflow}


def make_masks(d: int, masking: str, repetitions: int = 1) -> np.ndarray:
    """Build the masks of all cells of a flow, from target space to latent space.

    Parameters
    ----------
    d : int
        Number of dimensions. With d = 1 there is nothing to be conditioned on: one cell transforms it.
    masking : {"checkerboard", "maximal", "iflow"}
        How coordinates are shared out among the cells.
    repetitions : int
        How many times the sequence of masks is gone through.

    Returns
    -------
    ndarray of bool, shape (n_cells, d)
        True where the cell transforms the coordinate, False where it is conditioned on it.

    Raises
    ------
    ValueError
        If `masking` is none of the names.
    """
    if masking not in MASKS:
        raise unknown_name("masking", masking, MASKS)
    masks = MASKS[masking](d) if d > 1 else np.ones((1, 1), dtype=bool)
    return np.tile(masks, (repetitions, 1))

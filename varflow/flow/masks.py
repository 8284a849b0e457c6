"""Masks: which coordinates each coupling layer ("cell") transforms, and which it is conditioned on."""

import numpy as np

from varflow.validation import unknown_name

__all__ = ["MASKS", "make_masks"]


def checkerboard(d: int) -> np.ndarray:
    """Transform the odd coordinates in one cell and the even ones in a second cell.

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
    """Transform one coordinate per cell, conditioned on all the others, in d cells.

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
    """Split the coordinates by each binary digit of their index, in 2 ceil(log2 d) cells.

    Each digit has two cells, one for either value: the first transforms the coordinates that have a 0 there,
    conditioned on those that have a 1, and the second the other way round. Any two coordinates differ in some
    digit, so that each is transformed conditioned on the other somewhere and all correlations can be learned
    (Gao, Isaacson and Krause, arXiv 2001.05486, section 2.3). No smaller number of such complementary pairs
    of cells has this property.

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
        Number of dimensions. For d = 1, there is nothing to be conditioned on, and a single cell transforms
        the coordinate.
    masking : {"checkerboard", "maximal", "iflow"}
        Which coordinates each cell transforms.
    repetitions : int
        Number of times that the sequence of masks is repeated.

    Returns
    -------
    ndarray of bool, shape (n_cells, d)
        True where the cell transforms the coordinate, False where it is conditioned on it.

    Raises
    ------
    ValueError
        If `masking` is not one of these names.
    """
    if masking not in MASKS:
        raise unknown_name("masking", masking, MASKS)
    masks = MASKS[masking](d) if d > 1 else np.ones((1, 1), dtype=bool)
    return np.tile(masks, (repetitions, 1))

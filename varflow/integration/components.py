"""Structure of the value of an integrand at a point, and its conversion to and from a vector."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Components",
    "FloatArray",
    "Shape",
    "Values",
    "columns_of",
    "components_of",
    "count_rows",
    "describe_shapes",
    "shapes_of",
]

FloatArray = npt.NDArray[np.float64]
Shape = tuple[int, ...]
Values = FloatArray | dict[str, FloatArray]  # the first axis of each array runs over the points of a block


@dataclass(frozen=True)
class Components:
    """Structure of an integrand's value at a point, as parts of a vector of all m components.

    Parameters
    ----------
    keys : tuple of str, or None
        Keys of the dict that the integrand returns; None if it returns a number or an array.
    shapes : tuple of tuple of int
        Shape of the value under each key, () for a number. A single shape if there are no keys.

    Raises
    ------
    TypeError, ValueError
        If there is not one shape for each key, the shapes have a negative length or no component at all, or
        the keys are not distinct strings.
    """

    keys: tuple[str, ...] | None
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.shapes) != (1 if self.keys is None else len(self.keys)):
            raise ValueError(f"shapes must be one for each key, got {self.shapes} for {self.keys}")
        if not all(isinstance(key, str) for key in self.keys or ()):
            raise TypeError(f"keys must be strings, got {self.keys}")
        if len(set(self.keys or ())) != len(self.keys or ()):
            raise ValueError(f"keys must differ, got {self.keys}")
        if min([n for shape in self.shapes for n in shape], default=1) < 0 or self.size < 1:
            raise ValueError(f"shapes must have a component at least, got {self.shapes}")

    @property
    def size(self) -> int:
        """Number of components, m."""
        return sum(map(math.prod, self.shapes))

    @property
    def names(self) -> list[str]:
        """Key and index of each component, (m,); an empty one for a single number without a key."""
        return [
            " ".join(filter(None, [key, ",".join(map(str, index))]))
            for key, shape in zip(self.keys or ("",), self.shapes, strict=True)
            for index in np.ndindex(shape)
        ]

    def unpack(self, values: npt.NDArray[Any]) -> Any:
        """Convert a vector of all components to the form in which the integrand returns its value.

        Parameters
        ----------
        values : ndarray, (m,)
            One value for each component.

        Returns
        -------
        float, ndarray of the integrand's shape, or dict of these
            Copies of the values. From an array of objects, these are objects instead of floats.
        """
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = [
            part.reshape(shape).copy() if shape else part.item()
            for part, shape in zip(np.split(values, ends[:-1]), self.shapes, strict=True)
        ]
        return parts[0] if self.keys is None else dict(zip(self.keys, parts, strict=True))

    def pack(self, values: Any) -> FloatArray:
        """Convert what `unpack` has made back to the vector of all components, (m,)."""
        parts = values.values() if isinstance(values, dict) else [values]
        return np.concatenate([*map(np.ravel, parts)])


def count_rows(result: Values) -> int:
    """Count the points that a result belongs to."""
    return len(next(iter(result.values())) if isinstance(result, dict) else result)


def shapes_of(result: Values) -> Shape | dict[str, Shape]:
    """Return the shape of f at one point."""
    if isinstance(result, dict):
        return {key: part.shape[1:] for key, part in result.items()}
    return result.shape[1:]


def components_of(shapes: Shape | dict[str, Shape]) -> Components:
    """Make the components from the shape of f at one point."""
    if isinstance(shapes, dict):
        return Components(tuple(shapes), tuple(shapes.values()))
    return Components(None, (shapes,))


def describe_shapes(shapes: Shape | dict[str, Shape]) -> str:
    """Describe the shape of what f returns, for messages."""
    return f"a dict of shapes {shapes}" if isinstance(shapes, dict) else f"shape {shapes}"


def columns_of(result: Values, keys: tuple[str, ...] | None) -> FloatArray:
    """Join all values at a point into one row, (n, m)."""
    if not isinstance(result, dict):
        return result.reshape(len(result), -1)
    return np.concatenate([result[key].reshape(len(result[key]), -1) for key in keys or ()], axis=1)

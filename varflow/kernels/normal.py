"""Quantiles of the standard normal distribution where SciPy is not: on a GPU.

Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37 (1988)
477, routine PPND16, with some 16 digits. Exported flows have the same formulas.
"""

import math

__all__ = ["quantile"]

NEAR, FAR = 0.425, 5.0


def quantile(u):
    """Return the number that a standard normal one is below with probability u, between 0 and 1."""
    offset = u - 0.5
    if abs(offset) <= NEAR:
        r = NEAR * NEAR - offset * offset
        top = (
            ((((((2509.0809287301227 * r + 33430.57558358813) * r + 67265.7709270087) * r
            + 45921.95393154987) * r
            + 13731.69376550946) * r + 1971.5909503065513) * r + 133.14166789178438) * r + 3.3871328727963665
        )  # fmt: skip
        bottom = (
            ((((((5226.495278852854 * r + 28729.085735721943) * r + 39307.89580009271) * r
            + 21213.794301586597) * r
            + 5394.196021424751) * r + 687.1870074920579) * r + 42.31333070160091) * r + 1.0
        )  # fmt: skip
        return offset * top / bottom
    root = math.sqrt(-math.log(min(u, 1.0 - u)))
    if root <= FAR:
        r = root - 1.6
        top = (
            ((((((0.0007745450142783414 * r + 0.022723844989269184) * r + 0.2417807251774506) * r
            + 1.2704582524523684) * r
            + 3.6478483247632045) * r + 5.769497221460691) * r + 4.630337846156546) * r + 1.4234371107496835
        )  # fmt: skip
        bottom = (
            ((((((1.0507500716444169e-09 * r + 0.0005475938084995345) * r + 0.015198666563616457) * r
            + 0.14810397642748008) * r
            + 0.6897673349851) * r + 1.6763848301838038) * r + 2.053191626637759) * r + 1.0
        )  # fmt: skip
    else:
        r = root - FAR
        top = (
            ((((((2.0103343992922881e-07 * r + 2.7115555687434876e-05) * r + 0.0012426609473880784) * r
            + 0.026532189526576124) * r
            + 0.29656057182850487) * r + 1.7848265399172913) * r + 5.463784911164114) * r + 6.657904643501103
        )  # fmt: skip
        bottom = (
            ((((((2.0442631033899397e-15 * r + 1.421511758316446e-07) * r + 1.8463183175100548e-05) * r
            + 0.0007868691311456133) * r
            + 0.014875361290850615) * r + 0.1369298809227358) * r + 0.599832206555888) * r + 1.0
        )  # fmt: skip
    return top / bottom if offset > 0.0 else -top / bottom

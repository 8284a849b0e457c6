"""The parts of a training step, each repeated for one tile, to find out what takes how long.

They are called as `varflow.kernels.cpu.gradient` calls them, with the buffers that it has left behind. What
changes with repetition are numbers alone, and no part takes longer for others.
"""

from varflow.kernels.compile import device_function, kernel
from varflow.kernels.cpu import (
    activate,
    add_biases_backward,
    add_log,
    add_log_slopes,
    gather,
    gather_derivatives,
    predict,
    predict_backward,
    scatter,
    scatter_derivatives,
    slope_of,
    spline_backward,
    spline_forward,
    values_of,
)
from varflow.kernels.lanes import LANES, numbers, store
from varflow.kernels.splines import (
    PWQUAD,
    RQS,
    pwquad_locate,
    pwquad_sums,
    rqs_factors,
    rqs_locate,
)

__all__ = ["PARTS", "repeat_part"]

PARTS = (
    "products",
    "exponentials",
    "bins and search",
    "spline arithmetic",
    "log-determinant",
    "gather and scatter",
    "biases",
)
PRODUCTS, EXPONENTIALS, SEARCH, SPLINES, LOG_DET, COPIES, BIASES = range(len(PARTS))


@device_function
def located(cell, values, i, x):
    """Return the sum of all that a cell's search finds, so that none of it is left out.

    Bins of equal width need no search.
    """
    if cell == PWQUAD:
        factor, area, heights = pwquad_sums(values, i, x)
        k, left, width, low, high, below, heights_below = pwquad_locate(values, i, x, factor, area, False)
        return heights + k + left + width + low + high + below + heights_below
    if cell == RQS:
        factor, height_factor = rqs_factors(values, i, x)
        k, left, bottom, width, height, first, last = rqs_locate(values, i, x, factor, height_factor, False)
        return k + left + bottom + width + height + first + last
    return x


@device_function
def search(c, layout, work):
    """Locate the bins of cell c, and leave what was found in z of `work`."""
    m = slope_of(c, layout, work).shape[0]
    values, x, found = (
        values_of(c, work.values[c], layout, work.log_det.shape[0]),
        work.x[:m],
        work.z[c, :m],
    )
    for i in range(0, m, LANES):
        store(found, i, located(layout.cell, values, i, numbers(x, i)))


@device_function
def log_det(layout, work):
    """Add up the log slopes of all cells."""
    n_pending = 0
    for c in range(layout.n_inputs.shape[0]):
        n_pending = add_log_slopes(work, slope_of(c, layout, work), n_pending)
    add_log(work.log_det, work.slopes)


@device_function
def copies(c, layout, work):
    """Copy coordinates, and their derivatives, to where cell c has them, and back."""
    gather(c, layout, work)
    scatter(work.coordinates, work.z[c], layout.split[c, layout.n_inputs[c] :])
    gather_derivatives(c, layout, work)
    scatter_derivatives(c, layout, work)


@kernel
def repeat_part(part, times, dparams, params, layout, work):
    """Do a part of the gradient of a tile so many times; spline arithmetic comes with its search.

    dparams: (n_params,), added to. Values of `work` are overwritten.
    """
    for _ in range(times):
        if part == LOG_DET:
            log_det(layout, work)
            continue
        for c in range(layout.n_inputs.shape[0]):
            if part == PRODUCTS:
                predict(c, params, layout, work)
                predict_backward(c, dparams, False, params, layout, work)
            elif part == EXPONENTIALS:
                activate(c, params, layout, work)
            elif part == SEARCH:
                search(c, layout, work)
            elif part == SPLINES:
                spline_forward(c, layout, work)
                spline_backward(c, layout, work)
            elif part == COPIES:
                copies(c, layout, work)
            elif part == BIASES:
                add_biases_backward(c, dparams, False, layout, work)

"""The sum of the gradients of all lanes, and Adam's update of the parameters."""

import numpy as np

from varflow.kernels.compile import device_function, kernel
from varflow.kernels.counter import take
from varflow.kernels.lanes import LANES, load, numbers, store, total, vector


@kernel
def fold_lanes(dparams, begin, end):
    """Add the gradients of all lanes to the first, in order, for parameters [begin, end).

    dparams: (n_lanes, n_params), of which the first row is added to. Returns the sum of squares of the total,
    in float64: as one vector, since each sum would wait for the one before.
    """
    n_lanes, first = dparams.shape[0], dparams[0]
    whole = begin + (end - begin) // LANES * LANES
    squares = vector(np.float64(0.0))
    for i in range(begin, whole, LANES):
        value = numbers(first, i)
        for lane in range(1, n_lanes):
            value = value + numbers(dparams[lane], i)
        store(first, i, value)
        wide = load(first, i, squares)
        squares = squares + wide * wide
    result = total(squares)
    for i in range(whole, end):
        for lane in range(1, n_lanes):
            first[i] += dparams[lane, i]
        result += np.float64(first[i]) ** 2
    return result


@device_function
def update_moments(m, v, dparams, beta1, new1, beta2, new2, scale):
    """Update the first and second moments of the gradient.

    m, v: (n,), updated. dparams: (n,). new1, new2: 1 - beta1, 1 - beta2. scale: factor of the gradient.
    """
    zero = m.dtype.type(0.0)
    # Moments of parameters without a gradient decay, and would be slow once they are denormal.
    tiny = m.dtype.type(1e-30)
    for i in range(m.shape[0]):
        g = scale * dparams[i]
        mean = beta1 * m[i] + new1 * g
        square = beta2 * v[i] + new2 * g * g
        m[i] = mean if abs(mean) > tiny else zero
        v[i] = square if square > tiny else zero


@device_function
def update_params(params, m, v, step_size, epsilon, decay):
    """Take one step along the moments. params: (n,), updated. m, v: (n,)."""
    for i in range(params.shape[0]):
        params[i] -= step_size * m[i] / (np.sqrt(v[i]) + epsilon) + decay * params[i]


@kernel
def adam_step(params, m, v, dparams, next_slice, slice_size, step_size, beta1, beta2, epsilon, decay, scale):
    """Update slices of the parameters, as long as any are left, by Adam.

    The update is that of Kingma and Ba, arXiv 1412.6980, algorithm 1. Once begun, a step is completed: there
    is no Python code in between that Ctrl-C could interrupt.

    params, m, v: (n_params,), updated. dparams: (n_params,). next_slice: (1,), counter shared by all threads.
    slice_size: parameters per slice. step_size: learning rate, including the bias corrections of both
    moments. epsilon: added to sqrt(v), where v has no bias correction. decay: fraction by which the
    parameters shrink (decoupled weight decay, arXiv 1711.05101). scale: factor of the gradient, less than 1
    if it is clipped.
    """
    real = params.dtype.type
    new1, new2 = real(1.0 - beta1), real(1.0 - beta2)  # subtracted before rounding: beta may be 0.999999
    while True:
        begin = take(next_slice) * slice_size
        if begin >= params.shape[0]:
            return
        end = min(begin + slice_size, params.shape[0])
        mean, square = m[begin:end], v[begin:end]
        update_moments(mean, square, dparams[begin:end], real(beta1), new1, real(beta2), new2, real(scale))
        update_params(params[begin:end], mean, square, real(step_size), real(epsilon), real(decay))

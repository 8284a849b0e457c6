"""What a step does to the parameters once all lanes have their gradients."""

import numpy as np

from varflow.kernels.compile import device_function, kernel
from varflow.kernels.counter import take


@device_function
def add(total, part):
    """total: (n,), added to. part: (n,)."""
    for i in range(total.shape[0]):
        total[i] += part[i]


@kernel
def fold_lanes(dparams, begin, end):
    """Add all lanes to the first, in their order, for parameters [begin, end). Returns the sum of squares.

    dparams: (n_lanes, n_params).
    """
    total = dparams[0, begin:end]
    for lane in range(1, dparams.shape[0]):
        add(total, dparams[lane, begin:end])
    squares = 0.0
    for i in range(total.shape[0]):
        squares += np.float64(total[i]) ** 2
    return squares


@device_function
def update_moments(m, v, dparams, beta1, new1, beta2, new2, scale):
    """First and second moment of the gradient. m, v: (n,), updated. dparams: (n,). new: 1 - beta."""
    zero = m.dtype.type(0.0)
    tiny = m.dtype.type(
        1e-30
    )  # moments of parameters without gradient die out; as denormals they would be slow
    for i in range(m.shape[0]):
        g = scale * dparams[i]
        mean = beta1 * m[i] + new1 * g
        square = beta2 * v[i] + new2 * g * g
        m[i] = mean if abs(mean) > tiny else zero
        v[i] = square if square > tiny else zero


@device_function
def update_params(params, m, v, step_size, epsilon, decay):
    """One step along the moments. params: (n,), updated. m, v: (n,)."""
    for i in range(params.shape[0]):
        params[i] -= step_size * m[i] / (np.sqrt(v[i]) + epsilon) + decay * params[i]


@kernel
def adam_step(params, m, v, dparams, next_slice, slice_size, step_size, beta1, beta2, epsilon, decay, scale):
    """Adam's update (Kingma and Ba, arXiv 1412.6980, algorithm 1), slice by slice, as long as there are any.

    So whoever begins a step ends it: there is no Python in between, which Ctrl-C could interrupt.

    params, m, v: (n_params,), updated. dparams: (n_params,). next_slice: (1,). slice_size: parameters of a
    slice. step_size: learning rate, with the corrections of both moments. epsilon: in units of sqrt(v), v not
    corrected. decay: share by which parameters shrink (arXiv 1711.05101). scale: factor of the gradient,
    below 1 where it is clipped.
    """
    real = params.dtype.type
    new1, new2 = real(1.0 - beta1), real(1.0 - beta2)  # formed before they are rounded: beta may be 0.999999
    while True:
        begin = take(next_slice) * slice_size
        if begin >= params.shape[0]:
            return
        end = min(begin + slice_size, params.shape[0])
        mean, square = m[begin:end], v[begin:end]
        update_moments(mean, square, dparams[begin:end], real(beta1), new1, real(beta2), new2, real(scale))
        update_params(params[begin:end], mean, square, real(step_size), real(epsilon), real(decay))

"""The dense networks of the cells: hidden layers with leaky ReLU, and an output layer.

Hidden activations are (T, H), logits and what comes in are (..., T), for a tile of T rows. Weights are
(n_in, n_out), but those of the output layer (n_out, n_in). So, with one transposed copy of the weights a step
and one transposition of activations a tile, each product has its operands as it wants them.
"""

from varflow.kernels.compile import device_function, inlined
from varflow.kernels.product import product, transpose

NEGATIVE_SLOPE = 0.01  # of the leaky ReLU


@inlined
def layer_weights(params, layer):
    """Weights (n_in, n_out) and biases (n_out,) of a hidden layer: views of the flat parameters."""
    n_in, n_out, weights, biases = layer[0], layer[1], layer[2], layer[3]
    return params[weights : weights + n_in * n_out].reshape(n_in, n_out), params[biases : biases + n_out]


@inlined
def transposed_weights(params, layer):
    """Weights (n_out, n_in), where they are kept in that order."""
    n_in, n_out, weights = layer[0], layer[1], layer[2]
    return params[weights : weights + n_in * n_out].reshape(n_out, n_in)


@device_function
def transpose_weights(transposed, params, layout):
    """Copy the weights between hidden layers, transposed, to the places where they stand in params."""
    for c in range(layout.layers.shape[0]):
        for k in range(1, layout.layers.shape[1] - 1):
            layer = layout.layers[c, k]
            weights, _ = layer_weights(params, layer)
            transpose(transposed_weights(transposed, layer), weights)


@device_function
def activation_forward(hidden):
    """Leaky ReLU. hidden: (T, H), set to the activations."""
    slope = hidden.dtype.type(NEGATIVE_SLOPE)
    for r in range(hidden.shape[0]):
        for i in range(hidden.shape[1]):
            hidden[r, i] = max(hidden[r, i], slope * hidden[r, i])


@device_function
def activation_backward(dhidden, dbiases, hidden):
    """dhidden: (T, H), in the activations on entry, set to that before them. dbiases: (H,), added to."""
    slope = hidden.dtype.type(NEGATIVE_SLOPE)
    one = hidden.dtype.type(1.0)
    for r in range(hidden.shape[0]):
        for i in range(hidden.shape[1]):
            dhidden[r, i] *= one if hidden[r, i] > 0 else slope
            dbiases[i] += dhidden[r, i]


@device_function
def network_forward(hidden, logits, inputs, params, layers, scratch, zeros):
    """Logits of a cell, still without biases, from the coordinates that it is conditioned on.

    hidden: (n_hidden, T, H), set. logits: (n_out, T), set. inputs: (n_in, T). layers: (n_layers, 4).
    scratch: at least H * T. zeros: at least T of them.
    """
    n_hidden, n_rows, d_hidden = hidden.shape
    for k in range(n_hidden):
        weights, biases = layer_weights(params, layers[k])
        if k == 0:
            product(hidden[k], biases, inputs.T, weights)
        else:
            product(hidden[k], biases, hidden[k - 1], weights)
        activation_forward(hidden[k])
    last = scratch[: d_hidden * n_rows].reshape(d_hidden, n_rows)
    transpose(last, hidden[n_hidden - 1])
    product(logits, zeros, transposed_weights(params, layers[n_hidden]), last)


@device_function
def network_backward(
    dinputs, dparams, dlogits, inputs, hidden, params, transposed, layers, scratch, zeros, wants_dinputs
):
    """Derivatives through `network_forward`.

    dinputs: (n_in, T), set if wanted. dparams: (n_params,), added to. dlogits: (n_out, T). inputs, hidden: as
    `network_forward` left them. transposed: (n_params,), from `transpose_weights`. scratch: (2, at least
    T * H). zeros: at least H and T of them.
    """
    n_hidden, n_rows, d_hidden = hidden.shape
    dweights = transposed_weights(dparams, layers[n_hidden])
    product(dweights, dweights, dlogits, hidden[n_hidden - 1])
    doutputs = scratch[0, : n_rows * d_hidden].reshape(n_rows, d_hidden)
    product(doutputs, zeros, dlogits.T, transposed_weights(params, layers[n_hidden]))
    for k in range(n_hidden - 1, -1, -1):
        dweights, dbiases = layer_weights(dparams, layers[k])
        activation_backward(doutputs, dbiases, hidden[k])
        other = scratch[(n_hidden - k) % 2, : n_rows * d_hidden]
        if k > 0:
            product(dweights, dweights, hidden[k - 1].T, doutputs)
            dsource = other.reshape(n_rows, d_hidden)
            product(dsource, zeros, doutputs, transposed_weights(transposed, layers[k]))
            doutputs = dsource
        else:
            product(dweights, dweights, inputs, doutputs)
            if wants_dinputs:
                last = other.reshape(d_hidden, n_rows)
                transpose(last, doutputs)
                product(dinputs, zeros, layer_weights(params, layers[0])[0], last)

"""The dense networks of the cells: hidden layers with leaky ReLU, and an output layer.

For a tile of T rows (see `varflow.kernels.cpu`), hidden activations are (T, H); inputs and logits are
(..., T). Weights are (n_in, n_out), except for those of the output layer, which are (n_out, n_in). With this
choice, all products find their operands in the order that they need. It takes one transposed copy of the
weights between hidden layers, made at the beginning of each call of the gradient kernel, and at most one
transposition per tile in each pass through a network, of activations or of their derivatives.
"""

from varflow.kernels.compile import device_function, inlined
from varflow.kernels.product import gated_product, product, transpose

NEGATIVE_SLOPE = 0.01  # slope of the leaky ReLU below zero


@inlined
def layer_weights(params, layer):
    """Return the weights (n_in, n_out) and biases (n_out,) of a hidden layer, as views of the parameters."""
    n_in, n_out, weights, biases = layer[0], layer[1], layer[2], layer[3]
    return params[weights : weights + n_in * n_out].reshape(n_in, n_out), params[biases : biases + n_out]


@inlined
def transposed_weights(params, layer):
    """Return the weights (n_out, n_in) of a layer that is stored in that order, as a view."""
    n_in, n_out, weights = layer[0], layer[1], layer[2]
    return params[weights : weights + n_in * n_out].reshape(n_out, n_in)


@device_function
def transpose_weights(transposed, params, layout):
    """Copy the transposed weights between hidden layers to `transposed`, at their offsets in `params`."""
    for c in range(layout.layers.shape[0]):
        for k in range(1, layout.layers.shape[1] - 1):
            layer = layout.layers[c, k]
            weights, _ = layer_weights(params, layer)
            transpose(transposed_weights(transposed, layer), weights)


@inlined
def add_product(total, a, b, zeros, is_first):
    """Add A B to total, or set total to it if it is the first; see `product`. zeros: at least m of them."""
    if is_first:
        product(total, zeros, a, b)
    else:
        product(total, total, a, b)


@device_function
def network_forward(hidden, logits, inputs, params, layers, scratch, zeros):
    """Compute the logits of a cell, without the output biases, from the coordinates it is conditioned on.

    hidden: (n_hidden, T, H), set. logits: (n_out, T), set. inputs: (n_in, T). layers: (n_layers, 4).
    scratch: at least H * T. zeros: at least T of them.
    """
    n_hidden, n_rows, d_hidden = hidden.shape
    slope = hidden.dtype.type(NEGATIVE_SLOPE)
    for k in range(n_hidden):
        weights, biases = layer_weights(params, layers[k])
        if k == 0:
            gated_product(hidden[k], biases, inputs.T, weights, hidden[k], slope)
        else:
            gated_product(hidden[k], biases, hidden[k - 1], weights, hidden[k], slope)
    last = scratch[: d_hidden * n_rows].reshape(d_hidden, n_rows)
    transpose(last, hidden[n_hidden - 1])
    product(logits, zeros, transposed_weights(params, layers[n_hidden]), last)


@device_function
def network_backward(
    dinputs, dparams, is_first, dlogits, inputs, hidden, params, transposed, layers, scratch, zeros, ones,
    wants_dinputs,
):  # fmt: skip
    """Backpropagate through `network_forward`.

    dinputs: (n_in, T), set if wants_dinputs. dparams: (n_params,), added to, or set if is_first. dlogits:
    (n_out, T). inputs, hidden: as left by `network_forward`. transposed: (n_params,), from
    `transpose_weights`. scratch: (2, at least T * H). zeros: at least max(H, T) of them. ones: at least T of
    them.
    """
    n_hidden, n_rows, d_hidden = hidden.shape
    slope = hidden.dtype.type(NEGATIVE_SLOPE)
    dweights = transposed_weights(dparams, layers[n_hidden])
    add_product(dweights, dlogits, hidden[n_hidden - 1], zeros, is_first)
    doutputs = scratch[0, : n_rows * d_hidden].reshape(n_rows, d_hidden)
    weights = transposed_weights(params, layers[n_hidden])
    gated_product(doutputs, zeros, dlogits.T, weights, hidden[n_hidden - 1], slope)
    for k in range(n_hidden - 1, -1, -1):
        dweights, dbiases = layer_weights(dparams, layers[k])
        row_of_ones = ones[:n_rows].reshape(1, n_rows)
        add_product(dbiases.reshape(1, d_hidden), row_of_ones, doutputs, zeros, is_first)
        other = scratch[(n_hidden - k) % 2, : n_rows * d_hidden]
        if k > 0:
            add_product(dweights, hidden[k - 1].T, doutputs, zeros, is_first)
            dsource = other.reshape(n_rows, d_hidden)
            weights = transposed_weights(transposed, layers[k])
            gated_product(dsource, zeros, doutputs, weights, hidden[k - 1], slope)
            doutputs = dsource
        else:
            add_product(dweights, inputs, doutputs, zeros, is_first)
            if wants_dinputs:
                last = other.reshape(d_hidden, n_rows)
                transpose(last, doutputs)
                product(dinputs, zeros, layer_weights(params, layers[0])[0], last)

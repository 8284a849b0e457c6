"""Draw the picture of the README: the example's f, what a trained flow samples, and the weights of both.

usage: python examples/plot.py flow.npz examples/dalitz.csv dalitz.png      (needs the extra `plot`)
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import varflow as vf

BINS = 60


def main(flow_path: str, data_path: str, picture_path: str) -> None:
    """Read the flow and the data, draw three panels, write the picture."""
    flow, data = vf.Flow.load(flow_path), vf.Dataset.read(data_path)
    x, _ = flow.sample(200_000, seed=1)
    figure, (target, sample, weights) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    plane = {"bins": BINS, "range": [[0, 1], [0, 1]], "density": True, "cmap": "magma", "vmin": 0, "vmax": 8}
    target.hist2d(data.x[:, 0], data.x[:, 1], weights=data.fx / data.px, **plane)
    target.set(title=f"{data.n:,} weighted points: f", xlabel="$x_1$", ylabel="$x_2$")
    _, _, _, image = sample.hist2d(x[:, 0], x[:, 1], **plane)
    sample.set(title="drawn from the flow: q", xlabel="$x_1$", ylabel="$x_2$")
    figure.colorbar(image, ax=sample, label="density")
    draw_weights(weights, flow, data)
    figure.savefig(picture_path, dpi=100)


def draw_weights(axes: "matplotlib.axes.Axes", flow: vf.Flow, data: vf.Dataset) -> None:
    """Histogram of f/p for points from p, and of f/q for points from q, each over its mean."""
    before = data.fx / data.px / np.exp(data.log_integral)
    after = before / np.exp(flow.log_prob(data.x) - data.logpx)
    bins = np.geomspace(1e-3, 100, BINS)
    axes.hist(before, bins, weights=np.full(data.n, 1 / data.n), alpha=0.6, label="f/p, x from p")
    axes.hist(after, bins, weights=before / after / data.n, alpha=0.6, label="f/q, x from q")
    axes.set(
        title="importance weights", xlabel="weight over its mean", xscale="log", ylabel="share of the points"
    )
    axes.legend()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

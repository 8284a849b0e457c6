"""What a training did, step by step."""

from typing import TYPE_CHECKING

import numpy as np

from varflow.plots.picture import AFTER, BEFORE, NEUTRAL, panels, whole_numbers
from varflow.training.record import TrainingRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_record"]

SMOOTHED = 50  # points of a curve of means
FAINT = 0.3


def draw_record(record: TrainingRecord) -> "Figure":
    """Draw the panels of `TrainingRecord.plot`."""
    if record.step == 0:
        raise ValueError("the record has no step yet: train first")
    figure, (losses, rates, lengths) = panels(1, 3)
    _draw_losses(losses, record)
    _draw_steps(rates, np.array(record.learning_rates), "learning rate", "learning rate")
    _draw_steps(
        lengths, np.array(record.gradient_lengths), "length of the gradient", "length, in units of the loss"
    )
    for axes in (losses, rates, lengths):
        for k, step in enumerate(record.reloads):
            label = "return to the last good state" if axes is losses and k == 0 else None
            axes.axvline(step, color=NEUTRAL, linestyle="--", linewidth=1, label=label)
        axes.set(xlabel="step")
        axes.xaxis.set_major_locator(whole_numbers())
    losses.legend(fontsize="small")
    return figure


def _draw_losses(axes: "Axes", record: TrainingRecord) -> None:
    """Losses of steps, faint, their means, and the losses after epochs."""
    losses = np.array(record.losses)
    axes.plot(np.arange(record.step), losses, color=BEFORE, alpha=FAINT, linewidth=0.5)
    axes.plot(*_means(losses), color=BEFORE, label="steps, on their minibatches")
    label = "after epochs, on held-out points"
    axes.plot(record.epoch_ends, record.epoch_losses, "o-", markersize=3, color=AFTER, label=label)
    axes.set(title="loss", ylabel="loss, for f of mean 1")
    axes.set_ylim(*_limits(np.r_[_means(losses)[1], record.epoch_losses]))


def _draw_steps(axes: "Axes", values: np.ndarray, title: str, label: str) -> None:
    """Values of steps, on a logarithmic axis, and their means where they scatter."""
    axes.plot(np.arange(len(values)), values, color=BEFORE, alpha=FAINT, linewidth=0.5)
    axes.plot(*_means(values), color=BEFORE)
    axes.set(title=title, ylabel=label, yscale="log")


def _means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute means of consecutive steps, and the steps in their middle."""
    parts = np.array_split(np.arange(len(values)), min(SMOOTHED, len(values)))
    return np.array([part.mean() for part in parts]), np.array([values[part].mean() for part in parts])


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Limit an axis to finite values, with a margin."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin

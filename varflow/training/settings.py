"""Settings of trainers, each checked in one place."""

import math
import os
from numbers import Integral, Real
from typing import Any

from varflow.data.dataset import minibatch_rows
from varflow.training.trainers import check_optim
from varflow.validation import positive_int

__all__ = ["check_setting"]

MOST_ROWS = 2**62  # no dataset has more


def check_setting(name: str, value: Any) -> None:
    """Check one setting of a stateful trainer: raise TypeError or ValueError where it is none such."""
    if name == "optim":
        check_optim(value)
    if name == "n_epochs" or (name == "patience" and value is not None):
        positive_int(name, value)
    if name == "minibatch_size":
        minibatch_rows(value, MOST_ROWS)
    if name == "holdout" and not (isinstance(value, Real) and 0 <= float(value) < 1):
        raise ValueError(f"holdout must be in [0, 1), got {value!r}")
    if name in ("max_reloads", "seed") and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if name == "checkpoint" and not isinstance(value, str | os.PathLike | None):
        raise TypeError(f"checkpoint must be a path or None, got {value!r}")
    if name == "resume" and not isinstance(value, bool):
        raise TypeError(f"resume must be True or False, got {value!r}")
    if name == "checkpoint_seconds" and not (isinstance(value, Real) and 0 <= float(value) < math.inf):
        raise ValueError(f"checkpoint_seconds must be at least 0 and finite, got {value!r}")
    if name in ("max_reloads", "seed") and not 0 <= int(value) < 2**64:
        raise ValueError(f"{name} must be at least 0 and below 2^64, got {value!r}")

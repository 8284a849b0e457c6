"""Neural importance sampling with NumPy and Numba.

From weighted points (x, p(x), f(x)), x drawn from a known density p, varflow trains an invertible flow whose
density q makes importance sampling of f from q have the least variance.
"""

from varflow._version import __version__
from varflow.adam import Adam
from varflow.architecture import Architecture
from varflow.checkpoint import request_stop, stop_by_signals
from varflow.dataset import Dataset
from varflow.device_integrand import device_integrand
from varflow.domain import Domain
from varflow.errors import (
    BackendError,
    FileFormatError,
    InvalidLossError,
    NoCheckpoint,
    Preempted,
    TrainingInterruption,
)
from varflow.evaluation import Evaluation, evaluate
from varflow.flow import Flow
from varflow.integrand import Integrand, InvalidIntegrandError
from varflow.integrator import Integrator, integrate
from varflow.losses import Loss, weighted_dkl_loss, weighted_variance_loss
from varflow.record import TrainingRecord
from varflow.result import Iteration, Result
from varflow.stateful_trainers import (
    BasicStatefulDKLTrainer,
    BasicStatefulTrainer,
    BasicStatefulVarTrainer,
    StatefulTrainer,
)
from varflow.trainers import BasicDKLTrainer, BasicTrainer, BasicVarTrainer

__all__ = [
    "Adam",
    "Architecture",
    "BackendError",
    "BasicDKLTrainer",
    "BasicStatefulDKLTrainer",
    "BasicStatefulTrainer",
    "BasicStatefulVarTrainer",
    "BasicTrainer",
    "BasicVarTrainer",
    "Dataset",
    "Domain",
    "Evaluation",
    "FileFormatError",
    "Flow",
    "Integrand",
    "Integrator",
    "InvalidIntegrandError",
    "InvalidLossError",
    "Iteration",
    "Loss",
    "NoCheckpoint",
    "Preempted",
    "Result",
    "StatefulTrainer",
    "TrainingInterruption",
    "TrainingRecord",
    "__version__",
    "device_integrand",
    "evaluate",
    "integrate",
    "request_stop",
    "stop_by_signals",
    "weighted_dkl_loss",
    "weighted_variance_loss",
]

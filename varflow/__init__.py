"""Neural importance sampling with NumPy and Numba.

From weighted points (x, p(x), f(x)), x drawn from a known density p, varflow trains an invertible flow whose
density q makes importance sampling of f from q have the least variance.
"""

from varflow import plots as plots
from varflow._version import __version__
from varflow.compiled.integrand import CompiledIntegrand
from varflow.data.dataset import Dataset
from varflow.errors import (
    BackendError,
    CompiledIntegrandError,
    FileFormatError,
    InvalidIntegrandError,
    InvalidLossError,
    NoCheckpoint,
    Preempted,
    RankError,
    TrainingInterruption,
    WorkerDiedError,
)
from varflow.exporting.export import export
from varflow.flow.architecture import Architecture
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture, load_flow
from varflow.integration.device_integrand import device_integrand
from varflow.integration.domain import Domain
from varflow.integration.integrand import Integrand
from varflow.integration.integrator import Integrator, integrate
from varflow.integration.iteration import Iteration
from varflow.integration.result import Result
from varflow.integration.run import Run
from varflow.runtime.signals import request_stop, stop_by_signals
from varflow.training.adam import Adam
from varflow.training.evaluation import Evaluation, evaluate
from varflow.training.learning_curve import LearningCurve, learning_curve
from varflow.training.losses import Loss, weighted_dkl_loss, weighted_variance_loss
from varflow.training.record import TrainingRecord
from varflow.training.stateful_trainers import (
    BasicStatefulDKLTrainer,
    BasicStatefulTrainer,
    BasicStatefulVarTrainer,
    StatefulTrainer,
)
from varflow.training.train import Training, train
from varflow.training.trainers import BasicDKLTrainer, BasicTrainer, BasicVarTrainer
from varflow.training.worst_points import WorstPoints, worst_points

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
    "CompiledIntegrand",
    "CompiledIntegrandError",
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
    "LearningCurve",
    "Loss",
    "Mixture",
    "NoCheckpoint",
    "Preempted",
    "RankError",
    "Result",
    "Run",
    "StatefulTrainer",
    "Training",
    "TrainingInterruption",
    "TrainingRecord",
    "WorkerDiedError",
    "WorstPoints",
    "__version__",
    "device_integrand",
    "evaluate",
    "export",
    "integrate",
    "learning_curve",
    "load_flow",
    "request_stop",
    "stop_by_signals",
    "train",
    "weighted_dkl_loss",
    "weighted_variance_loss",
    "worst_points",
]

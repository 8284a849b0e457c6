"""Neural importance sampling with NumPy and Numba.

From weighted points (x, p(x), f(x)), x drawn from a known density p, varflow trains an invertible flow whose
density q makes importance sampling of f from q have the least variance.

`train` goes from a `Dataset` of points to a flow and its figures, `integrate` from a function to its
integral; `load_flow` reads what was saved. `varflow.plots` draws pictures, `varflow.testing` helps to test
code that uses varflow. In the examples, ``np`` is NumPy and ``vf`` is varflow:

>>> import numpy as np
>>> import varflow as vf

Arrays are float64 unless something else is said; n is a number of points, d of dimensions, m of components of
f. Densities are in 1 / volume, in the units of x; training does not depend on the units of f.
"""

from varflow import plots as plots
from varflow._version import __version__
from varflow.compiled.integrand import CompiledIntegrand
from varflow.data.dataset import Dataset
from varflow.data.discrete import Discrete
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
from varflow.flow.discrete_flow import DiscreteFlow
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture, load_flow
from varflow.integration.channel import Channel
from varflow.integration.channel_table import ChannelEstimate
from varflow.integration.device_integrand import device_integrand
from varflow.integration.domain import Domain
from varflow.integration.events import Events, generate, unweight
from varflow.integration.family import integrate_family
from varflow.integration.family_result import FamilyResult
from varflow.integration.integrand import Integrand
from varflow.integration.integrator import Integrator, integrate
from varflow.integration.iteration import Iteration
from varflow.integration.result import Result
from varflow.integration.run import Run
from varflow.integration.unweighting import UnweightingFigures
from varflow.reporting.report import report
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
    "Channel",
    "ChannelEstimate",
    "CompiledIntegrand",
    "CompiledIntegrandError",
    "Dataset",
    "Discrete",
    "DiscreteFlow",
    "Domain",
    "Evaluation",
    "Events",
    "FamilyResult",
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
    "UnweightingFigures",
    "WorkerDiedError",
    "WorstPoints",
    "__version__",
    "device_integrand",
    "evaluate",
    "export",
    "generate",
    "integrate",
    "integrate_family",
    "learning_curve",
    "load_flow",
    "report",
    "request_stop",
    "stop_by_signals",
    "train",
    "unweight",
    "weighted_dkl_loss",
    "weighted_variance_loss",
    "worst_points",
]

"""Choice of the implementation of training steps, by the flow's backend."""

from varflow.flow.discrete_flow import DiscreteFlow
from varflow.flow.flow import Flow
from varflow.runtime.backend import load_gpu
from varflow.runtime.communicator import ALONE, Communicator
from varflow.training.cpu_steps import CpuSteps
from varflow.training.discrete_steps import DiscreteSteps
from varflow.training.steps import Steps

__all__ = ["make_steps"]


def make_steps(flow: Flow, n_batch: int, comm: Communicator = ALONE) -> Steps:
    """Make the object that takes training steps on a flow's backend, with at most n_batch rows each.

    The ranks of `comm` take the same steps, and may share them on a CPU.
    """
    if isinstance(flow, DiscreteFlow):
        return DiscreteSteps(flow, n_batch, comm)
    if flow.backend == "cpu":
        return CpuSteps(flow, n_batch, comm)
    load_gpu()  # raises if something is missing
    from varflow.training.device_steps import DeviceSteps  # numba.cuda takes long to import

    return DeviceSteps(flow, n_batch)

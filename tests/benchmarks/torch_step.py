"""The training step of ZüNIS in plain PyTorch, eager or as one CUDA graph.

    python tests/benchmarks/torch_step.py --d 4 --batch 1000 --d-hidden 64 --n-hidden 3 --n-bins 10
        --masking checkerboard --mode eager|graph --device cuda|cpu --seconds 2

It prints one line of JSON. The step is a coupling flow with piecewise-linear cells (Müller et al., arXiv
1808.03856, section 4.1) and dense networks, the variance loss on a fixed minibatch, and Adam, written from
the formulas: it needs neither ZüNIS nor varflow. There are as many parameters as in varflow's
`Flow(d, "pwlinear", ...)` of the same sizes, all hidden layers being counted. Everything is float32 and, as
PyTorch has it by default, without TF32.
"""

import argparse
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from time import perf_counter

import torch

Step = Callable[[], torch.Tensor]  # returns the loss

MASKINGS = ("checkerboard", "iflow", "maximal")
MODES = ("eager", "graph")
NEGATIVE_SLOPE = 0.01  # of the leaky ReLU
LEARNING_RATE = 1e-7  # a step costs the same: thousands at the usual 1e-3 overfit the minibatch, up to NaN
WARM_UP_STEPS = 3
STEPS_A_GROUP = 100  # between which the host does not wait for the GPU, as it would not in a training


def make_masks(d: int, masking: str) -> torch.Tensor:
    """(n_cells, d) bool, from target space to latent space: True where the cell transforms the coordinate."""
    if d < 2:
        raise ValueError(f"d must be at least 2, so that cells have something to be conditioned on, got {d}")
    coordinates = torch.arange(d)
    if masking == "checkerboard":
        is_odd = coordinates % 2 == 1
        return torch.stack([is_odd, ~is_odd])
    if masking == "maximal":
        return torch.eye(d, dtype=torch.bool)
    if masking == "iflow":
        digits = torch.arange((d - 1).bit_length()).flip(0)
        is_one = (coordinates >> digits[:, None]) & 1 == 1
        return torch.stack([~is_one, is_one], dim=1).flatten(0, 1)
    raise ValueError(f"masking must be one of {MASKINGS}, got {masking!r}")


class CouplingCell(torch.nn.Module):
    """Piecewise-linear maps of some coordinates, given by a dense network of the others.

    Outputs of the network are ordered coordinate outside, bin inside: softmax and cumulative sum then run
    along contiguous memory. Varflow has it the other way round.
    """

    def __init__(self, mask: torch.Tensor, n_bins: int, d_hidden: int, n_hidden: int) -> None:
        super().__init__()
        self.n_bins = n_bins
        # Coordinates by number, since picking by a mask has to wait for the GPU to count them.
        self.register_buffer("conditioning", torch.nonzero(~mask).flatten())
        self.register_buffer("transformed", torch.nonzero(mask).flatten())
        widths = [len(self.conditioning), *[d_hidden] * n_hidden]
        layers: list[torch.nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [torch.nn.Linear(n_in, n_out), torch.nn.LeakyReLU(NEGATIVE_SLOPE)]
        self.network = torch.nn.Sequential(*layers, torch.nn.Linear(d_hidden, len(self.transformed) * n_bins))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coordinates behind the cell, (n, d), and the log of the determinant, (n,), at x (n, d)."""
        logits = self.network(2 * x.index_select(1, self.conditioning) - 1)
        contents = logits.view(len(x), -1, self.n_bins).softmax(dim=2)
        position = x.index_select(1, self.transformed) * self.n_bins
        # Rounding may put coordinates, those at 1 in particular, beyond the outermost bins.
        k = position.detach().long().clamp(0, self.n_bins - 1)
        content = contents.gather(2, k[:, :, None]).squeeze(2)
        below = contents.cumsum(dim=2).gather(2, k[:, :, None]).squeeze(2) - content
        z = below + content * (position - k)
        slope = content * self.n_bins
        return x.index_copy(1, self.transformed, z), slope.log().sum(dim=1)


class TorchFlow(torch.nn.Module):
    """A sequence of coupling cells, from target space to latent space.

    Parameters
    ----------
    d : int
        Number of dimensions, at least 2.
    masking : {"checkerboard", "iflow", "maximal"}
        How coordinates are shared out among the cells.
    n_bins : int
        Bins of each piecewise-linear map.
    d_hidden : int
        Neurons a hidden layer.
    n_hidden : int
        Hidden layers, the first one included.
    """

    def __init__(self, d: int, masking: str, n_bins: int, d_hidden: int, n_hidden: int) -> None:
        super().__init__()
        self.cells = torch.nn.ModuleList(
            CouplingCell(mask, n_bins, d_hidden, n_hidden) for mask in make_masks(d, masking)
        )

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent points (n, d) and log |dz/dx| (n,), which is log q, at points x (n, d) of the unit cube."""
        log_det = x.new_zeros(len(x))
        for cell in self.cells:
            x, log_slope = cell(x)
            log_det = log_det + log_slope
        return x, log_det


def variance_loss(flow: TorchFlow, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of f^2 / (p q) over points x (n, d) ~ p; weights: f^2 / p, (n,)."""
    _, log_q = flow(x)
    return (weights * torch.exp(-log_q)).mean()


def captured(step: Step, optimizer: torch.optim.Optimizer) -> Step:
    """Capture a step in a CUDA graph, after warm-up. Returns what replays it.

    The graph reads and writes the memory that the step does now: whoever calls has to keep the minibatch, the
    flow and the optimiser alive.
    """
    # Libraries and the optimiser's state are set up where nothing is captured, and not on the default stream:
    # autograd would come back to it during capture.
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(WARM_UP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side_stream)
    # Without gradients at hand, the backward pass allocates them in the graph's own memory and sets them at
    # each replay instead of adding to them.
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return loss

    return replay


def cuda_times(step: Step, seconds: float) -> list[float]:
    """Seconds of each of many steps, from the end of the one before it on the GPU to its own."""
    times: list[float] = []
    begin = perf_counter()
    while not times or perf_counter() - begin < seconds:
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(STEPS_A_GROUP + 1)]
        ends[0].record()
        for end in ends[1:]:
            step()
            end.record()
        torch.cuda.synchronize()
        times += [before.elapsed_time(end) * 1e-3 for before, end in pairwise(ends)]  # from milliseconds
    return times


def wall_times(step: Step, seconds: float) -> list[float]:
    """Seconds of each of at least five steps by the clock, on the CPU or a device without CUDA's events."""
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        begin = perf_counter()
        step().item()  # reading the loss waits for a device, and is free on the CPU
        times.append(perf_counter() - begin)
    return times


def step_seconds(
    d: int,
    batch: int,
    d_hidden: int,
    n_hidden: int,
    n_bins: int,
    masking: str,
    mode: str,
    device: str,
    seconds: float,
) -> float:
    """Time a training step.

    Parameters
    ----------
    d : int
        Number of dimensions.
    batch : int
        Points of the minibatch.
    d_hidden, n_hidden, n_bins, masking
        As in `TorchFlow`.
    mode : {"eager", "graph"}
        Whether PyTorch launches the kernels of a step one by one, or all of them as a CUDA graph.
    device : str
        Where: "cpu", "cuda" or another device of PyTorch's.
    seconds : float
        How long the step is repeated.

    Returns
    -------
    float
        Median over the steps, in seconds. On CUDA the loss stays on the device; ZüNIS reads it at each step.

    Raises
    ------
    ValueError
        If the mode is unknown, or "graph" on a device other than CUDA.
    FloatingPointError
        If the loss is not finite in the end: the steps were not those of a training.
    """
    is_cuda = torch.device(device).type == "cuda"
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if mode == "graph" and not is_cuda:
        raise ValueError(f"a graph is captured on a CUDA device, not on {device!r}")
    torch.manual_seed(0)
    x = torch.rand(batch, d, device=device)
    fx = 1 + x.sum(dim=1) ** 2
    weights = (fx / fx.mean()) ** 2  # p = 1
    flow = TorchFlow(d, masking, n_bins, d_hidden, n_hidden).to(device)
    optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE, capturable=mode == "graph")

    def eager_step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = variance_loss(flow, x, weights)
        loss.backward()
        optimizer.step()
        # What autograd holds goes with the step. If it lived on, the next backward pass, the captured one
        # too, would use the stream of this one.
        return loss.detach()

    # Streams and events are those of the current device.
    with torch.cuda.device(device) if is_cuda else nullcontext():
        step = captured(eager_step, optimizer) if mode == "graph" else eager_step
        for _ in range(STEPS_A_GROUP if is_cuda else WARM_UP_STEPS):
            step()
        times = cuda_times(step, seconds) if is_cuda else wall_times(step, seconds)
        loss = step().item()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} after {len(times)} steps")
    return median(times)


def main() -> None:
    """Parse arguments, time the step and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--d", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--d-hidden", type=int, default=64)
    parser.add_argument("--n-hidden", type=int, default=3)
    parser.add_argument("--n-bins", type=int, default=10)
    parser.add_argument("--masking", choices=MASKINGS, default="checkerboard")
    parser.add_argument("--mode", choices=MODES, default="eager")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # they are slow on a CPU
    step_s = step_seconds(**vars(options))
    flow = TorchFlow(options.d, options.masking, options.n_bins, options.d_hidden, options.n_hidden)
    result = {
        "mode": options.mode,
        "device": options.device,
        "d": options.d,
        "batch": options.batch,
        "d_hidden": options.d_hidden,
        "n_hidden": options.n_hidden,
        "n_bins": options.n_bins,
        "masking": options.masking,
        "n_params": flow.n_params,
        "step_s": step_s,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Compiling all kernels ahead of their use."""

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from varflow.compiled.kinds import compile_calls
from varflow.flow.architecture import DTYPES
from varflow.flow.flow import Flow
from varflow.kernels import compile, cpu
from varflow.runtime.threads import default_threads
from varflow.training.benchmark import benchmark

__all__ = ["warmup"]


def warmup() -> str | None:
    """Compile all kernels and keep them, those of each dtype in a process of its own.

    Returns
    -------
    str or None
        Folder that they are kept in; None where no folder can be written to.
    """
    n_processes = min(default_threads(), len(DTYPES))
    with ProcessPoolExecutor(n_processes, get_context("spawn")) as pool:
        folders = list(pool.map(_compile_kernels, DTYPES))
    return folders[0]


def _compile_kernels(dtype: str) -> str | None:
    logging.basicConfig(format="varflow: %(message)s")  # as the command prints what is logged
    compile.announcement.is_due = dtype == DTYPES[0]  # one of the processes says it for all
    flow = Flow(2, dtype=dtype, n_bins=2, d_hidden=2, n_hidden=1, seed=0, threads=1)
    benchmark(flow, batch=2, seconds=0)
    flow.log_prob([[0.5, 0.5]])
    if dtype == DTYPES[0]:
        compile_calls()
    folder: str | None = cpu.gradient.stats.cache_path
    return folder

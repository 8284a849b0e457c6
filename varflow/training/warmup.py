"""Compiling all kernels ahead of their use."""

import logging
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from types import ModuleType
from typing import Any

import numpy as np

from varflow.compiled.kinds import compile_calls
from varflow.data.dataset import Dataset
from varflow.flow.architecture import DTYPES
from varflow.flow.flow import Flow
from varflow.kernels import adam, compile, cpu, pointers, product
from varflow.runtime.progress import Progress
from varflow.runtime.threads import default_threads
from varflow.training.adam import Adam
from varflow.training.benchmark import benchmark
from varflow.training.trainers import BasicVarTrainer
from varflow.validation import check_name

__all__ = ["PURPOSES", "warmup"]

# What kernels are compiled for, and the dtypes of the flows that have them.
PURPOSES = {"all": DTYPES, "train": DTYPES[:1]}

logger = logging.getLogger(__name__)


def warmup(progress: type[Progress] = Progress, purpose: str = "all") -> str | None:
    """Compile kernels and keep them, those of each dtype in a process of its own.

    Parameters
    ----------
    progress : type of Progress
        How is shown which of them are there.
    purpose : {"all", "train"}
        What they are for: anything, or the training of flows with the default dtype on a dataset, and points
        from them.

    Returns
    -------
    str or None
        Folder that they are kept in; None where no folder can be written to.

    Raises
    ------
    ValueError
        If the purpose is unknown.
    """
    check_name("purpose", purpose, PURPOSES)
    dtypes = PURPOSES[purpose]
    n_processes, context = min(default_threads(), len(dtypes)), get_context("spawn")
    news = context.SimpleQueue()  # of each kernel, and None for each process that is done
    if purpose == "all":
        compile_them = _compile_all
        n_kernels = len(dtypes) * _n_kernels(adam, cpu, product) + _n_kernels(pointers)
    else:
        compile_them, n_kernels = _compile_training, len(dtypes) * _n_kernels(adam, cpu)
    with (
        progress(n_kernels, "kernel", "compiling") as shown,
        ProcessPoolExecutor(n_processes, context, _begin, (news,)) as pool,
    ):
        folders = [pool.submit(compile_them, dtype) for dtype in dtypes]
        for folder in folders:
            folder.add_done_callback(lambda _: news.put(None))
        _show(news, shown, len(folders))
    return folders[0].result()


def _n_kernels(*modules: ModuleType) -> int:
    """Count the kernels of some modules."""
    names = [module.__name__ for module in modules]
    return sum(function.__module__ in names for function in compile.KERNELS)


def _show(news: Any, shown: Progress, n_processes: int) -> None:
    """Show which kernels are there, until all processes are done."""
    n_there = 0
    while n_processes:
        told = news.get()
        if told is None:
            n_processes -= 1
            continue
        name, is_there = told
        n_there += is_there
        if not is_there and compile.announcement.is_due:
            compile.announcement.announce()
        if is_there:
            logger.info("%s is there", name)
        shown.update(n_there, f"compiling {name}")


_news: Any = None  # in a process that compiles: where its news go


def _begin(news: Any) -> None:
    global _news
    _news = news
    logging.basicConfig(format="varflow: %(message)s")  # as the command prints what is logged


def _small_flow(dtype: str) -> Flow:
    """Make a flow whose kernels are to be compiled, with news of each."""
    compile.announcement.is_due = False  # the process that waits says it for all
    compile.announcement.watch = partial(_tell, dtype)
    return Flow(2, dtype=dtype, n_bins=2, d_hidden=2, n_hidden=1, seed=0, threads=1)


def _compile_all(dtype: str) -> str | None:
    flow = _small_flow(dtype)
    benchmark(flow, batch=2, seconds=0)
    flow.log_prob([[0.5, 0.5]])
    if dtype == DTYPES[0]:
        compile_calls()
    return _folder()


def _compile_training(dtype: str) -> str | None:
    flow = _small_flow(dtype)
    trainer = BasicVarTrainer(flow)
    data = Dataset(np.array([[0.25, 0.5]]), np.ones(1), np.ones(1))
    trainer.step(trainer.objective(data), np.arange(1), Adam())
    flow.log_prob(data.x)
    return _folder()


def _folder() -> str | None:
    folder: str | None = cpu.gradient.stats.cache_path
    return folder


def _tell(dtype: str, name: str, is_there: bool) -> None:
    _news.put((f"{name} ({dtype})", is_there))

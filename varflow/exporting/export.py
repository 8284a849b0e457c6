"""Export of a flow as the source of a C or Fortran program."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from varflow.exporting.c_source import c_files
from varflow.exporting.fortran_source import fortran_files
from varflow.exporting.tables import Tables, make_tables
from varflow.flow.conditions import check_unconditional
from varflow.flow.discrete_flow import DiscreteFlow
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.integration.result import Result
from varflow.runtime.archive import atomic_path
from varflow.validation import check_name

__all__ = ["LANGUAGES", "export"]

LANGUAGES: dict[str, Callable[[Tables, str, bytes | None], dict[str, str]]] = {
    "c": c_files,
    "fortran": fortran_files,
}
MOST_IN_SOURCE = 1_000_000  # bytes of weights; more are put in a file beside the source
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")  # Fortran allows 63 characters, suffixes included


def export(
    flow: Flow | Mixture | Result,
    directory: str | os.PathLike[str],
    language: str = "c",
    *,
    name: str = "flow",
) -> list[Path]:
    """Write a flow as source code that needs neither Python nor a library.

    The source samples, evaluates the density and, for a single flow, maps between target and latent space. It
    draws the same points as `Flow.sample` for the same seed, and equals Python to 1e-12 in log q for float64
    networks, to 1e-5 for float32, unless a steep flow amplifies the last bit; ``NAME_verify`` compares points
    where it was compiled.

    Parameters
    ----------
    flow : Flow, Mixture or Result
        What is exported. Of a result, this is the density that its points were drawn from on its box, which
        must be finite: the flow, and the uniform density with its share.
    directory : str or path
        Folder for the files. It is made if there is none; files of the same names are replaced.
    language : {"c", "fortran"}
        C99, as NAME.c and NAME.h, or Fortran 2008, as NAME.f90 with the module NAME_module.
    name : str
        Prefix of all names in the source: a letter, then letters, digits and underscores, 40 at most.

    Returns
    -------
    list of pathlib.Path
        The files. Where weights take more than 1 MB, NAME.bin is among them, which the program loads.

    Raises
    ------
    TypeError
        If `flow` is something else.
    ValueError
        If the language is unknown, the name is none, parameters are not finite, a bound of a result is
        infinite, or several flows without bounds are mixed. No file is written.
    OSError
        If a file cannot be written. None is left half-written.

    Examples
    --------
    >>> flow = vf.Flow(2, n_bins=4, d_hidden=8, seed=1)
    >>> [path.name for path in vf.export(flow, "source", "fortran", name="phase_space")]
    ['phase_space.f90']
    """
    check_name("language", language, LANGUAGES)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"name (--name) must be a letter, followed by letters, digits and underscores, 40 at most, "
            f"got {name!r}"
        )
    tables = make_tables(_on_cpu(_density_of(flow)))
    data = tables.weights.astype(tables.weights.dtype.newbyteorder("<")).tobytes()
    weights_file = data if len(data) > MOST_IN_SOURCE else None
    sources = LANGUAGES[language](tables, name, weights_file)
    files = {path: text.encode("ascii") for path, text in sources.items()}
    if weights_file is not None:
        files[f"{name}.bin"] = weights_file
    return _write(Path(directory), files)


def _density_of(flow: Flow | Mixture | Result) -> Flow | Mixture:
    """Give the density on the box that is to be exported."""
    if isinstance(flow, Flow | Mixture):
        check_unconditional("export", flow.n_conditions)
        return flow
    if not isinstance(flow, Result):
        raise TypeError(f"flow must be a Flow, a Mixture or a Result, got {type(flow).__name__}")
    if flow.channels:
        raise ValueError(
            "a result with channels has no single density that can be exported, as their maps are functions "
            "of Python: export result.channels[k].flow, which is on the unit cube before the map of channel k"
        )
    for row in np.flatnonzero(~np.isfinite(flow.bounds).all(axis=1)):
        raise ValueError(
            f"bounds of the result are {flow.bounds[row].tolist()} in row {row}, and only a finite box can "
            "be exported: export result.flow, which is on the unit cube, and map its points as Domain does"
        )
    on_box = flow.flow.on_box(flow.bounds)
    return Mixture([on_box], flow.defensive_share) if flow.defensive_share > 0 else on_box


def _on_cpu(flow: Flow | Mixture) -> Flow | Mixture:
    """Copy a flow to the CPU, where the points are computed that the source is compared with."""
    if isinstance(flow, Mixture):
        return Mixture([_flow_on_cpu(one) for one in flow.flows], flow.defensive, flow.weights)
    return _flow_on_cpu(flow)


def _flow_on_cpu(flow: Flow) -> Flow:
    if isinstance(flow, DiscreteFlow):
        raise ValueError(
            "flows with discrete coordinates cannot be exported: keep them in files of varflow, by "
            "flow.save, and draw points in Python"
        )
    return Flow.from_description(flow.description(), flow.params, threads=flow.threads)  # refuses NaN


def _write(directory: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write all files, or none."""
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            for name, data in files.items():
                stack.enter_context(atomic_path(directory / name)).write_bytes(data)
    except BaseException:
        if is_new:
            directory.rmdir()
        raise
    return [directory / name for name in files]

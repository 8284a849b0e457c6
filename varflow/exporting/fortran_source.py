"""An exported flow in Fortran 2008: the module with its tables, and where weights go."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from varflow.exporting.tables import KNOWN_SEED, N_KNOWN, Tables
from varflow.exporting.templates import filled, template

__all__ = ["fortran_files"]

KINDS = {"float32": "real32", "float64": "real64"}
DIGITS = {"float32": ".8e", "float64": ".16e"}  # that tell all numbers apart
PER_LINE = 4  # numbers
PER_STATEMENT = 400  # numbers: a statement may have 255 more lines
PUBLIC = "sample", "log_prob", "verify", "message"
PUBLIC_LATENT = "to_latent", "from_latent"


def fortran_files(tables: Tables, name: str, weights_file: bytes | None) -> dict[str, str]:
    """Write the source of a flow; see `varflow.exporting.c_source.c_files`."""
    has_file, has_latent = weights_file is not None, not tables.is_mixture
    kind = KINDS[tables.dtype]
    public = [*PUBLIC, *(PUBLIC_LATENT if has_latent else ()), *(["load"] if has_file else [])]
    parts = {
        "KINDS": ", ".join([*(["int8"] if has_file else []), "int32", "int64", "real32", "real64"]),
        "PUBLIC": ", ".join(f"NAME_{what}" for what in public),
        "D": tables.d,
        "N_WEIGHTS": len(tables.weights),
        "REAL": kind,
        "D_HIDDEN": tables.d_hidden,
        "N_OUT": tables.n_out,
        "TOLERANCE": f"{tables.tolerance:.1e}",
        "TABLES": "\n".join(
            [*_tables(tables), *(_weights(tables) if weights_file is None else _sum(weights_file, tables))]
        ),
        "EXPONENTIATE": template(f"exponentiate_{kind}.f90"),
        "LATENT": template("latent.f90") if has_latent else "",
        "VERIFY_LATENT": template("verify_latent.f90") if has_latent else "",
        "LOAD": template("load.f90") if has_file else "",
    }
    return {f"{name}.f90": filled(template("flow.f90"), name, parts)}


def _tables(tables: Tables) -> Iterator[str]:
    """Write all tables but the weights, in lines."""
    n_cells, known = len(tables.cells), tables.known
    yield f"   logical, parameter :: is_normal = .{str(tables.is_normal).lower()}. ! in latent space"
    yield f"   integer, parameter :: n_flows = {tables.n_flows}"
    yield f"   integer, parameter :: n_components = {len(tables.log_share)} ! with a uniform density, if any"
    yield f"   real(dp), parameter :: log_volume = {tables.log_volume:.16e}_dp"
    yield f"   type(cell_type), save :: cells({n_cells})"
    for c, (*numbers, _) in enumerate(tables.cells, 1):
        yield f"   data cells({c}) /cell_type({', '.join(map(str, numbers))})/"
    yield f"   integer, save :: split(NAME_d, {n_cells}) ! inputs, then what is transformed"
    for c, cell in enumerate(tables.cells, 1):
        yield from _data(f"split(:, {c})", [str(k + 1) for k in cell.split])
    yield f"   integer, save :: first_cell({tables.n_flows + 1}) ! of each flow"
    yield from _data("first_cell", [str(c + 1) for c in tables.first_cell])
    yield from _doubles("lower(NAME_d)", tables.bounds[:, 0])
    yield from _doubles("upper(NAME_d)", tables.bounds[:, 1])
    yield from _doubles("location(NAME_d)", tables.location)
    yield from _doubles("width(NAME_d)", tables.width)
    yield from _doubles("log_share(n_components)", tables.log_share)
    yield from _doubles("upper_share(n_components)", tables.upper_share)
    yield "   ! Points of Python's sample, for NAME_verify"
    yield f"   integer, parameter :: n_known = {N_KNOWN}"
    yield f"   integer(int64), parameter :: known_seed = {KNOWN_SEED}_int64"
    yield f"   real(dp), parameter :: tolerance = {tables.tolerance:.1e}_dp"
    yield from _doubles("known_x(NAME_d, n_known)", known.x)
    yield from _doubles("known_log_q(n_known)", known.log_q)
    if known.z is not None:
        ends = ("-huge(1.0_dp)", "huge(1.0_dp)") if tables.is_normal else ("0", "1")
        yield f"   real(dp), parameter :: zeros(NAME_d) = {ends[0]}, ones(NAME_d) = {ends[1]}"
        yield "   real(dp), parameter :: latent_side(NAME_d) = 1"
        yield from _doubles("known_z(NAME_d, n_known)", known.z)


def _doubles(declaration: str, values: np.ndarray) -> Iterator[str]:
    """Declare a table of real64, of which the last index of `values` varies fastest."""
    yield f"   real(dp), save :: {declaration}"
    name = declaration.partition("(")[0]
    if values.ndim == 1:
        yield from _data(name, [f"{value:.16e}_dp" for value in values.tolist()])
    for k, column in enumerate(values if values.ndim > 1 else (), 1):
        yield from _data(f"{name}(:, {k})", [f"{value:.16e}_dp" for value in column.tolist()])


def _weights(tables: Tables) -> Iterator[str]:
    """Declare the weights, in decimal digits that tell all numbers apart."""
    digits = DIGITS[tables.dtype]
    numbers = [f"{value:{digits}}_wp" for value in tables.weights.tolist()]
    yield "   ! The weights of the networks, which all subroutines are given"
    yield "   real(NAME_real), protected, public, save :: NAME_weights(NAME_n_weights)"
    for first in range(0, len(numbers), PER_STATEMENT):
        part = numbers[first : first + PER_STATEMENT]
        yield from _data(f"NAME_weights({first + 1}:{first + len(part)})", part)


def _sum(weights_file: bytes, tables: Tables) -> Iterator[str]:
    """Declare the SHA-256 sum of the file of the weights, and the constants of the algorithm."""
    words = np.frombuffer(hashlib.sha256(weights_file).digest(), ">u4").tolist()
    yield f"   integer, parameter :: real_size = {tables.weights.itemsize}"
    yield "   integer(int64), save :: expected_sum(8)"
    yield from _data("expected_sum", [f"{word}_int64" for word in words])


def _data(name: str, values: Sequence[str]) -> Iterator[str]:
    """Write the statement that sets a table."""
    yield f"   data {name} / &"
    for k in range(0, len(values), PER_LINE):
        is_last = k + PER_LINE >= len(values)
        yield f"      {', '.join(values[k : k + PER_LINE])}{' /' if is_last else ', &'}"

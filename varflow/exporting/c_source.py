"""An exported flow in C99: the header, the source with its tables, and where weights go."""

import hashlib
from collections.abc import Iterable

import numpy as np

from varflow.exporting.tables import KNOWN_SEED, N_KNOWN, Cell, Tables
from varflow.exporting.templates import filled, template

__all__ = ["c_files"]

# C's type, and that of its bits
REALS = {"float32": ("float", "uint32_t"), "float64": ("double", "uint64_t")}
PER_LINE = 6  # numbers
LARGEST = float(np.finfo(np.float64).max)


def c_files(tables: Tables, name: str, weights_file: bytes | None) -> dict[str, str]:
    """Write the sources of a flow.

    Parameters
    ----------
    tables : Tables
        The flow.
    name : str
        What its functions are called: the prefix of all names.
    weights_file : bytes or None
        What is in the file of the weights, or None where they stand in the source.

    Returns
    -------
    dict
        Names of files and what they hold.
    """
    has_file, has_latent = weights_file is not None, not tables.is_mixture
    header = {
        "REAL": REALS[tables.dtype][0],
        "D": tables.d,
        "N_WEIGHTS": len(tables.weights),
        "D_HIDDEN": tables.d_hidden,
        "N_OUT": tables.n_out,
        "TOLERANCE": f"{tables.tolerance:.1e}",
        "WEIGHTS": template("load.h" if has_file else "weights.h"),
        "LATENT": template("latent.h") if has_latent else "",
    }
    source = {
        "INCLUDES": "#include <stdio.h>" if has_file else "",
        "TABLES": _tables(tables)
        + (_sum(weights_file, tables) if weights_file is not None else _weights(tables)),
        "LATENT": template("latent.c") if has_latent else "",
        "VERIFY_LATENT": template("verify_latent.c") if has_latent else "",
        "ZEROS": ", ".join([(-LARGEST if tables.is_normal else 0.0).hex()] * tables.d),
        "ONES": ", ".join([(LARGEST if tables.is_normal else 1.0).hex()] * tables.d),
        "LOAD": template("load.c") if has_file else "",
    }
    return {
        f"{name}.h": filled(template("flow.h"), name, header),
        f"{name}.c": filled(template("flow.c"), name, source),
    }


def _tables(tables: Tables) -> str:
    """Write all tables but the weights."""
    known = tables.known
    lines = [
        f"#define REAL_IS_FLOAT {int(tables.dtype == 'float32')}",
        f"#define IS_NORMAL {int(tables.is_normal)} /* in latent space; there are no bounds then */",
        f"#define N_FLOWS {tables.n_flows}",
        f"#define N_COMPONENTS {len(tables.log_share)} /* with the uniform density, if it has a share */",
        f"#define LOG_VOLUME {tables.log_volume.hex()}",
        "",
        "struct cell {",
        "    int kind, n_bins, n_logits; /* of its spline */",
        "    int n_inputs, n_hidden, d_hidden; /* of its network */",
        "    long weights; /* number of its first weight */",
        "    int split[NAME_D]; /* coordinates that it is conditioned on, then those it transforms */",
        "};",
        "",
        f"static const struct cell cells[{len(tables.cells)}] = {{",
        *(f"    {_cell(cell)}," for cell in tables.cells),
        "};",
        f"static const int first_cell[N_FLOWS + 1] = {{{', '.join(map(str, tables.first_cell))}}};",
        "",
        _array("lower[NAME_D]", tables.bounds[:, 0]),
        _array("upper[NAME_D]", tables.bounds[:, 1]),
        _array("location[NAME_D]", tables.location),
        _array("width[NAME_D]", tables.width),
        _array("log_share[N_COMPONENTS]", tables.log_share),
        _array("upper_share[N_COMPONENTS]", tables.upper_share),
        "",
        "/* Points of Python's sample, for NAME_verify. */",
        f"#define N_KNOWN {N_KNOWN}",
        f"#define KNOWN_SEED {KNOWN_SEED}u",
        f"#define TOLERANCE {tables.tolerance:.1e}",
        _array("known_x[N_KNOWN * NAME_D]", known.x.ravel()),
        _array("known_log_q[N_KNOWN]", known.log_q),
        *([] if known.z is None else [_array("known_z[N_KNOWN * NAME_D]", known.z.ravel())]),
        "",
    ]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    *numbers, split = cell
    return f"{{{', '.join(map(str, numbers))}, {{{', '.join(map(str, split))}}}}}"


def _array(declaration: str, values: np.ndarray) -> str:
    """Write a table of doubles."""
    return f"static const double {declaration} = {{\n{_lines(value.hex() for value in values.tolist())}\n}};"


def _weights(tables: Tables) -> str:
    suffix = "F" if tables.dtype == "float32" else ""
    numbers = _lines(f"{value.hex()}{suffix}" for value in tables.weights.tolist())
    return f"\nconst NAME_real NAME_weights[NAME_N_WEIGHTS] = {{\n{numbers}\n}};"


def _sum(weights_file: bytes, tables: Tables) -> str:
    """Write the SHA-256 sum of the file of the weights."""
    words = np.frombuffer(hashlib.sha256(weights_file).digest(), ">u4").tolist()
    return (
        f"\ntypedef {REALS[tables.dtype][1]} real_bits;\n"
        f"static const uint32_t expected_sum[8] = {{\n{_lines(f'0x{word:08x}' for word in words)}\n}};"
    )


def _lines(numbers: Iterable[str]) -> str:
    """Set numbers in lines of a table."""
    texts = list(numbers)
    lines = (texts[k : k + PER_LINE] for k in range(0, len(texts), PER_LINE))
    return "\n".join(f"    {', '.join(line)}," for line in lines)

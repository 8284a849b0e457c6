"""The option `--workers`: processes, or a cluster of Dask."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["add_workers", "workers_of"]

PATIENCE = 60.0  # seconds, in which a cluster is to answer and to have a worker


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--workers",
        type=_parsed,
        default=1,
        metavar="N",
        help="processes that call the function; -1: all cores; or the address of a Dask scheduler, "
        "tcp://HOST:8786, or its scheduler file, NAME.json",
    )


def _parsed(text: str) -> int | str:
    if "://" in text or text.endswith(".json"):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"needs a number, or tcp://HOST:PORT or the file NAME.json of a Dask scheduler, got {text!r}"
        ) from None


@contextmanager
def workers_of(found: int | str, f: Callable[..., Any]) -> Iterator[Any]:
    """Give the workers; the connection to a cluster ends with the block.

    Raises
    ------
    ImportError
        If distributed is not installed.
    OSError
        If the scheduler does not answer, or has no workers.
    """
    if isinstance(found, int):
        yield found
        return
    try:
        import cloudpickle
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            "--workers with a Dask scheduler needs distributed: pip install 'varflow[dask]'"
        ) from error
    module = sys.modules.get(getattr(f, "__module__", None) or "")
    if module is not None and _is_here(module):
        cloudpickle.register_pickle_by_value(module)  # the workers may run elsewhere, and could not import it
    where = {"scheduler_file": found} if found.endswith(".json") else {"address": found}
    try:
        client = Client(**where, timeout=PATIENCE)
    except OSError as error:
        raise OSError(f"--workers: no Dask scheduler answers at {found} ({error})") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise OSError(f"--workers: the Dask scheduler at {found} has no workers") from None
        yield client


def _is_here(module: Any) -> bool:
    """Tell whether a module is a file of the user's, and not of an installed package."""
    path = getattr(module, "__file__", None)
    return path is not None and not {"site-packages", "dist-packages"} & set(Path(path).parts)

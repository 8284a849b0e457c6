"""Fingerprints of what varflow computes and writes, to show that a change of structure changes no bit of it.

usage: python tests/fingerprints.py record FILE       before the change
       python tests/fingerprints.py compare FILE      after it; ends with status 1 where something differs

Bits depend on the processor and on the versions of packages: both runs belong on one machine, a minute each.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import varflow as vf
from varflow.cli import main as varflow

EXAMPLES = Path(__file__).parent.parent / "examples"
CELLS, MASKINGS, DTYPES = (
    ("pwlinear", "pwquad", "rqs"),
    ("iflow", "checkerboard", "maximal"),
    ("float32", "float64"),
)
SMALL = {"n_bins": 5, "d_hidden": 12}
COMMANDS = ("train", "evaluate", "sample", "integrate", "bench", "warmup")
Named = Iterator[tuple[str, str]]


def digest(*parts: Any) -> str:
    """SHA-256 sum of arrays by their bits, and of everything else by its text."""
    total = hashlib.sha256()
    for part in parts:
        total.update(
            np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        )
    return total.hexdigest()[:24]


def value(fx: np.ndarray, px: np.ndarray, logqx: np.ndarray) -> float:
    """Compute a loss that the kernels do not know."""
    return float(np.mean(np.sqrt(fx / px) * np.exp(-logqx / 2)))


def derivative(fx: np.ndarray, px: np.ndarray, logqx: np.ndarray) -> np.ndarray:
    """Compute its derivative in log q."""
    return -0.5 * np.sqrt(fx / px) * np.exp(-logqx / 2) / len(fx)


LOSSES: dict[str, Any] = {"variance": "variance", "dkl": "dkl", "custom": (value, derivative)}


def points(n: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw points of a density that is not uniform, and evaluate a function with two peaks on them."""
    x = np.random.default_rng(7).beta(1.5, 1.2, (n, d))
    px = np.prod(np.sqrt(x) * (1 - x) ** 0.2, axis=1)
    return x, px, peaks(x)


def peaks(x: np.ndarray) -> np.ndarray:
    """Two peaks on the diagonal, (n,)."""
    return sum(np.exp(-np.sum((x - centre) ** 2, axis=1) / 0.04) for centre in (1 / 3, 2 / 3))


def trainings() -> Named:
    """Parameters, Adam's state and record after trainings with every cell, masking, loss and dtype."""
    data = vf.Dataset(*points(900, 3))
    for cell, masking, loss, dtype in itertools.product(CELLS, MASKINGS, LOSSES, DTYPES):
        flow = vf.Flow(3, cell, masking, **SMALL, dtype=dtype, seed=3, threads=2)
        optim = vf.Adam(lr=3e-3, schedule="cosine", clip_norm=5.0, weight_decay=1e-3, average=0.9)
        trainer = vf.BasicStatefulTrainer(
            flow, loss=LOSSES[loss], n_epochs=3, minibatch_size=200, optim=optim, holdout=0.2, seed=5
        )
        record = trainer.train_on_dataset(data)
        x, logqx = flow.sample(500, seed=2)
        z, _ = flow.to_latent(data.x)
        yield (
            f"training {cell} {masking} {loss} {dtype}",
            digest(flow.params, optim.m, optim.v, record.losses, record.epoch_losses, x, logqx, z),
        )
    for d, cell in itertools.product((1, 2, 7), CELLS):
        flow = vf.Flow(d, cell, **SMALL, seed=3, threads=2, bounds=[-1.0, 1.5], n_hidden=3, repetitions=2)
        x, px, fx = points(3000, d)
        optim = vf.Adam(lr=3e-3)
        vf.BasicVarTrainer(flow).train_on_target_batch(
            2.5 * x - 1, px, fx, optim, n_epochs=3, minibatch_size=1000
        )
        loss = vf.BasicDKLTrainer(flow).train_step_on_target_minibatch(2.5 * x - 1, px, fx, optim)
        yield f"stateless d={d} {cell}", digest(flow.params, optim.m, loss)
    flow = vf.Flow(3, **SMALL, seed=3)
    vf.BasicVarTrainer(flow).train_on_target_batch(*points(40_000, 3), vf.Adam(), n_epochs=2)
    yield "full batch", digest(flow.params, vf.evaluate(flow, data))


def outcome(result: vf.Result) -> str:
    """Digest all of a result but the seconds that it took."""
    history = [
        (one.stage, one.n_calls, one.mean, one.covariance, one.ess, one.is_used, one.weight)
        for one in result.history
    ]
    numbers = [part for row in history for part in row]
    return digest(result.mean, result.sdev, result.flow.params, *numbers, *result.warnings)


def integrals() -> Named:
    """Results of integrations of every kind."""
    small = {"flow_options": {"d_hidden": 16, "n_bins": 8}, "seed": 4}
    rounds = {"n_iter": 2, "n_points": 2000, **small}
    cases: dict[str, Callable[[], vf.Result]] = {
        "default": lambda: vf.integrate(peaks, 2, n_calls=20_000, seed=4),
        "rtol": lambda: vf.integrate(peaks, 3, n_calls=60_000, rtol=2e-3, **small),
        "pwlinear": lambda: vf.integrate(peaks, 2, n_calls=20_000, flow="pwlinear", **small),
        "rqs, dkl": lambda: vf.integrate(peaks, 2, n_calls=20_000, flow="rqs", loss="dkl", **small),
        "infinite": lambda: vf.integrate(
            lambda x: np.exp(-np.sum(x**2, axis=1)), 2 * [(-np.inf, np.inf)], n_calls=20_000, **small
        ),
        "dict": lambda: vf.integrate(
            lambda x: {"a": peaks(x), "b": peaks(x)[:, None] * x}, 2, n_calls=20_000, use_survey=True, **small
        ),
        "narrow": lambda: vf.integrate(
            lambda x: np.exp(-np.sum((x - 0.3) ** 2, axis=1) / 2e-4), 4, n_calls=40_000, **small
        ),
        "regained": lambda: vf.integrate(
            lambda x: sum(np.exp(-np.sum((x - c) ** 2, axis=1) / 5e-3) for c in (0.2, 0.8)),
            6,
            n_calls=90_000,
            **small,
        ),
        "random": lambda: vf.integrate(peaks, 2, n_calls=20_000, latent_points="random", **small),
        "signed": lambda: vf.integrate(lambda x: np.sin(6 * x[:, 0]) * x[:, 1], 2, n_calls=20_000, **small),
    }
    for strategy in ("flat", "forward", "forward_flat_init", "adaptive_variance", "adaptive_dkl"):
        cases[strategy] = lambda strategy=strategy: vf.Integrator(
            peaks, 2, survey_strategy=strategy, **rounds
        ).integrate()
    cases["fixed_sample"] = lambda: vf.Integrator(
        peaks, 2, survey_strategy="fixed_sample", sample=points(2000, 2), **rounds
    ).integrate()
    for name, integrate in cases.items():
        yield f"integral {name}", outcome(integrate())
    extended = vf.integrate(peaks, 2, n_calls=20_000, **small).extend(5000)
    yield "integral extended", outcome(extended)


def members(path: Path) -> str:
    """Digest the arrays of an npz file; its seal and the times in it are left out."""
    with np.load(path) as archive:
        names = sorted(set(archive.files) - {"seconds"})
        return digest(*(part for name in names for part in (name, archive[name])))


def files(folder: Path) -> Named:
    """Files of every kind."""
    flow = vf.Flow(3, **SMALL, seed=1, bounds=[[0, 1], [-1, 1], [2, 7]])
    flow.save(folder / "flow.npz")
    yield "file flow", members(folder / "flow.npz")
    data = vf.Dataset(*points(50, 2))
    data.save(folder / "data.npz")
    yield "file data.npz", members(folder / "data.npz")
    data.save(folder / "data.csv")
    yield "file data.csv", digest((folder / "data.csv").read_bytes())
    data.save(folder / "data.h5")
    yield (
        "file data.h5",
        digest(*(getattr(vf.Dataset.read(folder / "data.h5"), name) for name in ("x", "px", "fx"))),
    )
    for kind in ("npz", "csv"):
        target = folder / f"points.{kind}"
        command(["sample", str(folder / "flow.npz"), "-n", "1000", "-o", str(target), "--seed", "3"])
        yield f"file points.{kind}", members(target) if kind == "npz" else digest(target.read_bytes())
    result = vf.integrate(peaks, 2, n_calls=20_000, seed=4, checkpoint=folder / "run.ckpt")
    result.save(folder / "result.npz")
    yield "file result", members(folder / "result.npz")
    yield "loaded result", outcome(vf.Result.load(folder / "result.npz"))
    printed = command(
        ["train", str(EXAMPLES / "dalitz.csv"), "-o", str(folder / "trained.npz"), "--epochs", "3"]
    )
    lines = [
        line for line in printed.splitlines() if not line.startswith(("seconds", "wrote", str(EXAMPLES)))
    ]
    yield "command train", digest(*lines)
    yield "file trained flow", members(folder / "trained.npz")
    printed = command(["integrate", f"{EXAMPLES / 'camel.py'}:f", "--dim", "2", "--calls", "20000", "--json"])
    figures = json.loads(printed)
    figures.pop("seconds")
    yield "command integrate", digest(sorted(figures.items()))


def command(arguments: list[str]) -> str:
    """Run the command in this process. Returns what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert varflow(arguments) == 0, arguments
    return printed.getvalue()


def help_texts() -> Named:
    """Help texts of all commands."""
    for name in ("", *COMMANDS):
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            varflow([*([name] if name else []), "--help"])
        yield f"help {name}".strip(), digest(printed.getvalue())


def fingerprints() -> dict[str, str]:
    """Compute all of them."""
    os.environ["COLUMNS"] = "100"
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for named in (trainings(), integrals(), files(Path(folder)), help_texts()):
            found.update(named)
    return found


def main(mode: str, path: str) -> int:
    """Record fingerprints, or compare them with recorded ones."""
    found = fingerprints()
    if mode == "record":
        Path(path).write_text(json.dumps(found, indent=1) + "\n")
        print(f"recorded {len(found)} fingerprints")
        return 0
    known = json.loads(Path(path).read_text())
    different = sorted(name for name in known.keys() | found.keys() if known.get(name) != found.get(name))
    for name in different:
        print(f"differs: {name}")
    print(f"{len(known) - len(different)} of {len(known)} fingerprints are the same")
    return 1 if different else 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "compare"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

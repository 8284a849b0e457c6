"""Exported flows, compiled: a program of each language calls their functions on points from files."""

import platform
import subprocess
from pathlib import Path

import numpy as np

import varflow as vf

COMPILERS = {"c": "gcc", "fortran": "gfortran"}
DRIVERS = {"c": "driver.c", "fortran": "driver.F90"}
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
STANDARDS = {"c": ["-std=c99", "-pedantic"], "fortran": ["-std=f2008"]}
CHECKS = {"c": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], "fortran": ["-fcheck=all"]}


class Program:
    """An exported flow, compiled, with the methods of a flow.

    is_checked: sanitizers or checks watch. edit: what is done to the text of the source.
    """

    def __init__(
        self, flow, language, folder: Path, *, flags=("-O0",), is_checked=False, name="flow", edit=str
    ):
        self.folder, self.d = folder, flow.flow.d if isinstance(flow, vf.Result) else flow.d
        self.paths = vf.export(flow, folder, language, name=name)
        self.weights = next((path for path in self.paths if path.suffix == ".bin"), "")
        source = next(path for path in self.paths if path.suffix in (".c", ".f90"))
        source.write_text(edit(source.read_text()))
        # GCC is told to, or asks the processor; of Fortran's operations, it may round several at once.
        self.has_roundings_of_python = language == "c" and platform.machine() == "x86_64"
        driver = folder / DRIVERS[language]
        text = (Path(__file__).parent / DRIVERS[language]).read_text()
        driver.write_text(text.replace("NAME", name))
        mixed = isinstance(flow, vf.Mixture) or (isinstance(flow, vf.Result) and flow.defensive_share > 0)
        defined = ["-DHAS_FILE"] * bool(self.weights) + ["-DIS_MIXTURE"] * mixed
        flags = [*WARNINGS, *flags, *(CHECKS[language] if is_checked else ())]
        compiler = COMPILERS[language]
        for path, options in ((source, [*STANDARDS[language]]), (driver, defined)):
            run = [compiler, *options, *flags, "-c", path.name, "-o", f"{path.stem}.o"]
            subprocess.run(run, cwd=folder, check=True)
        linked = [f"{source.stem}.o", f"{driver.stem}.o"]
        subprocess.run([compiler, *flags, *linked, "-o", "program", "-lm"], cwd=folder, check=True)

    def call(self, operation, n=0, seed=0, first=0, points=()):
        """Status, points and log q, and what the program says of the status."""
        np.asarray(points, np.float64).tofile(self.folder / "points")
        arguments = [operation, n, seed, first, "points", "results", self.weights]
        run = ["./program", *map(str, arguments)]
        done = subprocess.run(run, cwd=self.folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        status, *numbers = np.fromfile(self.folder / "results")
        split = max(n, 0) * self.d
        return (
            int(status),
            np.reshape(numbers[:split], (-1, self.d)),
            np.array(numbers[split:]),
            done.stdout.strip(),
        )

    def verify(self):
        return self.call("verify")[0]

    def sample(self, n, seed, first=0):
        return self._results("sample", n, seed, first)

    def to_latent(self, x):
        return self._results("to_latent", len(x), points=x)

    def from_latent(self, z):
        return self._results("from_latent", len(z), points=z)

    def log_prob(self, x):
        return self._results("log_prob", len(x), points=x)[1]

    def _results(self, *arguments, **options):
        status, points, log_q, words = self.call(*arguments, **options)
        assert (status, words) == (0, "all is well")
        return points, log_q

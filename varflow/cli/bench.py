"""The command `varflow bench`."""

import argparse

from varflow.cli.options import Parser, add_architecture, add_command, add_machine, flow_options
from varflow.cli.output import print_json
from varflow.cli.talk import progress_of
from varflow.cli.values import whole
from varflow.flow.flow import Flow
from varflow.training.benchmark import benchmark, step_parts

__all__ = ["add_bench"]


def add_bench(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the parser of `varflow bench`."""
    parser = add_command(
        commands,
        "bench",
        _bench,
        "time a training step and a sampling call on this machine",
        "varflow bench --dim 8 --batch 10000 --d-hidden 64 --n-hidden 3 --n-bins 10 --json",
        quiet="the figures",
    )
    parser.add_argument("--dim", "--d", type=whole, default=8, metavar="N", help="dimensions")
    parser.add_argument("--batch", type=whole, default=10_000, metavar="N", help="points a step")
    add_architecture(parser, sizes=" (default: follows from the number of dimensions)")
    add_machine(parser)
    parser.add_argument("--parts", action="store_true", help="time the parts of a training step instead")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _bench(options: argparse.Namespace) -> None:
    flow = Flow(
        options.dim,
        options.cell,
        **flow_options(options),
        seed=0,
        threads=options.threads,
        backend=options.backend,
    )
    if options.parts:
        _parts(flow, options)
        return
    figures = benchmark(flow, options.batch, progress=progress_of(options))
    if options.json:
        print_json({**flow.architecture.as_dict(), "batch": options.batch, **figures})
        return
    print(f"parameters              {figures['n_params']:>12,}")
    where = "GPU" if figures["backend"] == "cuda" else figures["threads"]
    print(f"threads                 {where:>12}")
    print(f"training step           {figures['step_s'] * 1e3:>12.3f} ms")
    print(f"sampling call           {figures['sample_s'] * 1e3:>12.3f} ms")
    if figures["roofline_share"] is None:
        print(f"training step           {figures['gflop_s']:>12.0f} GFLOP/s")
        return
    print(f"matrix products alone   {figures['roofline_gflop_s']:>12.0f} GFLOP/s")
    share = f"{figures['roofline_share']:.0%} of that"
    print(f"training step           {figures['gflop_s']:>12.0f} GFLOP/s = {share}")


def _parts(flow: Flow, options: argparse.Namespace) -> None:
    seconds = step_parts(flow, options.batch)
    if options.json:
        print_json({**flow.architecture.as_dict(), "batch": options.batch, "parts_s": seconds})
        return
    for name, duration in seconds.items():
        print(f"{name:24}{duration * 1e3:>12.3f} ms{duration / seconds['step']:>8.0%}")

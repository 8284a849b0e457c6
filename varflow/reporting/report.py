"""Reports of flows, trainings and integrations."""

from collections.abc import Sequence

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.integration.result import Result, result_tables
from varflow.markup import paragraph
from varflow.reporting.of_flow import data_section, density_section, figures_section, points_sections
from varflow.reporting.origin import Origin, origin_sections
from varflow.reporting.page import Section, page, scrollable
from varflow.reporting.pictures import check_drawable, of_one_style, picture
from varflow.reporting.verdict import share_lost, verdict_of_flow, verdict_of_result
from varflow.runtime.archive import FilePath, atomic_path, check_writable
from varflow.training.evaluation import Evaluation, evaluate
from varflow.training.log_weights import LogWeights
from varflow.training.record import TrainingRecord, record_table
from varflow.training.train import Training

__all__ = ["check_report", "report", "write_report"]

Contents = tuple[str, Sequence[str], list[Section]]  # verdict, warnings and sections

MAX_RECORDS = 4  # that are drawn
NO_HELD_OUT = (
    "Each of the flows holds out other points, so that there are none that the mixture has not learnt from: "
    "with a share of the points held out from all (test=0.1, --holdout 0.1), or on other points (varflow "
    "report FLOW DATA), there are pictures of its weights."
)


def report(
    path: FilePath,
    made: Flow | Mixture | Training | Result,
    data: Dataset | None = None,
    *,
    labels: Sequence[str] | None = None,
) -> None:
    """Write a report: one page of HTML, with what was found in words, pictures, tables and warnings.

    The page needs no network and no script, and can be printed.

    Parameters
    ----------
    path : str or path
        The file. An existing one is replaced once the new one is complete.
    made : Flow, Mixture, Training or Result
        What it is about.
    data : Dataset, optional
        For a flow or a mixture: at least two points that it has not learnt from, with its bounds. Trainings
        have points that they have held out, and results need none.
    labels : sequence of str, optional
        Names and units of the coordinates of points.

    Raises
    ------
    ImportError
        If Matplotlib or the package `corner` is not installed: the extra `plot`.
    OSError
        If the file cannot be written.
    TypeError
        If `made` is nothing of the above, or `data` is missing, or given where it is not needed.
    ValueError
        If there are fewer than two points, f is zero at all of them, they do not have the dimension d and the
        bounds of the flow, or labels are not one for each coordinate.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> learnt, others = data.split(0.5)
    >>> training = vf.train(learnt, seed=1, n_epochs=10)
    >>> vf.report("training.html", training)
    >>> vf.report("flow.html", training.flow, others)
    >>> vf.report("integral.html", vf.integrate(lambda x: x[:, 0] * x[:, 1], 2, n_calls=1000))
    """
    check_report(path)
    write_report(path, "varflow report", made, data, labels, Origin())


def check_report(path: FilePath) -> None:
    """See that a report can be written, before hours are spent on what it is about; see `report`."""
    check_drawable()
    check_writable(path)


def write_report(
    path: FilePath,
    title: str,
    made: Flow | Mixture | Training | Result,
    data: Dataset | None,
    labels: Sequence[str] | None,
    origin: Origin,
) -> None:
    """Write a report with a title, and what led to it; see `report`."""
    with of_one_style():
        verdict, warnings, sections = _contents(made, data, labels)
    sections += origin_sections(origin, _digests(made, data))
    content = page(title, verdict, warnings, sections).encode("utf-8")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _contents(
    made: Flow | Mixture | Training | Result, data: Dataset | None, labels: Sequence[str] | None
) -> Contents:
    """Give the verdict, the warnings, and the sections."""
    if isinstance(made, Result | Training):
        if data is not None:
            raise TypeError(
                f"data is for a flow or a mixture, and this is a {type(made).__name__}: leave it out"
            )
        return _of_result(made) if isinstance(made, Result) else _of_training(made, labels)
    if not isinstance(made, Flow | Mixture):
        raise TypeError(f"made must be a Flow, Mixture, Training or Result, got {type(made).__name__}")
    if not isinstance(data, Dataset):
        raise TypeError(f"data must be a Dataset for a flow to be measured on, got {type(data).__name__}")
    return _of_flow(made, data, evaluate(made, data), labels)


def _of_flow(
    flow: Flow | Mixture, data: Dataset, found: Evaluation, labels: Sequence[str] | None
) -> Contents:
    names = [f"x{dim + 1}" for dim in range(data.d)] if labels is None else list(labels)
    if len(names) != data.d:
        raise ValueError(f"labels must be one for each of {data.d} coordinates, got {len(names)}")
    verdict = verdict_of_flow(found, share_lost(LogWeights.of(flow, data)))
    return (
        verdict,
        found.warnings,
        [
            figures_section(found),
            *points_sections(flow, data, found, names),
            data_section(data),
            density_section(flow),
        ],
    )


def _of_training(training: Training, labels: Sequence[str] | None) -> Contents:
    flow, data, found = training.flow, training.held_out, training.evaluation
    if data is None:
        verdict = verdict_of_flow(found, None)
        pictures = Section("Pictures", paragraph(NO_HELD_OUT))
        sections = [figures_section(found), pictures, density_section(flow)]
    else:
        verdict, _, sections = _of_flow(flow, data, found, labels)
    return verdict, training.warnings, [*sections, _records_section(training.records)]


def _records_section(records: Sequence[TrainingRecord]) -> Section:
    """Draw what trainings did, the first few of many."""
    parts = []
    for k, record in enumerate(records[:MAX_RECORDS], 1):
        of_which = f" of flow {k}" if len(records) > 1 else ""
        best = "no epoch" if record.best_epoch is None else f"epoch {record.best_epoch}"
        parts.append(
            picture(
                record.plot(),
                f"Loss, learning rate and gradient{of_which}, step by step. Dashed: returns to a good state.",
                f"Curves{of_which} over {record.step:,} steps. The loss on held-out points was smallest "
                f"after {best} of {record.epoch}; there were {record.n_reloads} returns to a good state.",
            )
        )
        parts.append(scrollable(f"The training{of_which} in numbers", record_table(record)))
    if len(records) > MAX_RECORDS:
        parts.append(paragraph(f"{len(records) - MAX_RECORDS} more flows were trained."))
    return Section("The training", "".join(parts))


def _of_result(result: Result) -> Contents:
    stages = ", ".join(dict.fromkeys(iteration.stage for iteration in result.history))
    drawn = picture(
        result.plot(),
        "Estimates of the iterations with their errors, and the band of the result; the tail of the weights, "
        "dashed: the Pareto distribution that fits it; the effective sample size; calls and seconds.",
        f"Four panels over {len(result.history)} iterations of the stages {stages}: the estimates, the share "
        f"of points with a larger weight, the effective sample size, which is {result.ess:.1%} of the points "
        f"that count, and {result.n_calls:,} calls of the function by stage.",
    )
    return (
        verdict_of_result(result),
        result.warnings,
        [
            Section("Pictures", drawn),
            Section(
                "The integral", scrollable("The integral, its iterations and its box", result_tables(result))
            ),
            density_section(result.flow),
        ],
    )


def _digests(made: Flow | Mixture | Training | Result, data: Dataset | None) -> dict[str, str]:
    """Sums of the flow's parameters and of the points."""
    if isinstance(made, Training):
        data = made.held_out
    flow = made if isinstance(made, Flow | Mixture) else made.flow
    of_points = {} if data is None else {"points that it was measured on": data.digest()}
    return {"parameters of the flow": flow.params_digest(), **of_points}

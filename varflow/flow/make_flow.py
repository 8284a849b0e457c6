"""Creation of a flow by the name of its cell, as trainers and integrators accept it."""

from typing import Any

from varflow.flow.flow import Flow

__all__ = ["make_flow"]


def make_flow(
    d: int, flow: str | Flow, flow_options: dict[str, Any] | None, backend: str | None, **defaults: Any
) -> Flow:
    """Make a flow from the name of its cell, or check one that is given.

    Parameters
    ----------
    d : int
        Number of dimensions that it must have.
    flow : str or Flow
        Name of a cell, or a flow.
    flow_options : dict or None
        Arguments of `Flow` besides d and cell.
    backend : str or None
        Backend of a flow that is made.
    **defaults
        Arguments of `Flow` where `flow_options` has none.

    Returns
    -------
    Flow
        A new flow, or the one that was given.

    Raises
    ------
    TypeError, ValueError
        If `flow` is neither, has another d, or is given with options for one that would be made here.
    """
    if isinstance(flow, str):
        where = {} if backend is None else {"backend": backend}
        return Flow(d, flow, **{**defaults, **(flow_options or {}), **where})
    if not isinstance(flow, Flow):
        raise TypeError(f"flow must be the name of a cell or a Flow, got {flow!r}")
    if flow_options is not None or backend is not None:
        given = "flow_options are" if flow_options is not None else "backend is"
        raise TypeError(f"{given} for a flow that is made here, but flow is one already")
    if flow.d != d:
        raise ValueError(f"d is {d}, but the flow has d = {flow.d}")
    return flow

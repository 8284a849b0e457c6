"""Workers behind a function that is called like `map`."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from varflow.integration.components import FloatArray, count_rows
from varflow.integration.workers.pool import Outcome, Pool
from varflow.integration.workers.task import Function, Reply, evaluate_task
from varflow.runtime.threads import default_threads

__all__ = ["MapPool"]


class MapPool(Pool):
    """Workers behind ``workers(function, iterable)``, which gives results in order.

    Parameters
    ----------
    f, vectorized
        See `Pool`.
    workers : callable
        The function.
    """

    def __init__(
        self, f: Callable[..., Any], vectorized: bool, workers: Callable[..., Iterable[Any]]
    ) -> None:
        super().__init__(f, vectorized)
        self._map, self._is_sent = workers, False

    def count(self) -> int:  # noqa: D102
        return default_threads()

    def evaluate_tasks(self, tasks: list[FloatArray]) -> Outcome:  # noqa: D102
        by_key, whole = self.functions
        outcome = self._mapped(by_key if self._is_sent else whole, tasks)
        lacking = [k for k, reply in enumerate(outcome.replies) if reply is None]
        if lacking and outcome.error is None:  # f had not arrived where these went
            again = self._mapped(whole, [tasks[k] for k in lacking])
            outcome.error = again.error
            for k, reply in zip(lacking, again.replies, strict=True):
                outcome.replies[k] = reply
        self._is_sent = True
        return outcome

    def _mapped(self, function: Function, tasks: list[FloatArray]) -> Outcome:
        replies: list[Reply | None] = []
        try:
            for reply in self._results(function, tasks):
                if not isinstance(reply, Reply | None):
                    raise TypeError(
                        "workers must give results, as map does, found an object of type "
                        f"{type(reply).__name__}"
                    )
                replies.append(reply)
                self.told(sum(map(len, tasks[: len(replies)])))
        except Exception as error:
            if not replies:
                raise
            return Outcome(tasks, [*replies, *[None] * (len(tasks) - len(replies))], error)
        if len(replies) != len(tasks):
            n_back = sum(count_rows(part) for reply in replies if reply is not None for part in reply.values)
            raise ValueError(
                f"workers must return a result for each item: {n_back} of {sum(map(len, tasks))} points came "
                "back"
            )
        return Outcome(tasks, replies)

    def _results(self, function: Function, tasks: list[FloatArray]) -> Iterable[Any]:
        results = self._map(partial(evaluate_task, function), tasks)
        if not isinstance(results, Iterable):
            found = type(results).__name__
            raise TypeError(f"workers must return an iterable, as map does, found an object of type {found}")
        return results

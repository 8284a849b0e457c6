"""Making of the engine of an integral with channels."""

from dataclasses import replace
from typing import Any

import numpy as np

from varflow.flow.flow import Flow
from varflow.integration.channel import Channel, channels_of
from varflow.integration.channel_domain import ChannelDomain
from varflow.integration.channel_engine import ChannelEngine
from varflow.integration.channel_learning import Learned, WeightNetwork
from varflow.integration.channel_state import Part
from varflow.integration.channel_weights import Balance, ChannelWeights, Given
from varflow.integration.domain import Domain
from varflow.integration.make_engine import make_engine
from varflow.integration.settings import SurveySettings
from varflow.runtime.communicator import ALONE, Communicator
from varflow.training.settings import TrainingSettings
from varflow.validation import check_name

__all__ = ["channel_domain", "make_channel_engine"]


def channel_domain(domain: Domain, channels: object, channel_weights: object) -> ChannelDomain:
    """Check channels and weights that a user has given, and make the box that has them.

    Raises
    ------
    TypeError, ValueError
        If they are refused.
    """
    if domain.discrete:
        raise ValueError(
            "channels are maps of intervals, and these bounds have Discrete among them: leave channels "
            "out, or sum over the states in f"
        )
    made = channels_of(channels, domain)
    return ChannelDomain(domain, made, _weights(made, channel_weights, domain))


def _weights(channels: list[Channel], given: object, domain: Domain) -> ChannelWeights:
    if isinstance(given, str | None):
        check_name("channel_weights", given or "learned", ("balance", "learned"))
        balance = Balance(channels)
        if given == "balance" or len(channels) == 1:
            return balance
        return Learned(balance, domain, WeightNetwork(domain.d, len(channels)), given == "learned")
    if not callable(given):
        raise TypeError(
            f'channel_weights must be "balance", "learned" or a function of x (n, d), got {given!r}'
        )
    return Given(given, len(channels))


def make_channel_engine(
    domain: ChannelDomain,
    settings: SurveySettings,
    training: TrainingSettings,
    flow: str | Flow,
    flow_options: dict[str, Any] | None,
    threads: int | None,
    backend: str | None,
    is_log: bool,
    comm: Communicator = ALONE,
) -> ChannelEngine:
    """Make an engine that has nothing to do yet, with a flow for each channel or group of them.

    Parameters
    ----------
    domain : ChannelDomain
        The box, with the channels.
    settings, training, flow, flow_options, threads, backend, is_log, comm
        As `make_engine` has them; each flow has a seed that follows from the one that is given.

    Raises
    ------
    ValueError
        If the survey is not by replay.
    """
    if settings.survey_strategy != "replay":
        raise ValueError(
            f"channels need survey_strategy='replay', got {settings.survey_strategy!r}: leave one of them out"
        )
    entropy = comm.first(lambda: np.random.SeedSequence(settings.seed).generate_state(4).tolist())
    cube = Domain(domain.d)
    parts = []
    for k, channels in enumerate(_groups(domain.channels)):
        seed = int(np.random.SeedSequence([*entropy, k]).generate_state(1, np.uint64)[0] >> 1)
        # Budgets depend on values of the surveys, and on no clock.
        own = replace(settings, seed=seed, use_survey=False, deterministic=True)
        options = None if flow_options is None else dict(flow_options)
        engine = make_engine(cube, own, training, flow, options, None, threads, backend, is_log, comm)
        parts.append(Part(engine, channels))
    return ChannelEngine(parts, domain)


def _groups(channels: Any) -> list[list[int]]:
    """Numbers of the channels that have the same flow, in the order in which groups begin."""
    groups: dict[object, list[int]] = {}
    for k, channel in enumerate(channels):
        groups.setdefault(k if channel.group is None else channel.group, []).append(k)
    return list(groups.values())

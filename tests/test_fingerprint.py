"""Fingerprints tell apart what would give a run other results, and nothing else."""

import random

import numpy as np
import pytest

from varflow.runtime.fingerprint import fingerprint

SCALE = 2.0


def helper(x):
    return x + SCALE


def reads_a_global(x):
    return np.exp(helper(x))


class Base:
    def value(self, x):
        return x


class Prior(Base):
    width = 1.0

    def __init__(self, tilt):
        self.tilt = tilt

    @property
    def half(self):
        return self.tilt / 2


class Drawing(random.Random):
    pass


def adds(number):
    return lambda x: x + number


@pytest.mark.parametrize(
    "make",
    [
        lambda: adds(1),
        lambda: reads_a_global,
        lambda: Prior(np.arange(3.0)),
        lambda: [1, {"a": (2.5, None)}, b"3", {4}],
        lambda: Drawing(1),
        lambda: np.random.default_rng(1),
        lambda: Prior(1).value,
        lambda: np.log,
        lambda: len,
    ],
)
def test_alike_are_known_again(make):
    assert fingerprint(make()) == fingerprint(make())


def test_different_values_differ():
    values = [
        *(1, 1.0, "1", True, None, [1], (1,), {1: 1}, [[1]]),
        *(np.ones(1), np.ones(1, int), np.ones((1, 1)), np.log, np.exp, len, max),
        *(adds(1), adds(2), Prior(1), Prior(2), Prior(1).value, Prior(2).value, Drawing(1), Drawing(2)),
    ]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_what_a_function_reads_counts(monkeypatch):
    before = fingerprint(reads_a_global)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert fingerprint(reads_a_global) != before


@pytest.mark.parametrize(
    ("owner", "name", "member"),
    [
        (Prior, "width", 2.0),
        (Base, "value", lambda self, x: x + 1),
        (Prior, "half", property(lambda self: self.tilt / 3)),
    ],
)
def test_what_a_class_and_its_bases_define_counts(monkeypatch, owner, name, member):
    before = fingerprint(Prior(1))
    monkeypatch.setattr(owner, name, member)
    assert fingerprint(Prior(1)) != before


def test_a_value_that_is_part_of_itself_has_one():
    value = [1]
    value.append(value)
    assert fingerprint(value) != fingerprint([1])


def test_what_cannot_be_known_is_refused():
    with open(__file__) as file, pytest.raises(TypeError, match="cannot be known again by another run"):
        fingerprint(file)

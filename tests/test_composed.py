"""Sums of products of peaks, ridges, steps, powers and waves, cut and rotated, whose integral is known.

Terms that many points meet must be found, or warned of.
"""

import math
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from strategies import percent_of_examples, seeds

import varflow as vf

N_CALLS = 60_000
LEAST = 20 / N_CALLS  # share of the cube that a term fills, to be seen
WIDEST = 0.08  # standard deviation of a peak in the middle of which nothing is beyond the borders
MOST, MOST_WARNED = 5, 10  # errors by which a result may be off
GRID = (np.arange(20_000) + 0.5) / 20_000


@dataclass
class Term:
    """A function on the unit cube of d dimensions.

    f takes points (n, d) to values (n,). volume: (∫ f)^2 / ∫ f^2, the share of the cube that it fills.
    """

    f: object
    integral: float
    volume: float
    d: int


def gaussian(middle, width, x):
    return np.exp(-0.5 * ((x - middle) / width) ** 2)


def resonance(middle, width, x):
    return width**2 / ((x - middle) ** 2 + width**2)


def exponential(rate, x):
    return np.exp(rate * x)


def step(begin, width, x):
    return ((x > begin) & (x < begin + width)) * 1.0


def power(exponent, x):
    return x**exponent


def falling_power(exponent, x):
    return (1 - x) ** exponent


def wave(n, size, x):
    return 1 + size * np.sin(2 * math.pi * n * x)


def integral_of(factor):
    """Integral over [0, 1] of a factor, by its name and parameters."""
    name, parameters = factor.func, factor.args
    if name is gaussian:
        middle, width = parameters
        ends = (math.erf(end / width / math.sqrt(2)) for end in (1 - middle, middle))
        return width * math.sqrt(math.pi / 2) * sum(ends)
    if name is resonance:
        middle, width = parameters
        return width * (math.atan((1 - middle) / width) + math.atan(middle / width))
    if name is exponential:
        return math.expm1(parameters[0]) / parameters[0]
    if name is step:
        return parameters[1]
    return 1 / (parameters[0] + 1) if name in (power, falling_power) else 1.0


def volume_of(factor):
    """Share of [0, 1] that a factor fills; see `Term`."""
    values = factor(GRID)
    return values.mean() ** 2 / (values**2).mean()


def numbers(low, high):
    return st.floats(low, high, allow_subnormal=False)


def powers_of_ten(low, high):
    return numbers(low, high).map(lambda exponent: 10**exponent)


FLAT = partial(wave, 1, 0.0)
PEAKS = st.one_of(
    st.builds(partial, st.just(gaussian), numbers(0, 1), powers_of_ten(-2.5, -0.5)),
    st.builds(partial, st.just(resonance), numbers(0, 1), powers_of_ten(-3, -1)),
)
FACTORS = st.one_of(
    PEAKS,
    st.builds(partial, st.just(exponential), numbers(0.01, 8) | numbers(-8, -0.01)),
    st.builds(partial, st.just(step), numbers(0, 0.5), numbers(0.02, 0.5)),
    st.builds(partial, st.just(power), numbers(-0.45, 2)),
    st.builds(partial, st.just(falling_power), numbers(-0.45, 2)),
    st.builds(partial, st.just(wave), st.integers(1, 5), numbers(0, 1)),
)


def of_one(factor):
    """A factor of one coordinate."""
    return Term(lambda x: factor(x[:, 0]), integral_of(factor), volume_of(factor), 1)


def cut(factor):
    """The same factor of two coordinates, where the first is the smaller one."""
    return Term(
        lambda x: factor(x[:, 0]) * factor(x[:, 1]) * (x[:, 0] < x[:, 1]),
        integral_of(factor) ** 2 / 2,
        volume_of(factor) ** 2 / 2,
        2,
    )


def ridge(factor):
    """A smooth factor of the mean of two coordinates, whose density is that of a triangle."""
    values, density = factor(GRID), 4 * np.minimum(GRID, 1 - GRID)
    integral = (values * density).mean()
    return Term(
        lambda x: factor((x[:, 0] + x[:, 1]) / 2), integral, integral**2 / (values**2 * density).mean(), 2
    )


@st.composite
def products(draw, d):
    """A product of factors of coordinates or pairs of these; those that left too small a volume are flat."""
    parts, n_left, volume = [], d, 1.0
    while n_left:
        kind = draw(st.sampled_from([of_one, of_one, cut, ridge])) if n_left > 1 else of_one
        factor = draw(PEAKS if kind is ridge else FACTORS)
        part = kind(factor) if volume * kind(factor).volume >= LEAST else of_one(FLAT)
        note(f"{kind.__name__} {factor}, volume {part.volume}")
        parts.append(part)
        n_left, volume = n_left - part.d, volume * part.volume
    ends = np.cumsum([part.d for part in parts])

    def f(x):
        columns = np.split(x, ends[:-1], axis=1)
        return reduce(np.multiply, (part.f(column) for part, column in zip(parts, columns, strict=True)))

    return Term(f, math.prod(part.integral for part in parts), volume, d)


@st.composite
def rotated_peaks(draw, d):
    """A Gaussian of any axes, so far from the borders that nothing of it is beyond."""
    generator = np.random.default_rng(draw(seeds))
    axes = np.linalg.qr(generator.normal(size=(d, d)))[0]
    middle, of_widest = generator.uniform(0.48, 0.52, d), (math.sqrt(4 * math.pi) * WIDEST) ** d
    volume = of_widest * (LEAST / of_widest) ** generator.random()
    widths = WIDEST * (volume / of_widest) ** generator.dirichlet(np.ones(d))

    def f(x):
        return np.exp(-0.5 * np.sum(((x - middle) @ axes / widths) ** 2, axis=1))

    note(f"peak at {middle}, widths {widths}, axes {axes.tolist()}")
    return Term(f, (2 * math.pi) ** (d / 2) * widths.prod(), volume, d)


@st.composite
def compositions(draw, d, n_terms):
    """Terms of comparable integral, some negative, in any unit. Gives f and its integral."""
    terms = [draw(products(d) | rotated_peaks(d)) for _ in range(n_terms)]
    integrals = [1.0] + [draw(numbers(-2, 2).map(math.exp)) for _ in terms[1:]]
    signs = [1.0] + [draw(st.sampled_from([1.0] * 6 + [-0.3])) for _ in terms[1:]]
    unit = draw(powers_of_ten(-20, 20))
    note(f"integrals {integrals}, signs {signs}, unit {unit}")
    scales = [
        unit * sign * integral / term.integral
        for sign, integral, term in zip(signs, integrals, terms, strict=True)
    ]

    def f(x):
        return sum(scale * term.f(x) for scale, term in zip(scales, terms, strict=True))

    return f, unit * sum(np.multiply(signs, integrals))


def check_found_or_warned_of(f, d, exact):
    result = vf.integrate(f, d, n_calls=N_CALLS, seed=1)
    most = MOST_WARNED if result.warnings else MOST
    assert abs(result.mean - exact) <= most * result.sdev + 1e-9 * abs(exact), str(result)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("n_terms", [1, 2, 3])
@percent_of_examples(3)  # more than 1000 in all of the nightly profile
@given(data=st.data())
def test_what_can_be_seen_is_found_or_warned_of(d, n_terms, data):
    f, exact = data.draw(compositions(d, n_terms))
    check_found_or_warned_of(f, d, exact)


@settings(max_examples=2, derandomize=True, database=None)  # each takes seconds
@given(composition=compositions(2, 2))
def test_a_few_are_found_or_warned_of(composition):
    f, exact = composition
    check_found_or_warned_of(f, 2, exact)


@pytest.mark.parametrize("d", [1, 3])
@given(data=st.data(), seed=seeds)
def test_integrals_are_those_of_the_terms(d, data, seed):
    term = data.draw(products(d) | rotated_peaks(d))
    assume(term.volume > 0.01)
    values = term.f(np.random.default_rng(seed).random((100_000, d)))
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - term.integral) < 6 * error + 1e-9 * term.integral

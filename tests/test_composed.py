"""Sums of products of peaks, steps, powers and waves, cut, sheared and rotated, whose integral is known.

Terms that many points meet must be found, or warned of.
"""

import math
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import percent_of_examples, seeds

import varflow as vf

N_CALLS = 60_000
HITS = 20  # points of all calls that a term fills at least, to be seen
MOST, MOST_WARNED = 5, 10  # errors by which a result may be off
GRID = (np.arange(20_000) + 0.5) / 20_000


@dataclass
class Term:
    """A function on the unit cube.

    f takes points (n, d) to values (n,). volume: (∫ f)^2 / ∫ f^2, the share of the cube that it fills.
    """

    f: object
    integral: float
    volume: float


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


def numbers(low, high):
    return st.floats(low, high, allow_subnormal=False)


def powers_of_ten(low, high):
    return numbers(low, high).map(lambda exponent: 10**exponent)


FACTORS = st.one_of(
    st.builds(partial, st.just(gaussian), numbers(0, 1), powers_of_ten(-2.5, -0.5)),
    st.builds(partial, st.just(resonance), numbers(0, 1), powers_of_ten(-3, -1)),
    st.builds(partial, st.just(exponential), numbers(0.01, 8) | numbers(-8, -0.01)),
    st.builds(partial, st.just(step), numbers(0, 0.5), numbers(0.02, 0.5)),
    st.builds(partial, st.just(power), numbers(-0.45, 2)),
    st.builds(partial, st.just(falling_power), numbers(-0.45, 2)),
    st.builds(partial, st.just(wave), st.integers(1, 5), numbers(0, 1)),
)


@st.composite
def products(draw, d):
    """A product of factors, sheared: the first coordinate plus multiples of the others, modulo 1.

    That keeps the integral. It may be cut where the first two coordinates, of equal factors, are in order.
    """
    factors = [draw(FACTORS) for _ in range(d)]
    is_cut = d > 1 and draw(st.booleans())
    if is_cut:
        factors[1] = factors[0]
    multiples = np.array([1, *(draw(st.sampled_from([0, 0, 0, 1, -1, 2])) for _ in range(d - 1))])

    def f(x):
        y = x.copy()
        y[:, 0] = (x @ multiples) % 1 if multiples[1:].any() else x[:, 0]
        values = reduce(np.multiply, (factor(column) for factor, column in zip(factors, y.T, strict=True)))
        return values * (y[:, 0] < y[:, 1]) if is_cut else values

    share = 0.5 if is_cut else 1.0
    on_grid = [factor(GRID) for factor in factors]
    volume = share * math.prod(values.mean() ** 2 / (values**2).mean() for values in on_grid)
    return Term(f, share * math.prod(map(integral_of, factors)), volume)


@st.composite
def rotated_peaks(draw, d):
    """A Gaussian of any axes, so far from the borders that nothing of it is beyond."""
    generator = np.random.default_rng(draw(seeds))
    axes = np.linalg.qr(generator.normal(size=(d, d)))[0]
    middle, widths = generator.uniform(0.4, 0.6, d), 10 ** generator.uniform(-2.2, -1.3, d)
    volume = (4 * math.pi) ** (d / 2) * widths.prod()

    def f(x):
        return np.exp(-0.5 * np.sum(((x - middle) @ axes / widths) ** 2, axis=1))

    return Term(f, (2 * math.pi) ** (d / 2) * widths.prod(), volume)


@st.composite
def compositions(draw, d, n_terms):
    """Terms of comparable integral, some negative, in any unit. Gives f and its integral."""
    terms = [draw(products(d) | rotated_peaks(d)) for _ in range(n_terms)]
    assume(min(term.volume for term in terms) >= HITS / N_CALLS)
    integrals = [1.0] + [draw(numbers(-2, 2).map(math.exp)) for _ in terms[1:]]
    signs = [1.0] + [draw(st.sampled_from([1.0] * 6 + [-0.3])) for _ in terms[1:]]
    unit = draw(powers_of_ten(-20, 20))
    scales = [
        unit * sign * integral / term.integral
        for sign, integral, term in zip(signs, integrals, terms, strict=True)
    ]

    def f(x):
        return sum(scale * term.f(x) for scale, term in zip(scales, terms, strict=True))

    return f, unit * sum(np.multiply(signs, integrals))


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("n_terms", [1, 2, 3])
@percent_of_examples(3)  # more than 1000 in all of the nightly profile
@given(data=st.data())
def test_what_can_be_seen_is_found_or_warned_of(d, n_terms, data):
    f, exact = data.draw(compositions(d, n_terms))
    result = vf.integrate(f, d, n_calls=N_CALLS, seed=1)
    most = MOST_WARNED if result.warnings else MOST
    assert abs(result.mean - exact) <= most * result.sdev + 1e-9 * abs(exact), str(result)


@pytest.mark.parametrize("d", [1, 3])
@given(data=st.data(), seed=seeds)
def test_integrals_are_those_of_the_terms(d, data, seed):
    term = data.draw(products(d) | rotated_peaks(d))
    assume(term.volume > 0.01)
    values = term.f(np.random.default_rng(seed).random((100_000, d)))
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - term.integral) < 6 * error + 1e-9 * term.integral

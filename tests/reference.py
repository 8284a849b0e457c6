"""The public names of varflow, their members, and the examples in their docstrings."""

import doctest
import functools
import inspect
import io
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

import varflow
import varflow.plots
import varflow.testing

ON_GPU = ("varflow.Flow.device", "varflow.Flow.sample_blocks_on_device", "varflow.device_integrand")
MODULES = (varflow, varflow.plots, varflow.testing)
NAMES_IN_EXAMPLES = {"np": np, "vf": varflow}  # as the docstring of the package says
VOID_ELEMENTS = ("br", "hr", "img", "input", "link", "meta", "wbr")  # of HTML, which are never closed
NORMAL = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def public_objects() -> dict[str, Any]:
    """Functions and classes that users import, by their full names."""
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in MODULES
        for name in module.__all__
        if not name.startswith("__")
    }


def members(owner: Any) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, inherited ones included, as functions; none of a function."""
    for name in dir(owner) if inspect.isclass(owner) else ():
        function = _function_of(inspect.getattr_static(owner, name))
        if not name.startswith("_") and function is not None and function.__module__.startswith("varflow"):
            yield name, function


def _function_of(member: Any) -> Any:
    """The function behind a method or a property; None of anything else."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    function = getattr(member, "__func__", member)
    return function if inspect.isfunction(function) else None


def examples() -> dict[str, doctest.DocTest]:
    """The examples of modules, names and members, each docstring once: where a class inherits it from."""
    documented: dict[str, Any] = {module.__name__: module for module in MODULES}
    for name, one in sorted(public_objects().items(), key=lambda item: _n_ancestors(item[1])):
        documented[name] = one
        documented |= {f"{name}.{member}": function for member, function in members(one)}
    parser, found, seen = doctest.DocTestParser(), {}, set()
    for name, one in documented.items():
        text = inspect.getdoc(one) or ""
        test = parser.get_doctest(text, dict(NAMES_IN_EXAMPLES), name, None, None)
        if test.examples and id(one) not in seen:
            found[name] = test
        seen.add(id(one))
    return found


def _n_ancestors(one: Any) -> int:
    """Number of classes that a class inherits from; 0 for a function."""
    return len(inspect.getmro(one)) if inspect.isclass(one) else 0


def failures(test: doctest.DocTest) -> str:
    """Run examples; what is told of those that do not give what they show."""
    report = io.StringIO()
    doctest.DocTestRunner(optionflags=NORMAL).run(test, out=report.write)
    return report.getvalue()


def examples_of(one: Any) -> str:
    """The code of the examples in a docstring."""
    code = (example.source for example in doctest.DocTestParser().get_examples(inspect.getdoc(one) or ""))
    return "".join(code)


class Page(HTMLParser):
    """A page of the reference.

    Attributes
    ----------
    source : str
        All of it.
    texts : dict of str
        Text of the elements that have an id, by that.
    links : set of str
        Where its links lead.
    unlinked_code : set of str
        What is set as code, and is no link.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.texts: dict[str, str] = {}
        self.links: set[str] = set()
        self.unlinked_code: set[str] = set()
        self._open: list[tuple[str, str | None]] = []  # elements: tag, and id if they have one
        self.feed(source)

    @classmethod
    def of(cls, path: Path) -> "Page":
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "a" and named.get("href"):
            self.links.add(str(named["href"]))
        if named.get("id"):
            self.texts[str(named["id"])] = ""
        if tag not in VOID_ELEMENTS:
            self._open.append((tag, named.get("id")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, name in self._open:
            if name is not None:
                self.texts[name] += data
        if self._open and self._open[-1][0] == "code":
            self.unlinked_code.add(data)

"""The API reference: examples run, numpydoc finds nothing missing, and pdoc builds it as the README says."""

import inspect
import os
import posixpath
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from reference import MODULES, ON_GPU, Page, examples, examples_of, failures, members, public_objects

ROOT = Path(__file__).parent.parent
NEEDED = {"varflow.Result.to_frame": "pandas", "varflow.Result.to_gvar": "gvar"}
EXAMPLES = {name: test for name, test in examples().items() if name not in ON_GPU}
PUBLIC = public_objects()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings(name, tmp_path, monkeypatch):
    """They give what they show; files that they write are in a folder of their own."""
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    monkeypatch.chdir(tmp_path)
    assert failures(EXAMPLES[name]) == ""


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_has_an_example(name):
    """So has each method and each property: one of its own, or one of its class or a base of that."""
    one = PUBLIC[name]
    bases = one.__mro__ if inspect.isclass(one) else [one]
    shown = "".join(examples_of(base) for base in bases if base.__module__.startswith("varflow"))
    assert examples_of(one)
    lacking = {
        member for member, function in members(one) if not _is_used(member, shown + examples_of(function))
    }
    assert lacking == set()


def _is_used(name: str, code: str) -> bool:
    return re.search(rf"\b{name}\b", code) is not None


@pytest.mark.programs
def test_docstrings_have_what_numpydoc_asks_for():
    """All but what pyproject.toml leaves out; examples of members may stand in the docstring of the class."""
    pytest.importorskip("numpydoc", reason="the extra docs is not installed")
    from numpydoc.hooks.validate_docstrings import parse_config
    from numpydoc.validate import get_validation_checks, validate

    checks = get_validation_checks(parse_config(ROOT)["checks"])
    of_members = checks - {"EX01"}
    wanted = dict.fromkeys(PUBLIC, checks)
    wanted |= {f"{name}.{member}": of_members for name, one in PUBLIC.items() for member, _ in members(one)}
    found = {
        f"{name}: {text}"
        for name, codes in wanted.items()
        for code, text in validate(name)["errors"]
        if code in codes
    }
    assert found == set()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages that the README's command makes, by their path; warnings are errors."""
    pytest.importorskip("pdoc", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("reference")
    (command,) = re.findall(r"^pdoc .*", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    line = command.replace("pdoc", sysconfig.get_path("scripts") + "/pdoc", 1)
    done = subprocess.run(
        line.replace("-o reference", f"-o {folder}"), shell=True, cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return {path.relative_to(folder).as_posix(): Page.of(path) for path in folder.rglob("*.html")}


@pytest.mark.programs
class TestPages:
    def test_one_for_each_module(self, pages):
        assert set(pages) == {"index.html"} | {_page_of(module.__name__) for module in MODULES}

    def test_each_public_name_is_there(self, pages):
        """With what it takes, and with the summary of its docstring."""
        for name, one in PUBLIC.items():
            module, _, short = name.rpartition(".")
            page = pages[_page_of(module)]
            _assert_told(page, short, one)
            for member, function in members(one):
                if f"{short}.{member}" in page.texts:
                    _assert_told(page, f"{short}.{member}", function)
                else:  # inherited from a class that is public, too
                    assert f"#{function.__qualname__}" in page.links

    def test_links_lead_somewhere(self, pages):
        for place, page in pages.items():
            for link in page.links:
                path, _, anchor = link.partition("#")
                if not path.startswith("https://pdoc.dev"):
                    target = (
                        posixpath.normpath(f"{posixpath.dirname(place)}/{path}".strip("/")) if path else place
                    )
                    assert anchor in {"", *pages[target].texts}, f"{place} has a link to {link}"

    def test_public_names_in_texts_are_links(self, pages):
        for page in pages.values():
            assert not {code for code in page.unlinked_code if code in PUBLIC or f"varflow.{code}" in PUBLIC}
            assert not [code for code in page.unlinked_code if re.match(r"varflow\.\w", code)]

    def test_nothing_private_and_nothing_of_the_machine(self, pages):
        for page in pages.values():
            assert not [name for name in page.texts if re.search(r"\b_(?!_)", name)]
            assert not re.search(rf"{ROOT}|{Path.home()}|\bat 0x[0-9a-f]+", page.source)


def _page_of(module: str) -> str:
    return module.replace(".", "/") + ".html"


def _assert_told(page: Page, name: str, one: Any) -> None:
    """Check that a page has a section of that name, with the arguments and the summary."""
    text = page.texts[name] + page.texts.get(f"{name}.__init__", "")
    summary = (inspect.getdoc(one) or "").partition("\n\n")[0]
    assert " ".join(summary.replace("`", "").split()) in " ".join(text.split()), name
    assert all(_is_used(argument, text) for argument in _arguments(one)), name


def _arguments(one: Any) -> set[str]:
    """Names of the arguments of a function, or of those that make an object."""
    if inspect.isclass(one) and issubclass(one, Exception) and "__init__" not in vars(one):
        return set()  # those of built-in exceptions
    return set(inspect.signature(one).parameters) - {"self"}

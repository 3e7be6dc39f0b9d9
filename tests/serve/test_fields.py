"""What is wrong with a request's fields, as one error."""

from __future__ import annotations

from lavatube.errors import InvalidInput, from_code
from lavatube.serve.fields import InvalidFields, Problem, invalid


def test_the_error_speaks_of_the_first_problem() -> None:
    error = invalid(Problem(name, f"{name} is wrong.", "Mend it.") for name in ("a", "b"))
    assert (error.param, error.sentence) == ("a", "a is wrong. Mend it.")
    assert [problem.param for problem in error.problems] == ["a", "b"]
    assert invalid([Problem("", "All is wrong.")]).param is None


def test_what_comes_from_another_process_is_none_of_these() -> None:
    error = from_code(InvalidFields.code, "No.", param="a")
    assert type(error) is InvalidInput

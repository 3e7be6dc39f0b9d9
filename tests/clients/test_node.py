"""The runner of scripts itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_scripts_see_pinned_packages_and_report(node: Callable[..., Any]) -> None:
    script = """
        import Replicate from "replicate";
        console.log("something else");
        report({ argv, name: new Replicate().userAgent, variable: process.env.NAME });
    """
    assert node(script, "one", "two", NAME="value") == {
        "argv": ["one", "two"],
        "name": "replicate-javascript/1.4.0",
        "variable": "value",
    }


def test_a_script_that_throws_fails_the_test(node: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match="on purpose"):
        node("throw new Error('on purpose')")

"""A hook of schemathesis: HTTP clients take `.` and `..` out of a URL, and so ask for another operation than is meant.

It leaves out such values by itself, but not those that are alone in a list.
"""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_path_parameters(_: schemathesis.HookContext, path_parameters: dict[str, Any] | None) -> bool:
    return not any(value in ([dots], dots) for value in (path_parameters or {}).values() for dots in (".", ".."))

"""Writes docs/errors.md, the list of all errors, from lavatube/errors.py: `python -m docs.errors`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from lavatube.errors import LavatubeError, OperatorError, RequestError, ServiceError
from lavatube.serve.dialects import openai_status

DOCUMENT = Path(__file__).with_name("errors.md")
INTRODUCTION = """# Errors

Written by `python -m docs.errors` from [`errors.py`](../src/lavatube/errors.py); a test fails when it is out of date.

Every error has a code, which is the same in all APIs and does not change; a message, which says what happened; and what
to do about it. Write programs against the code. The status is that of the API called: OpenAI's routes say 400 to
whatever is wrong with the meaning of a request. **Again** is whether the same request may succeed later; then there is
`Retry-After` with a 429 or 503, and `X-Should-Retry` on OpenAI's routes. What lies behind an error (a path, an address,
a stack) is in the server's log, under the id that the answer has as `X-Request-ID`, and never in the answer.
"""
REQUESTS = "Change the request: sent as it is, it fails again, but where the table says otherwise."
OPERATORS = """\
Whoever starts `lavatube` reads these on the terminal, and who shows a key, in `/startupz` and in the reason of a 503.
`lavatube` ends with exit code 2 for a bad setting and with 1 for the others. A server whose set-up failed, or whose
engine has crashed too often to be started again, stays up to say why, and ends with 1 when it is told to end; with
`--exit-on-failure` it ends at once."""
PARTS: dict[type[LavatubeError], tuple[str, str]] = {
    RequestError: ("The request's", REQUESTS),
    ServiceError: ("The server's", "Nothing is wrong with the request. Try again, or tell the operator."),
    OperatorError: ("The operator's", OPERATORS),
}


def document() -> str:
    """The whole text."""
    return "\n".join([INTRODUCTION, *(line for root in PARTS for line in _part(root))])


def _part(root: type[LavatubeError]) -> Iterator[str]:
    title, text = PARTS[root]
    has_status = root is not OperatorError
    yield from (f"## {title}", "", text, "")
    yield "| code | status | OpenAI | again | meaning |" if has_status else "| code | meaning |"
    yield "| --- | --- | --- | --- | --- |" if has_status else "| --- | --- |"
    for kind in kinds(root):
        status = f" {kind.status} | {openai_status(kind(''))} | {'yes' if kind.is_retryable else ''} |"
        yield f"| `{kind.code}` |{status if has_status else ''} {_meaning(kind)} |"
    yield ""


def kinds(root: type[LavatubeError]) -> Iterator[type[LavatubeError]]:
    """The classes below one, each code once, as they are declared."""
    for kind in root.__subclasses__():
        if "code" in vars(kind):
            yield kind
            yield from kinds(kind)


def _meaning(kind: type[LavatubeError]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")

"""The program that runs a checkpoint's chat template: `python -m lavatube.prompt.template_child`.

The same environment that templates are written for (trimmed blocks, loop controls, `raise_exception`, `tojson`,
`{% generation %}`), immutable and sandboxed; limits on time and memory are the process's own.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from lavatube.prompt.sandbox import serve_frames
from lavatube.prompt.template import NotRendered, Rendered, RenderReply, encoder, request_decoder

MAX_RENDERED_CHARS: Final = 16 * 1024 * 1024
_MAX_REASON_CHARS: Final = 200


class TemplateRefusal(jinja2.TemplateError):
    """What a template says with raise_exception."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here it is just that text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """A namespace without names that Python itself looks for."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        for name in dict(*args, **attributes):
            _check_name(name)
        super().__init__(*args, **attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError("a template's names begin with a letter")


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRefusal(str(message))


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


@functools.cache
def _compile(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.globals.pop("lipsum")
    environment.globals |= {"raise_exception": _raise_exception, "namespace": _PlainNamespace}
    environment.filters["tojson"] = _to_json
    return environment.from_string(source)


def render(body: bytes) -> RenderReply:
    """One conversation; whatever a template does wrong is a reply, not an exception."""
    request = request_decoder.decode(body)
    try:
        text = _compile(request.source).render(
            **request.variables, messages=request.messages, add_generation_prompt=True
        )
    except TemplateRefusal as refusal:
        return NotRendered("".join(filter(str.isprintable, str(refusal)))[:_MAX_REASON_CHARS])
    except Exception:  # noqa: BLE001 - a template is a program: it can fail in every way there is
        return NotRendered("")
    return Rendered(text) if len(text) <= MAX_RENDERED_CHARS else NotRendered("")


if __name__ == "__main__":
    serve_frames(lambda body: encoder.encode(render(body)))

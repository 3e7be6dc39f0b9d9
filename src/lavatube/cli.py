"""`lavatube`: the command line. The one place that prints; each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Final, NoReturn

from lavatube.cache_command import add_cache
from lavatube.errors import InvalidSetting, LavatubeError
from lavatube.flags import MODEL_HELP, PROVISION, Commands, Parser, add_command, image_size, settings_of
from lavatube.keys_command import add_keys
from lavatube.lock_command import add_lock
from lavatube.settings import Settings, options

ENGINE = ("device", "dtype", "quantize", "threads", "kv_cache_mib")


def run() -> NoReturn:
    """The whole of a process: one command, and the end."""
    arguments = parse_arguments()
    code = _run(arguments)
    if arguments.command is _pull and code == 0:
        # All is on the disk, and said. To take the interpreter apart takes a tenth of the time that a warm start does.
        os._exit(0)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    return _run(parse_arguments(argv))


def _run(arguments: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except LavatubeError as error:
        print(f"lavatube: {error.sentence}", file=sys.stderr)
        return 2 if isinstance(error, InvalidSetting) else 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Ends the process with a sentence where they can't be understood."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments: argparse.Namespace
    arguments, unknown = _parser(words[0] if words else "").parse_known_args(words)
    if unknown:
        arguments.parser.refuse_unknown(unknown)
    return arguments


def _parser(word: str) -> Parser:
    """For a command line that begins with this: of a command, that one alone, since each takes its time."""
    parser = Parser(
        "lavatube",
        description="Host a LLaVA model: weights from a CDN, loaded once, answers streamed token by token.",
        epilog="Start with `lavatube serve`; `lavatube COMMAND --help` says more, with examples.",
    )
    parser.set_defaults(command=lambda arguments: _help(parser))
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, add in _COMMANDS.items():
        if name == word or word not in _COMMANDS:
            add(commands)
    return parser


def _add_serve(commands: Commands) -> None:
    serve = add_command(commands, "serve", _serve, "serve a model over HTTP", _SERVE_EXAMPLES)
    serve.add_argument("model", nargs="?", help=MODEL_HELP)
    serve.have_settings(option.name for option in options() if option.name != "model")


def _add_predict(commands: Commands) -> None:
    predict = add_command(commands, "predict", _predict, "ask one question about one picture", _PREDICT_EXAMPLES)
    predict.add_argument("image", help="a file, or an http(s) or data URL")
    predict.add_argument("prompt", help="the question")
    predict.add_argument("--model", help=MODEL_HELP)
    predict.add_argument(
        "--temperature", type=float, metavar="X", default=0.0, help="0 is greedy and repeatable (default: 0)"
    )
    predict.add_argument(
        "--top-p", type=float, metavar="X", default=1.0, help="sample from this share of probability (default: 1)"
    )
    predict.add_argument(
        "--max-tokens", type=int, metavar="N", default=1024, help="most tokens to answer with (default: 1024)"
    )
    predict.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable")
    predict.have_settings((*PROVISION, *ENGINE, "fidelity"))


def _add_pull(commands: Commands) -> None:
    pull = add_command(commands, "pull", _pull, "provision a model's weights into the cache", _PULL_EXAMPLES)
    pull.add_argument("model", nargs="?", help=MODEL_HELP)
    pull.add_argument("--json", action="store_true", help="progress and result as JSON lines")
    pull.add_argument("--stage", action="store_true", help=argparse.SUPPRESS)  # for an engine that begins meanwhile
    pull.have_settings(PROVISION)


def _add_inspect(commands: Commands) -> None:
    inspect = add_command(commands, "inspect", _inspect, "say what a checkpoint is, and why", _INSPECT_EXAMPLES)
    inspect.add_argument("model", nargs="?", help=MODEL_HELP)
    inspect.add_argument("--json", action="store_true", help="the same as JSON")
    inspect.add_argument(
        "--image",
        type=image_size,
        action="append",
        default=[],
        metavar="WxH",
        help="count the tokens of a picture of this size; several are pictures of one prompt",
    )
    inspect.have_settings((*PROVISION, "device", "dtype", "quantize", "kv_cache_mib", "max_sequences", "fidelity"))


_COMMANDS: Final[dict[str, Callable[[Commands], None]]] = {
    "serve": _add_serve,
    "predict": _add_predict,
    "pull": _add_pull,
    "inspect": _add_inspect,
    "lock": add_lock,
    "cache": add_cache,
    "keys": add_keys,
}


class _Version(argparse.Action):
    """Looks the version up when it is asked for: that takes time, and `--help` is to be quick."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from lavatube import __version__

        print(f"lavatube {__version__}")
        parser.exit()


def _help(parser: argparse.ArgumentParser) -> int:
    """What a person gets who says no command."""
    parser.print_help(sys.stderr)
    return 2


_SERVE_EXAMPLES = """examples:
  lavatube serve                                    the embedded model, on http://127.0.0.1:5000
  lavatube serve llava-hf/llava-1.5-7b-hf           a model of the hub
  lavatube serve https://cdn.example.com/llava      a directory with lavatube.lock.json in it
  LAVATUBE_API_KEY=… lavatube serve --host 0.0.0.0  reachable from elsewhere, with a key"""
_PREDICT_EXAMPLES = """examples:
  lavatube predict examples/shapes.png "How many circles are there?"
  lavatube predict cat.jpg "What is it doing?" --model llava-hf/llava-1.5-7b-hf --temperature 0.2"""
_PULL_EXAMPLES = """examples:
  lavatube pull llava-hf/llava-1.5-7b-hf
  lavatube pull https://cdn.example.com/llava --lock lavatube.lock.json"""
_INSPECT_EXAMPLES = """examples:
  lavatube inspect                                  the embedded model
  lavatube inspect ./my-checkpoint --json
  lavatube inspect --image 640x480                  and how many tokens such a picture has"""


def _serve(arguments: argparse.Namespace) -> NoReturn:
    from lavatube.boot import serve

    serve(settings_of(arguments))


def _predict(arguments: argparse.Namespace) -> int:
    from lavatube.predictor import Predictor, read_picture
    from lavatube.prompt.chat import Generation, single_turn
    from lavatube.terminal import progress_bar

    generation = Generation(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
    )
    chat = single_turn(
        arguments.prompt, read_picture(arguments.image)
    )  # before the model: a typo should not cost a load
    with Predictor(**asdict(settings_of(arguments))) as predictor:
        with progress_bar() as on_progress:
            predictor.setup(on_progress)
        pieces = predictor.chat(chat, generation)
        print(next(pieces, "").lstrip(), end="", flush=True)
        for text in pieces:
            print(text, end="", flush=True)
        print()
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    if arguments.json:
        return _pull_json(settings, is_staging=arguments.stage)

    from lavatube.provisioning import provision_options
    from lavatube.terminal import progress_bar, show_provisioned
    from lavatube.weights.provision import provision

    with progress_bar() as on_progress:
        provisioned = provision(settings.model, provision_options(settings), on_progress)
    show_provisioned(provisioned)
    return 0


def _pull_json(settings: Settings, *, is_staging: bool) -> int:
    """Lines of progress, then one with the result or the error: what `lavatube serve` reads of its child."""
    from lavatube.provisioning import provision_options
    from lavatube.weights.provision import provision

    def say(line: object) -> None:
        print(json.dumps(line, default=str), flush=True)

    options = provision_options(settings)
    if is_staging:
        from lavatube.logs import log_to_stderr

        log_to_stderr(settings.log_level, settings.log_format, "weights")  # whoever stages serves, and this is its log
        options = replace(options, on_staged=lambda staged: say({"staged": asdict(staged)}))
    try:
        provisioned = provision(settings.model, options, lambda progress: say(asdict(progress)))
    except LavatubeError as error:
        say({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
        return 1
    say(asdict(provisioned))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from lavatube.geometry import count_image
    from lavatube.inspection import inspect_checkpoint
    from lavatube.provisioning import provision_options
    from lavatube.terminal import progress_bar, show_images, show_spec
    from lavatube.weights.provision import provision

    settings = settings_of(arguments)
    with progress_bar() as on_progress:
        provisioned = provision(settings.model, provision_options(settings), on_progress)
    found = inspect_checkpoint(provisioned.folder, settings)
    images = [count_image(found.spec, size, len(arguments.image)) for size in arguments.image]
    if arguments.json:
        result = {"model": settings.model, "weights": asdict(provisioned), **asdict(found)}
        print(json.dumps(result | {"images": [asdict(image) for image in images]}, default=str))
    else:
        show_spec(settings.model, found.device, provisioned, found.spec, found.memory)
        show_images(images)
    return 0


if __name__ == "__main__":
    run()

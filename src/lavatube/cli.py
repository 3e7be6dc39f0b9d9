"""`lavatube`: the command line. The one place that prints; each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from lavatube.errors import InvalidSetting, LavatubeError
from lavatube.settings import Option, Settings, options, read_settings

PROVISION = ("cache", "lock", "allow_unverified", "hf_endpoint")
ENGINE = ("device", "dtype", "threads", "kv_cache_mib")

MODEL_HELP = "tiny (embedded, the default), a directory, org/name, hf://org/name@revision, https://… or file://…"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lavatube",
        description="Host a LLaVA model: weights from a CDN, loaded once, answers streamed token by token.",
        epilog="Start with `lavatube serve`, then open http://127.0.0.1:5000/. `lavatube COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = _command(commands, "serve", _serve, "serve a model over HTTP", _SERVE_EXAMPLES)
    serve.add_argument("model", nargs="?", help=MODEL_HELP)
    _add_settings(serve, (option.name for option in options() if option.name != "model"))

    predict = _command(commands, "predict", _predict, "ask one question about one picture", _PREDICT_EXAMPLES)
    predict.add_argument("image", help="a file, or an http(s) or data URL")
    predict.add_argument("prompt", help="the question")
    predict.add_argument("--model", help=MODEL_HELP)
    predict.add_argument("--temperature", type=float, default=0.0, help="0 is greedy and repeatable (default: 0)")
    predict.add_argument("--top-p", type=float, default=1.0, help="sample from this share of probability (default: 1)")
    predict.add_argument("--max-tokens", type=int, default=1024, help="most tokens to answer with (default: 1024)")
    predict.add_argument("--seed", type=int, help="makes sampling repeatable")
    _add_settings(predict, (*PROVISION, *ENGINE))

    pull = _command(commands, "pull", _pull, "provision a model's weights into the cache", _PULL_EXAMPLES)
    pull.add_argument("model", help=MODEL_HELP)
    pull.add_argument("--json", action="store_true", help="progress and result as JSON lines")
    _add_settings(pull, PROVISION)

    inspect = _command(commands, "inspect", _inspect, "say what a checkpoint is, and why", _INSPECT_EXAMPLES)
    inspect.add_argument("model", nargs="?", help=MODEL_HELP)
    inspect.add_argument("--json", action="store_true", help="the same as JSON")
    _add_settings(inspect, (*PROVISION, "dtype"))

    lock = _command(commands, "lock", _lock, "write the manifest of a directory of weights", _LOCK_EXAMPLES)
    lock.add_argument("folder", type=Path, help="directory with the checkpoint's files")
    lock.add_argument("--name", help="name in the manifest (default: the directory's)")

    cache = _command(commands, "cache", _cache_list, "list what is in the cache, or remove from it", _CACHE_EXAMPLES)
    _add_settings(cache, ("cache",))
    actions = cache.add_subparsers(metavar="ACTION")
    _command(actions, "ls", _cache_list, "list the sets of weights")
    remove = _command(actions, "rm", _cache_remove, "remove one set of weights")
    remove.add_argument("digest", help="its digest, or the beginning of it")
    collect = _command(actions, "gc", _cache_collect, "remove the sets used longest ago")
    collect.add_argument("--max-size", type=float, required=True, metavar="GIB", help="what the cache may hold")
    return parser


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
  lavatube inspect ./my-checkpoint --json"""
_LOCK_EXAMPLES = """examples:
  lavatube lock ./my-checkpoint                     writes ./my-checkpoint/lavatube.lock.json"""
_CACHE_EXAMPLES = """examples:
  lavatube cache ls
  lavatube cache rm 3f2a
  lavatube cache gc --max-size 50"""


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    examples: str = "",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def _add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """The flags of some settings. Secrets have none: other users of a machine can read a command line."""
    group = parser.add_argument_group("settings", "Each is also the environment variable in brackets.")
    group.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    wanted = set(names)
    for option in options():
        if option.name not in wanted:
            continue
        default = f"; default: {option.default}" if option.default not in ("", False) else ""
        text = f"{option.doc}{default} [{', '.join((option.variable, *option.platform))}]".replace("%", "%%")
        if option.is_secret:
            continue
        if option.type is bool:
            group.add_argument(option.flag, dest=option.name, action=argparse.BooleanOptionalAction, help=text)
        else:
            group.add_argument(option.flag, dest=option.name, type=_typed(option), metavar=option.metavar, help=text)


def _typed(option: Option) -> Callable[[str], object]:
    def parse(text: str) -> object:
        try:
            return option.parse(text, option.flag)
        except InvalidSetting as error:
            raise argparse.ArgumentTypeError(error.message) from None

    return parse


def _settings(arguments: argparse.Namespace) -> Settings:
    flags = {option.name: getattr(arguments, option.name, None) for option in options()}
    return read_settings(flags, file=getattr(arguments, "config", None))


def _serve(arguments: argparse.Namespace) -> int:
    from lavatube.boot import serve

    return serve(_settings(arguments))


def _predict(arguments: argparse.Namespace) -> int:
    from lavatube.predictor import Predictor
    from lavatube.terminal import progress_bar

    settings = _settings(arguments)
    predictor = Predictor(**asdict(settings))
    with progress_bar() as on_progress:
        predictor.setup(on_progress)
    with predictor:
        image = (
            arguments.image
            if "://" in arguments.image or arguments.image.startswith("data:")
            else Path(arguments.image)
        )
        for text in predictor.predict(
            image,
            arguments.prompt,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            max_tokens=arguments.max_tokens,
            seed=arguments.seed,
        ):
            print(text, end="", flush=True)
    print()
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from lavatube.assembly import provision_options
    from lavatube.weights.provision import Progress, provision

    settings = _settings(arguments)
    if arguments.json:

        def on_progress(progress: Progress) -> None:
            print(json.dumps(asdict(progress)), flush=True)

        try:
            provisioned = provision(settings.model, provision_options(settings), on_progress)
        except LavatubeError as error:
            print(
                json.dumps({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}),
                flush=True,
            )
            return 1
        print(json.dumps({**asdict(provisioned), "folder": str(provisioned.folder)}), flush=True)
        return 0

    from lavatube.terminal import progress_bar, show_provisioned

    with progress_bar() as on_bar:
        provisioned = provision(settings.model, provision_options(settings), on_bar)
    show_provisioned(provisioned)
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from lavatube.assembly import provision_options
    from lavatube.checkpoint import read_spec
    from lavatube.terminal import progress_bar, show_spec
    from lavatube.weights.provision import provision

    settings = _settings(arguments)
    with progress_bar() as on_progress:
        provisioned = provision(settings.model, provision_options(settings), on_progress)
    spec = read_spec(provisioned.folder)
    if arguments.json:
        print(json.dumps({"model": settings.model, "set_digest": provisioned.set_digest, **asdict(spec)}))
    else:
        show_spec(settings.model, provisioned, spec, settings.dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())

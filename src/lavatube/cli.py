"""`lavatube`: the command line. The one place that prints; each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from lavatube.errors import InvalidSetting, LavatubeError
from lavatube.settings import MIB, Option, Settings, options, read_settings

PROVISION = (
    "cache", "base_cache", "verify", "lock", "allow_unverified", "mirrors", "bucket_endpoint", "bucket_unsigned",
    "hf_endpoint", "hf_token", "hf_cache",
)  # fmt: skip
ENGINE = ("device", "dtype", "threads", "kv_cache_mib")

MODEL_HELP = (
    "tiny (embedded, the default), a directory, org/name, hf://org/name@revision, https://…, s3://…, gs://…, az://… or "
    "file://…; of URLs also a .tar"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = parse_arguments(argv)
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
    """Ends the process with a usage message where they can't be understood."""
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lavatube",
        description="Host a LLaVA model: weights from a CDN, loaded once, answers streamed token by token.",
        epilog="Start with `lavatube serve`; `lavatube COMMAND --help` says more, with examples.",
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
    _add_settings(predict, (*PROVISION, *ENGINE, "fidelity"))

    pull = _command(commands, "pull", _pull, "provision a model's weights into the cache", _PULL_EXAMPLES)
    pull.add_argument("model", nargs="?", help=MODEL_HELP)
    pull.add_argument("--json", action="store_true", help="progress and result as JSON lines")
    _add_settings(pull, PROVISION)

    inspect = _command(commands, "inspect", _inspect, "say what a checkpoint is, and why", _INSPECT_EXAMPLES)
    inspect.add_argument("model", nargs="?", help=MODEL_HELP)
    inspect.add_argument("--json", action="store_true", help="the same as JSON")
    inspect.add_argument(
        "--image",
        type=_image_size,
        action="append",
        default=[],
        metavar="WxH",
        help="count the tokens of a picture of this size; several are pictures of one prompt",
    )
    _add_settings(inspect, (*PROVISION, "device", "dtype", "fidelity"))

    lock = _command(commands, "lock", _lock, "write the manifest of a model: sizes and digests", _LOCK_EXAMPLES)
    lock.add_argument("model", help=MODEL_HELP)
    lock.add_argument(
        "--output", type=Path, metavar="FILE", help="default: lavatube.lock.json beside the weights, or here"
    )
    _add_settings(lock, PROVISION)

    cache = _command(commands, "cache", _cache_list, "list what is in the cache, or remove from it", _CACHE_EXAMPLES)
    actions = cache.add_subparsers(metavar="ACTION")
    remove = _command(actions, "rm", _cache_remove, "remove one set of weights")
    remove.add_argument("set", help="its name, its source, or the first 6 digits of its digest")
    collect = _command(actions, "gc", _cache_collect, "remove what no set of weights needs")
    collect.add_argument(
        "--max-size", type=_size, metavar="SIZE", help="and sets, least recently used first, until it fits; 50G, 500MiB"
    )
    for action in (cache, _command(actions, "ls", _cache_list, "list the sets of weights"), remove, collect):
        _add_settings(action, ("cache",))
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
  lavatube inspect ./my-checkpoint --json
  lavatube inspect --image 640x480                  and how many tokens such a picture has"""
_LOCK_EXAMPLES = """examples:
  lavatube lock ./my-checkpoint                     writes ./my-checkpoint/lavatube.lock.json
  lavatube lock llava-hf/llava-1.5-7b-hf            pins what the hub has now, in ./lavatube.lock.json"""
_CACHE_EXAMPLES = """examples:
  lavatube cache ls
  lavatube cache rm llava-1.5-7b-hf
  lavatube cache gc --max-size 50G                  and forgets the sets that were used longest ago"""


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
    """The flags of some settings. Secrets have none: other users of a machine can read a command line.

    What is not given stays away from the namespace: an action's own default would overwrite its command's value.
    """
    group = parser.add_argument_group("settings", "Each is also the environment variable in brackets.")
    group.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings", default=argparse.SUPPRESS)
    wanted, secrets = set(names), list[str]()
    for option in options():
        if option.name not in wanted:
            continue
        default = f"; default: {option.default}" if option.default not in ("", False) else ""
        text = f"{option.doc}{default} [{', '.join((option.variable, *option.platform))}]".replace("%", "%%")
        if option.is_secret:
            secrets.append(f"{option.variable} is the {option.doc}")
        elif option.type is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(option.flag, dest=option.name, action=action, help=text, default=argparse.SUPPRESS)
        else:
            parse, metavar = _typed(option), option.metavar
            group.add_argument(
                option.flag, dest=option.name, type=parse, metavar=metavar, help=text, default=argparse.SUPPRESS
            )
    if secrets:
        group.description = f"{group.description} Variables only: {'; '.join(secrets)}."


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


def _serve(arguments: argparse.Namespace) -> NoReturn:
    from lavatube.boot import serve

    serve(_settings(arguments))


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
    with Predictor(**asdict(_settings(arguments))) as predictor:
        with progress_bar() as on_progress:
            predictor.setup(on_progress)
        for text in predictor.chat(chat, generation):
            print(text, end="", flush=True)
        print()
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from lavatube.assembly import provision_options
    from lavatube.terminal import progress_bar, show_provisioned
    from lavatube.weights.provision import provision

    settings = _settings(arguments)
    if arguments.json:
        return _pull_json(settings)
    with progress_bar() as on_progress:
        provisioned = provision(settings.model, provision_options(settings), on_progress)
    show_provisioned(provisioned)
    return 0


def _pull_json(settings: Settings) -> int:
    """Lines of progress, then one with the result or the error: what `lavatube serve` reads of its child."""
    from lavatube.assembly import provision_options
    from lavatube.weights.provision import provision

    def say(line: object) -> None:
        print(json.dumps(line, default=str), flush=True)

    try:
        provisioned = provision(settings.model, provision_options(settings), lambda progress: say(asdict(progress)))
    except LavatubeError as error:
        say({"error": {"code": error.code, "message": error.message, "remedy": error.remedy}})
        return 1
    say(asdict(provisioned))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from lavatube.assembly import provision_options, read_served_spec
    from lavatube.engine.capacity import free_bytes
    from lavatube.engine.load import choose_device, choose_dtype
    from lavatube.geometry import count_image
    from lavatube.memory import plan_memory
    from lavatube.terminal import progress_bar, show_images, show_spec
    from lavatube.weights.provision import provision

    settings = _settings(arguments)
    with progress_bar() as on_progress:
        provisioned = provision(settings.model, provision_options(settings), on_progress)
    spec = read_served_spec(provisioned.folder, settings)
    device = choose_device(settings.device)
    plan = plan_memory(spec, choose_dtype(settings.dtype, spec.dtype, device), free_bytes(device))
    images = [count_image(spec, size, len(arguments.image)) for size in arguments.image]
    if arguments.json:
        result = {"model": settings.model, "device": device, "weights": asdict(provisioned)}
        result |= {"spec": asdict(spec), "memory": asdict(plan), "images": [asdict(image) for image in images]}
        print(json.dumps(result, default=str))
    else:
        show_spec(settings.model, str(device), provisioned, spec, plan)
        show_images(images)
    return 0


def _size(text: str) -> int:
    number, power = text.upper().removesuffix("B").removesuffix("I"), 0
    if number[-1:] in ("K", "M", "G", "T"):
        number, power = number[:-1], "KMGT".index(number[-1]) + 1
    try:
        return int(float(number) * 1024**power)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 50G") from None


def _image_size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) < 10**6 and 0 < int(height) < 10**6):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 640x480")
    return int(width), int(height)


def _lock(arguments: argparse.Namespace) -> int:
    from lavatube.assembly import provision_options
    from lavatube.terminal import progress_bar
    from lavatube.weights.manifest import FILE_NAME
    from lavatube.weights.provision import lock_model, parse_model

    settings = _settings(arguments)
    model = parse_model(settings.model)
    folder = Path(model.location) if model.kind == "folder" else Path()
    output = arguments.output or folder / FILE_NAME
    with progress_bar() as on_progress:
        manifest = lock_model(settings.model, provision_options(settings), on_progress)
    output.write_text(manifest.to_json(), encoding="utf-8")
    print(f"{output}: {len(manifest.files)} files, set digest {manifest.set_digest}")
    return 0


def _cache_list(arguments: argparse.Namespace) -> int:
    from lavatube.terminal import show_cache
    from lavatube.weights.cache import Cache
    from lavatube.weights.upkeep import list_sets

    cache = Cache(_settings(arguments).cache_folder)
    show_cache(cache.root, list_sets(cache))
    return 0


def _cache_remove(arguments: argparse.Namespace) -> int:
    from lavatube.weights.cache import Cache
    from lavatube.weights.upkeep import remove_set

    removed, freed_bytes = remove_set(Cache(_settings(arguments).cache_folder), arguments.set)
    print(f"removed {removed.name} ({removed.set_digest:.12}), {freed_bytes / MIB:.1f} MiB")
    return 0


def _cache_collect(arguments: argparse.Namespace) -> int:
    from lavatube.weights.cache import Cache
    from lavatube.weights.upkeep import collect

    cache = Cache(_settings(arguments).cache_folder)
    print(f"removed {collect(cache, max_bytes=arguments.max_size) / MIB:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`lavatube lock`: write the manifest of a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from lavatube.errors import InvalidSetting
from lavatube.flags import MODEL_HELP, PROVISION, Commands, add_command, settings_of

_LOCK_EXAMPLES = """examples:
  lavatube lock ./my-checkpoint                     writes ./my-checkpoint/lavatube.lock.json
  lavatube lock llava-hf/llava-1.5-7b-hf            pins what the hub has now, in ./lavatube.lock.json"""


def add_lock(commands: Commands) -> None:
    """The command."""
    lock = add_command(commands, "lock", _lock, "write the manifest of a model: sizes and digests", _LOCK_EXAMPLES)
    lock.add_argument("model", help=MODEL_HELP)
    lock.add_argument(
        "--output", type=Path, metavar="FILE", help="default: lavatube.lock.json beside the weights, or here"
    )
    lock.have_settings(PROVISION)


def _lock(arguments: argparse.Namespace) -> int:
    from lavatube.provisioning import provision_options
    from lavatube.terminal import progress_bar
    from lavatube.weights.manifest import FILE_NAME
    from lavatube.weights.provision import lock_model, parse_model

    settings = settings_of(arguments)
    model = parse_model(settings.model)
    folder = Path(model.location) if model.kind == "folder" else Path()
    output = arguments.output or folder / FILE_NAME
    if not output.absolute().parent.is_dir():  # before gigabytes are hashed
        raise InvalidSetting(f"There is no directory {output.parent}.", remedy="Name another place with --output.")
    with progress_bar() as on_progress:
        manifest = lock_model(settings.model, provision_options(settings), on_progress)
    try:
        output.write_text(manifest.to_json(), encoding="utf-8")
    except OSError as error:
        raise InvalidSetting(
            f"{output} can't be written: {error.strerror}.", remedy="Name another place with --output."
        ) from error
    print(f"{output}: {len(manifest.files)} files, set digest {manifest.set_digest}")
    return 0

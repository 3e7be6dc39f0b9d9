"""Every option of the server, declared once: type, unit, default, meaning. Flags, environment and docs come from it.

The sole reader of `os.environ`. A value is taken from, in this order: a flag, `LAVATUBE_<NAME>`, the variable that a
platform sets for the same thing, the TOML file, the default. A bad value stops start-up and says where it came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Final, get_type_hints
from urllib.parse import urlsplit

from lavatube.errors import InvalidSetting
from lavatube.option import Option, Setting, declare

MIB: Final = 1024 * 1024
# The options in the order of their declaration, in sections: each begins with the option that is named here.
_SECTIONS: Final = {
    "model": "server",
    "cache": "weights",
    "device": "engine",
    "max_queue": "requests",
    "fidelity": "prompts and pictures",
    "webhook_urls": "webhooks",
    "database": "what is kept",
    "api_key": "who may call",
    "shutdown_grace_s": "start and end",
}
DEFAULT_CACHE: Final = Path("~/.cache/lavatube")
# What Kubernetes (as Docker's links once did) puts into every container beside a service that is called lavatube or
# lavatube-something: LAVATUBE_SERVICE_HOST, LAVATUBE_PORT_5000_TCP_ADDR, and LAVATUBE_PORT=tcp://10.0.0.1:5000.
_OF_A_SERVICE: Final = re.compile(r"LAVATUBE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)")
_ADDRESS_OF_A_SERVICE: Final = re.compile(r"(tcp|udp)://\S+:\d+")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decided; read once at start, never changed."""

    model: str = declare(
        "tiny",
        "tiny (embedded), a directory, org/name, hf://…, https://…, s3://… or file://…",
        platform=("COG_WEIGHTS",),
    )
    model_name: str = declare("", "name that the APIs report; default: the last part of MODEL")
    host: str = declare("127.0.0.1", "address to listen on; 0.0.0.0 in a container", pattern=r"\S+")
    port: int = declare(5000, "port to listen on; 0: any", most=65535, platform=("AIP_HTTP_PORT", "PORT"))
    public_url: str = declare(
        "",
        "the server's own URL as clients see it, for the URLs in its answers; default: what they say in Host",
        pattern=r"|https?://[^\s/]\S*",
    )
    cache: Path = declare(DEFAULT_CACHE, "where provisioned weights are kept; safe to share and to delete")
    base_cache: str = declare("", "another cache that is only read; what it lacks goes into the cache")
    verify: str = declare(
        "quick",
        "of weights that are cached: look at size, time and inode (quick), or hash all (full)",
        choices=("quick", "full"),
    )
    mirrors: str = declare("", "URLs of folders with the same files, with commas between, that stand in for MODEL")
    bucket_endpoint: str = declare("", "server that s3://, gs:// and az:// mean; default: the cloud's own")
    bucket_unsigned: bool = declare(False, "read public buckets, without credentials")
    hf_cache: Path = declare(
        Path("~/.cache/huggingface/hub"),
        "the hub library's cache: what is there already is taken from it",
        platform=("HF_HUB_CACHE",),
    )
    lock: str = declare("", "a lavatube.lock.json; its digests are trusted and nothing else")
    allow_unverified: bool = declare(False, "take weights that no digest vouches for")
    hf_endpoint: str = declare(
        "https://huggingface.co", "hub that hf:// means", pattern=r"https?://[^\s/]\S*", platform=("HF_ENDPOINT",)
    )
    hf_token: str = declare("", "token for that hub, and sent to no other", platform=("HF_TOKEN",), secret=True)
    device: str = declare("auto", "auto, cpu, cuda or cuda:N", pattern=r"auto|cpu|cuda(:\d+)?")
    dtype: str = declare("auto", "precision of the computation", choices=("auto", "float32", "bfloat16", "float16"))
    quantize: str = declare(
        "none",
        "weights as they are (none), or of 8 or 4 bits: faster and smaller, a little off; fp8 on CUDA devices alone",
        choices=("none", "int8", "int4", "fp8"),
    )
    threads: int = declare(
        0, "CPU threads of the engine; 0: one a core, or one alone for a model of under 50 million parameters"
    )
    max_sequences: int = declare(16, "requests that are decoded together", least=1)
    max_step_tokens: int = declare(1024, "tokens of one engine step; long prompts are cut into such pieces", least=1)
    kv_cache_mib: int = declare(
        0, "memory for keys and values, MiB; 0: what the device has to spare, at most 4096 on a CPU"
    )
    prefix_cache: bool = declare(
        True, "find what prompts have in common from their beginning on in the cache of keys and values"
    )
    image_cache_mib: int = declare(256, "main memory for encoded pictures that may be shown again, MiB; 0: none")
    image_disk_mib: int = declare(
        0, "disk for them besides, MiB, in a folder beside the cache's, so that a restart finds them; 0: none"
    )
    share_caches: bool = declare(
        False, "let API keys find each other's prompts in the caches: faster, but the speed tells who asked what"
    )
    speculate: int = declare(
        0,
        "tokens that are guessed ahead of an answer, from what it and its prompt have said; the answer stays the same",
    )
    max_queue: int = declare(64, "requests that wait; one more is refused with 429")
    queue_while_starting: bool = declare(
        False, "let requests wait while the server starts, up to max_queue, instead of refusing them with 503"
    )
    max_new_tokens: int = declare(4096, "most tokens one answer may have", least=1)
    request_timeout_s: float = declare(600.0, "seconds until a prediction that has not ended is failed", least=1)
    max_body_mib: int = declare(32, "largest request body, MiB", least=1)
    fidelity: str = declare(
        "auto",
        "whose rules pixels, templates and ids follow to the last bit: the checkpoint's own world with pictures as a "
        "person sees them (auto), the original code's, or the hub library's (hf)",
        choices=("auto", "original", "hf"),
    )
    max_images: int = declare(8, "pictures in one request")
    max_image_mib: int = declare(20, "largest encoded picture, MiB", least=1)
    max_image_pixels: int = declare(50_000_000, "largest picture, pixels", least=1)
    image_urls: str = declare(
        "public", "where pictures are fetched from: public, off, or host names with commas between them"
    )
    image_fetch_timeout_s: float = declare(10.0, "seconds for fetching one picture", least=0.1)
    decode_workers: int = declare(2, "processes that decode pictures", least=1)
    webhook_urls: str = declare(
        "public", "where webhooks are sent: public (https only), off, or host names with commas between them"
    )
    webhook_auth_token: str = declare(
        "", "bearer token that webhooks are sent with", platform=("WEBHOOK_AUTH_TOKEN",), secret=True
    )
    database: str = declare(
        "",
        "where keys, uploads, webhooks and predictions that outlive their connection are kept: sqlite:///PATH, "
        "postgresql://…, or off; default: a file beside the cache's folder",
    )
    keep_s: float = declare(7 * 24 * 3600.0, "seconds that journaled predictions are kept after their end")
    keep_mib: int = declare(1024, "what those that have ended may take of the database, MiB; the oldest go first")
    on_restart: str = declare(
        "continue",
        "what becomes of a journaled prediction that ran when its server died: it goes on, or it is failed",
        choices=("continue", "fail"),
    )
    max_server_deaths: int = declare(
        2, "servers that may die while they work on a prediction before that is failed as their cause", least=1
    )
    api_key: str = declare("", "operator's key, sent as a bearer token; `lavatube keys` makes others", secret=True)
    insecure: bool = declare(False, "listen beyond this machine without asking for a key")
    allowed_hosts: str = declare(
        "", "names with dots by which a server without keys may be addressed, with commas between them; *: any"
    )
    allowed_origins: str = declare(
        "",
        "web pages of other servers that may call from a browser (CORS): origins such as https://app.example.com, with "
        "commas between them; *: any",
    )
    key_streams: int = declare(0, "predictions that one API key may have at once; 0: as many as there is room for")
    key_requests_per_minute: int = declare(0, "requests that one API key may make in a minute; 0: no limit")
    key_tokens_per_minute: int = declare(0, "tokens that one API key may use in a minute; 0: no limit")
    shutdown_grace_s: float = declare(25.0, "seconds that running predictions get after SIGTERM")
    exit_on_failure: bool = declare(False, "end with exit code 1 where set-up or engine have failed for good")
    trace: str = declare("", "file that gets a timeline of the start: download, verify, load, encode, prefill")
    log_format: str = declare("text", "an event a line, for people or for what collects it", choices=("text", "json"))
    log_level: str = declare("info", "how much is logged", choices=("debug", "info", "warning", "error"))

    @property
    def served_name(self) -> str:
        """The model's name in the APIs: of a URL its path and nothing else, for the rest may be secret."""
        if self.model_name:
            return self.model_name
        is_url = "://" in self.model
        path = urlsplit(self.model).path.removesuffix("/lavatube.lock.json") if is_url else self.model
        name = Path(path).name.split("@")[0]
        return name or ("model" if is_url else Path(path).resolve().name)

    @property
    def database_url(self) -> str:
        """Empty where there is to be none."""
        if self.database == "off":
            return ""
        return self.database or f"sqlite:///{self.cache_folder.with_name(f'{self.cache_folder.name}.db')}"

    @property
    def cache_folder(self) -> Path:
        """Raises: InvalidSetting, where ~ leads nowhere, as for a user without a home."""
        try:
            return self.cache.expanduser().absolute()
        except RuntimeError:
            raise InvalidSetting(
                f"cache: {self.cache} can't be found: this user has no home directory.",
                remedy="Name a directory with --cache, or set HOME.",
            ) from None

    @property
    def hf_cache_folder(self) -> Path:
        """Where ~ leads nowhere, nothing is taken from there."""
        try:
            return self.hf_cache.expanduser().absolute()
        except RuntimeError:
            return self.hf_cache.absolute()


@cache
def options() -> tuple[Option, ...]:
    """All options, in the order of their declaration."""
    hints, section, found = get_type_hints(Settings), "", list[Option]()
    for f in fields(Settings):
        section = _SECTIONS.get(f.name, section)
        found.append(Option(name=f.name, section=section, type=hints[f.name], default=f.default, **f.metadata))
    return tuple(found)


def read_settings(
    flags: Mapping[str, Setting | None] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """The settings from flags (already parsed; None means not given), the environment and a TOML file.

    Raises: InvalidSetting for a bad value, an unknown key of the file, or an unknown `LAVATUBE_*` variable.
    """
    flags = flags or {}
    environ = _without_services(os.environ if environ is None else environ)
    known = {option.name for option in options()}
    if unknown := sorted(flags.keys() - known):
        raise InvalidSetting(f"There is no setting {unknown[0]!r}.", remedy="`lavatube serve --help` lists them.")
    from_file = _read_file(file)
    _refuse_unknown_variables(environ)
    values: dict[str, Any] = {}
    for option in options():
        flag = flags.get(option.name)
        variable = next((name for name in (option.variable, *option.platform) if environ.get(name)), None)
        if flag is not None:
            option.check(flag, option.flag)
            values[option.name] = flag
        elif variable is not None:
            values[option.name] = option.parse(environ[variable], variable)
        elif option.name in from_file:
            values[option.name] = option.parse(str(from_file[option.name]), f"{file}: {option.name}")
    return Settings(**values)


def environment_of(settings: Settings) -> dict[str, str]:
    """For a child process that is to have the same settings; unlike a command line, not for everybody to read."""
    values = {option.variable: str(getattr(settings, option.name)) for option in options()}
    return {**_without_services(os.environ), **values}


def _read_file(file: Path | None) -> Mapping[str, Any]:
    if file is None:
        return {}
    import tomllib  # most starts have no file, and this would delay them

    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSetting(f"The settings file {file} can't be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{file} is not TOML: {error}.") from error
    known = {option.name for option in options()}
    for name in values:
        if name not in known:
            raise InvalidSetting(f"{file}: there is no setting {name!r}.", remedy="`lavatube serve --help` lists them.")
    return values


def _without_services(environ: Mapping[str, str]) -> Mapping[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if not (
            _OF_A_SERVICE.fullmatch(name)
            or (name.startswith("LAVATUBE_") and name.endswith("PORT") and _ADDRESS_OF_A_SERVICE.fullmatch(value))
        )
    }


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {option.variable for option in options()}
    for name in environ:
        if name.startswith("LAVATUBE_") and name not in known:
            raise InvalidSetting(
                f"{name} is set, but there is no such setting.", remedy="`lavatube serve --help` lists them."
            )

"""The pattern's own interface: setup() once, predict() many; each answer is an iterator of text.

Everything runs in the caller's process: phase 1 in setup(), the engine on a background thread that feeds the iterator.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from io import BytesIO
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

import torch
from PIL import Image

from lavatube import assembly
from lavatube.engine import wire
from lavatube.engine.load import choose_threads, load_core
from lavatube.engine.local import LocalEngine, LocalStream
from lavatube.errors import InvalidInput, NotReady, from_code
from lavatube.option import Setting
from lavatube.prompt.chat import Chat, Generation, single_turn
from lavatube.prompt.detokenize import Detokenizer
from lavatube.prompt.prepare import Preparer
from lavatube.provisioning import provision_options
from lavatube.settings import Settings, read_settings
from lavatube.weights.progress import Progress, follower
from lavatube.weights.provision import provision

URL_SCHEMES: Final = ("http:", "https:", "data:")

Picture = str | PathLike[str] | bytes | Image.Image


class Predictor:
    """A LLaVA model in this process.

    `model` is `tiny` (embedded), a directory, `org/name`, or a URL; `settings` are those of `lavatube serve --help`.
    Closed by hand, by `with`, or when nobody holds it or one of its answers any more.
    """

    def __init__(self, model: str | None = None, **settings: Setting) -> None:
        self.settings: Settings = read_settings({"model": model, **settings})
        self._engine: LocalEngine | None = None
        self._preparer: Preparer | None = None
        self._free: Callable[[], object] = lambda: None

    def setup(self, on_progress: Callable[[Progress], None] = lambda progress: None) -> None:
        """Phases 1 and 2: provision the weights and load them. A second call does nothing.

        Sets the number of torch's threads, for this whole process.
        Raises: OperatorError, where the weights can't be had, trusted or served.
        """
        if self._engine is not None:
            return
        settings = self.settings
        provisioned = provision(settings.model, provision_options(settings), on_progress)
        spec = assembly.read_served_spec(provisioned.folder, settings)
        preparer = assembly.make_preparer(spec, provisioned.folder, settings)
        try:
            torch.set_num_threads(choose_threads(settings.threads, spec))
            order = assembly.load_command(provisioned, preparer, settings)
            core = load_core(order, follower("loading", on_progress))
        except BaseException:
            preparer.close()
            raise
        preparer.limit_context(core.max_context_tokens)
        self._preparer, self._engine = preparer, LocalEngine(core)
        # Also at the interpreter's end, which a thread inside of torch would not survive.
        self._free = weakref.finalize(self, _free, self._engine, preparer)

    def predict(
        self,
        image: Picture | None,
        prompt: str,
        *,
        top_p: float = 1.0,
        temperature: float = 0.2,
        max_tokens: int = 1024,
        top_k: int = 0,
        seed: int | None = None,
    ) -> Answer:
        """Answer a question about a picture, piece by piece.

        `image` is a path, a file's bytes, an http(s) or data URL, or a picture of PIL. Closing the iterator stops the
        generation.
        Raises: RequestError before the first piece; ServiceError from the iterator.
        """
        generation = Generation(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        return self.chat(single_turn(prompt, None if image is None else read_picture(image)), generation)

    def chat(self, chat: Chat, generation: Generation | None = None) -> Answer:
        """Answer the last turn of a conversation, piece by piece.

        Raises: InvalidInput, also for what an iterator of text has no place for: several choices, and logprobs.
        """
        generation = generation or Generation()
        if generation.num_choices != 1 or generation.top_logprobs is not None:
            raise InvalidInput(
                "A predictor gives one answer, and its text alone.", remedy="Ask again with another seed."
            )
        if self._engine is None or self._preparer is None:
            raise NotReady("The predictor has no model yet.", remedy="Call setup() first.")
        prepared = self._preparer.prepare(chat, generation)
        detokenizer = Detokenizer(self._preparer.tokenizer, prepared.stop)
        if prepared.sampling.max_tokens == 0:
            return Answer(self, None, detokenizer)
        request = wire.Submit(uuid4().hex, prepared.token_ids, list(prepared.images), prepared.sampling)
        return Answer(self, self._engine.submit(request), detokenizer)

    def close(self) -> None:
        """Free the model; open iterators end with an error."""
        self._free()
        self._engine = self._preparer = None

    def __enter__(self) -> Self:
        self.setup()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Answer:
    """The pieces of one answer. Any thread may iterate, close or drop it; to close it is to stop the generation."""

    def __init__(self, predictor: Predictor, events: LocalStream | None, detokenizer: Detokenizer) -> None:
        self._predictor = predictor  # whose model is needed as long as somebody reads
        self._events = events
        self._detokenizer = detokenizer
        self._is_closed = False
        self._lock = threading.Lock()  # of the detokenizer, and so that pieces come in order

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """Raises: ServiceError."""
        with self._lock:
            while self._events is not None and not (self._is_closed or self._detokenizer.has_stopped):
                if text := self._read(next(self._events)):
                    return text
        self.close()
        raise StopIteration

    def close(self) -> None:
        self._is_closed = True
        if self._events is not None:
            self._events.close()

    def _read(self, event: wire.RequestEvent) -> str:
        match event:
            case wire.Tokens():
                return self._detokenizer.push(event.token_ids)
            case wire.Done():
                return self._detokenizer.finish()
            case wire.Failed():
                raise from_code(event.code, event.message, param=event.param or None)


def _free(engine: LocalEngine, preparer: Preparer) -> None:
    engine.close()
    preparer.close()


def read_picture(image: Picture) -> bytes | str:
    """A file's bytes, or the URL as it is. In the caller's own process a path may be read; over HTTP it never is.

    Raises: InvalidInput.
    """
    if isinstance(image, bytes) or (isinstance(image, str) and image.startswith(URL_SCHEMES)):
        return image
    if isinstance(image, Image.Image):
        return _encode(image)
    if not isinstance(image, str | PathLike):
        raise InvalidInput(
            f"A {type(image).__name__} is no picture.",
            param="image",
            remedy="Give a path, the bytes of a file, a URL or a picture of PIL.",
        )
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"Can't read the picture {image}: {error.strerror}.", param="image", remedy="Check the path."
        ) from error


def _encode(image: Image.Image) -> bytes:
    """As a file, so that it passes the limits and the sandbox of all others. Raises: InvalidInput."""
    file = BytesIO()
    try:
        image.save(file, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"The picture can't be written as PNG: {error}.", param="image", remedy='Convert it to "RGB".'
        ) from error
    return file.getvalue()

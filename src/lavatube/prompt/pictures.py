"""A prompt's pictures, wherever they come from, in; what the vision tower reads out, with the plan of each.

Fetches through the guard, decodes in the sandbox. Knows no text and no template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Final

from lavatube.engine.wire import Pixels
from lavatube.errors import ForbiddenImageUrl, ImageRejected, InvalidImageUrl, TooManyImages
from lavatube.geometry import ImagePlan, plan_image
from lavatube.prompt.chat import ImageInput
from lavatube.prompt.data_url import decode_data_url
from lavatube.prompt.decoder import Decoded, ImageDecoder, Treatment
from lavatube.prompt.fetch import UrlGate
from lavatube.prompt.images import ImageLimits, Reading, check_size
from lavatube.spec import ModelSpec

# Part of every image digest: raise it when the same picture gives other pixels.
PREPROCESS_VERSION: Final = 1


class Pictures:
    """What is made of pictures for one checkpoint. Without a `gate`, they come as bytes and data: URLs only."""

    def __init__(
        self, spec: ModelSpec, limits: ImageLimits, gate: UrlGate | None, decoder: ImageDecoder, reading: Reading
    ) -> None:
        self._spec = spec
        self._limits = limits
        self._gate = gate
        self._decoder = decoder
        self._reading: Reading = reading

    def check_number(self, images: Sequence[ImageInput]) -> None:
        """Raises TooManyImages."""
        if len(images) > self._limits.max_images:
            raise TooManyImages(
                f"The request has {len(images)} pictures; {self._limits.max_images} are allowed.",
                param=images[self._limits.max_images].param,
                remedy="Send fewer.",
            )

    def plan(self, images: Sequence[ImageInput], sizes: Sequence[tuple[int, int]]) -> tuple[ImagePlan, ...]:
        """What pictures of these sizes (width, height) become. Raises: ImageRejected and its kinds."""
        for image, size in zip(images, sizes, strict=True):
            with _at(image):
                check_size(*size, self._limits)
        return tuple(self._plan(image, *size, len(images)) for image, size in zip(images, sizes, strict=True))

    def read(self, images: Sequence[ImageInput]) -> tuple[Pixels, ...]:
        """All pictures of a prompt, fetched and decoded side by side.

        Raises: ImageRejected and its kinds; Overloaded.
        """
        picture = partial(self._picture, num_images=len(images))
        if len(images) < 2:
            return tuple(map(picture, images))
        with ThreadPoolExecutor(len(images), thread_name_prefix="picture") as threads:
            contexts = [copy_context() for _ in images]  # the log tells whose pictures they are
            return tuple(threads.map(lambda context, image: context.run(picture, image), contexts, images))

    def close(self) -> None:
        """End the children that decode."""
        self._decoder.close()

    def _plan(self, image: ImageInput, width: int, height: int, num_images: int) -> ImagePlan:
        return plan_image(self._spec, width, height, num_images=num_images, detail=image.detail)

    def _picture(self, image: ImageInput, num_images: int) -> Pixels:
        treatment = Treatment(self._spec.pixels, self._reading, num_images, image.detail)
        with _at(image):
            decoded = self._decoder.decode(self._bytes(image.source), treatment, self._limits)
        plan = self._plan(image, decoded.width, decoded.height, num_images)
        return Pixels(
            digest=_digest(decoded, plan),
            data=decoded.data,
            tiles=decoded.tiles,
            size=decoded.size,
            num_tokens=plan.num_tokens,
            width=decoded.width,
            height=decoded.height,
            num_images=num_images,
            detail=image.detail,
        )

    def _bytes(self, source: bytes | str) -> bytes:
        if isinstance(source, bytes):
            return source
        if not source:
            raise InvalidImageUrl("The picture is empty.", remedy="Send a data: URL, or an http or https URL.")
        if source[:5].lower() == "data:":
            return decode_data_url(source, self._limits.max_bytes)
        if self._gate is None:
            raise ForbiddenImageUrl(
                "This server fetches no pictures.", remedy="Send the picture itself as a data: URL."
            )
        return self._gate.fetch(source)


@contextmanager
def _at(image: ImageInput) -> Iterator[None]:
    """A refusal names the field that the picture came from."""
    try:
        yield
    except ImageRejected as error:
        error.param = image.param
        raise


def _digest(decoded: Decoded, plan: ImagePlan) -> bytes:
    """Names what the tower sees, and how its features are laid out: the same tiles, unpadded otherwise, are another's.

    Shape and version are in it: other pixels of the same bytes have another name.
    """
    layout = f"{decoded.tiles}x3x{decoded.size}x{decoded.size} {plan.keep} {plan.shrink} {plan.num_tokens}"
    head = f"lavatube pixels {PREPROCESS_VERSION} {layout}\n"
    return hashlib.sha256(head.encode() + decoded.data).digest()

"""The program that opens pictures: `python -m lavatube.prompt.decode_child`, started by ImageDecoder.

Imports Pillow and nothing heavy, writes no file, and dies of the first thing that it does not understand.
"""

from __future__ import annotations

import warnings

from PIL import Image

from lavatube.errors import ImageRejected, ImageTooLarge
from lavatube.geometry import plan_cut
from lavatube.prompt.decoder import Decoded, DecodeReply, Refused, encoder, request_decoder
from lavatube.prompt.pixels import tile
from lavatube.prompt.raster import rasterise
from lavatube.prompt.sandbox import serve_frames


def _decode(body: bytes) -> DecodeReply:
    request = request_decoder.decode(body)
    Image.MAX_IMAGE_PIXELS = request.limits.max_pixels  # a second line; check_size is the first
    try:
        treatment = request.treatment
        image = rasterise(request.data, request.form, request.limits, treatment.reading)
        cut = plan_cut(treatment.pixels, *image.size, num_images=treatment.num_images, detail=treatment.detail)
        tiles = tile(image, treatment.pixels, cut)
    except ImageRejected as error:
        return Refused(error.code, error.message, error.remedy)
    except MemoryError:
        return Refused(ImageTooLarge.code, "The picture takes more memory to decode than one may use.", "")
    return Decoded(tiles.data, tiles.count, tiles.size, *image.size)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve_frames(lambda body: encoder.encode(_decode(body)))

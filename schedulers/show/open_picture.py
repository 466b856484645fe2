"""The one place that opens picture files: which kinds, and how large. A test forbids Image.open elsewhere.

Pillow chooses a reader by content, and some readers start programs (PostScript: Ghostscript) or trust what a file
says of its size. So the kinds are listed, and frames and pixels are counted before any is decoded.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .picture_parts import MOST_FRAMES, PictureError, count

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
DAMAGED = OSError, SyntaxError, EOFError, struct.error
MOST_PIXELS = 2**27  # of a picture, all frames together: 1.6 GB as floats


@contextmanager
def open_picture(source: Path | bytes) -> Iterator[Image.Image]:
    """The picture in a file, or in a file's bytes; pixels are read when they are asked for.

    Raises PictureError when it is of another kind than FORMATS, larger than MOST_PIXELS in all frames, or damaged
    (also where the block reads the pixels); OSError when the file cannot be read.
    """
    from PIL import Image

    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        counted = count(stream)
        _check(counted.frames, counted.width * counted.height)
        stream.seek(0)
        try:
            with Image.open(stream, formats=FORMATS) as image:
                frames = counted.frames
                if image.format == "WEBP":
                    frames = max(frames, getattr(image, "n_frames", 1))
                width, height = max(image.width, counted.width), max(image.height, counted.height)
                _check(frames, width * height)
                yield image
        except Image.UnidentifiedImageError:
            raise PictureError(f"it is none of {', '.join(FORMATS)}: save it as PNG") from None
        except (*DAMAGED, Image.DecompressionBombError) as error:
            raise PictureError(str(error) or f"it is damaged ({type(error).__name__})") from error


def _check(frames: int, pixels: int) -> None:
    """Raises PictureError for too many frames, or too many pixels in all of them."""
    if frames > MOST_FRAMES or frames * pixels > MOST_PIXELS:
        raise PictureError(
            f"{frames} frames of {pixels} pixels: at most {MOST_FRAMES} frames and {MOST_PIXELS} pixels in all frames are read"
        )


def frames_of(image: Image.Image) -> Iterator[Image.Image]:
    """The frames one after the other, in place; the first alone of a JPEG with further pictures behind it."""
    frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
    for i in range(frames):
        image.seek(i)
        yield image

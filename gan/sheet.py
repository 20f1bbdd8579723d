"""Pictures side by side: grids with gaps, enlarged ones, contact sheets with captions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from gan.errors import Refused

COLUMNS = 8  # pictures in a row of a grid
GAP_PIXELS = 2  # between them

CAPTION_PIXELS = 14  # height of the line below a picture
TEXT_PIXELS = 11  # of its letters
INK = "#555555"


def enlarged(picture: Image.Image, times: int) -> Image.Image:
    """The picture `times` as large, by Lanczos."""
    if times == 1:
        return picture
    size = (picture.width * times, picture.height * times)
    return picture.resize(size, Image.Resampling.LANCZOS)


def colour_of(name: str, flag: str) -> tuple[int, ...]:
    """RGBA of "white", "transparent", "#c0ffee", ...; raises Refused for no colour."""
    if name == "transparent":
        return (255, 255, 255, 0)
    try:
        return ImageColor.getcolor(name, "RGBA")  # type: ignore[return-value]
    except ValueError:
        raise Refused(
            f"{flag}={name}: no colour; white, black, transparent or one like #336699"
        ) from None


def grid(
    pictures: Sequence[Image.Image],
    columns: int = COLUMNS,
    *,
    gap: int = GAP_PIXELS,
    colour: tuple[int, ...] = (255, 255, 255, 255),
    captions: Sequence[str] = (),
) -> Image.Image:
    """Pictures of one size, row by row, with `gap` pixels of `colour` around each.

    RGB, or RGBA if the colour is transparent. `captions` stand below the pictures.
    """
    columns = min(columns, len(pictures))
    wide, high = pictures[0].size
    below = CAPTION_PIXELS if captions else 0
    size = grid_size(len(pictures), columns, (wide, high + below), gap)
    whole = Image.new("RGBA", size, colour)
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(TEXT_PIXELS)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        corner = gap + column * (wide + gap), gap + row * (high + below + gap)
        whole.paste(picture, corner)
        if captions:
            middle = corner[0] + wide // 2, corner[1] + high + below // 2
            draw.text(middle, captions[place], INK, font, anchor="mm")
    return whole if colour[3] < 255 else whole.convert("RGB")


def grid_size(count: int, columns: int, size: tuple[int, int], gap: int) -> tuple[int, int]:
    """Width and height in pixels of the grid of `count` pictures of `size`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    return columns * (size[0] + gap) + gap, rows * (size[1] + gap) + gap


def labelled(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text below it."""
    whole = Image.new("RGB", (picture.width, picture.height + CAPTION_PIXELS + 2), "white")
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(TEXT_PIXELS)
    draw.text((4, picture.height + 1), text, INK, font)
    return whole


def as_rgb(pixels: NDArray[np.uint8]) -> Image.Image:
    """uint8 [C, H, W], C 1 or 3 -> an RGB picture."""
    full = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(full))

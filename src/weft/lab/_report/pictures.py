"""Inputs as small pictures, all on one sheet: images as they are, vectors drawn."""

import base64
import io
import math

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from PIL import Image

LARGEST = 64  # pixels a side: what a thumbnail shows, and 2,000 of them stay small
_DRAWN = 44


def as_tiles(
    inputs: Float[np.ndarray, "n ..."], like: Float[np.ndarray, "m ..."]
) -> UInt8[np.ndarray, "n side side c"]:
    """Turn inputs into square pictures.

    Args:
        inputs: images (n, channels, height, width) in [0, 1], or vectors (n, values).
        like: inputs of the same kind, which set the range of a drawn vector.

    Returns:
        Images, padded to squares and scaled down to `LARGEST`; two values as a dot among the dots
        of `like`; longer vectors as their outline. Grey has one channel, colour three.
    """
    if inputs.ndim == 4:
        return _images(inputs)
    inputs, like = inputs.reshape(len(inputs), -1), like.reshape(len(like), -1)
    shared = like.shape[1] != 2  # a profile has one scale, a plane two
    low, high = (like.min(), like.max()) if shared else (like.min(axis=0), like.max(axis=0))
    span = np.where(high > low, high - low, 1)
    scaled = np.clip((inputs - low) / span, 0, 1)
    return _profiles(scaled) if shared else _dots(scaled, (like - low) / span)


def _images(inputs: Float[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "n side side c"]:
    pixels = np.rint(np.clip(np.nan_to_num(inputs), 0, 1) * 255).astype(np.uint8)
    if pixels.shape[1] != 3:
        pixels = pixels.mean(axis=1, keepdims=True).astype(np.uint8)
    n, channels, height, width = pixels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((n, side, side, channels), np.uint8)
    square[:, top : top + height, left : left + width] = pixels.transpose(0, 2, 3, 1)
    if side <= LARGEST:
        return square
    smaller = [np.asarray(_picture(tile).resize((LARGEST, LARGEST))) for tile in square]
    return np.array(smaller, np.uint8).reshape(n, LARGEST, LARGEST, channels)


def _profiles(scaled: Float[np.ndarray, "n d"]) -> UInt8[np.ndarray, "n side side 1"]:
    columns = np.arange(_DRAWN) * scaled.shape[1] // _DRAWN
    height = np.rint(scaled[:, columns] * (_DRAWN - 1)) + 1
    row = np.arange(_DRAWN, 0, -1)[:, None]
    return np.where(row <= height[:, None, :], 70, 245).astype(np.uint8)[..., None]


def _dots(
    scaled: Float[np.ndarray, "n 2"], cloud: Float[np.ndarray, "m 2"]
) -> UInt8[np.ndarray, "n side side 1"]:
    def cells(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = np.rint(2 + points * (_DRAWN - 5)).astype(int).T
        return _DRAWN - 1 - y, x

    plane = np.full((_DRAWN, _DRAWN), 245, np.uint8)
    plane[cells(cloud)] = 200
    tiles = np.repeat(plane[None], len(scaled), axis=0)
    y, x = cells(scaled)
    for dy, dx in np.ndindex(5, 5):
        tiles[np.arange(len(tiles)), y + dy - 2, x + dx - 2] = 20
    return tiles[..., None]


def _picture(tile: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(tile[..., 0] if tile.shape[-1] == 1 else tile)


class Sheet:
    """One picture that holds many tiles of one shape, each distinct tile once."""

    def __init__(self) -> None:
        self._positions: dict[bytes, int] = {}
        self._tiles: list[np.ndarray] = []

    def add(self, tiles: UInt8[np.ndarray, "n side side c"]) -> list[int]:
        """Put tiles on the sheet and return where each lies, counted row by row."""
        places = []
        for tile in tiles:
            place = self._positions.setdefault(tile.tobytes(), len(self._tiles))
            if place == len(self._tiles):
                self._tiles.append(tile)
            places.append(place)
        return places

    @property
    def side(self) -> int:
        """Pixels along a tile's side."""
        return self._tiles[0].shape[0]

    @property
    def columns(self) -> int:
        """Tiles in a row; the sheet is about square."""
        return math.ceil(math.sqrt(len(self._tiles)))

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return math.ceil(len(self._tiles) / self.columns)

    def data_uri(self) -> str:
        """Encode the sheet for a page that loads nothing else: grey exactly, colour nearly so."""
        side, channels = self._tiles[0].shape[1:]
        grid = np.zeros((self.rows * self.columns, side, side, channels), np.uint8)
        grid[: len(self._tiles)] = self._tiles
        grid = grid.reshape(self.rows, self.columns, side, side, channels).swapaxes(1, 2)
        whole = _picture(grid.reshape(self.rows * side, self.columns * side, channels))
        kind = "png" if channels == 1 else "webp"  # photographs are large as PNG
        buffer = io.BytesIO()
        whole.save(buffer, kind, quality=90)
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def show_tile(sheet: Sheet, place: int, size: int, name: str) -> Markup:
    """Return a span that shows one tile of a sheet, once the sheet is full."""
    row, column = divmod(place, sheet.columns)
    sharp = " sharp" if sheet.side < size else ""
    style = (
        f"width:{size}px;height:{size}px;"
        f"background-position:-{column * size}px -{row * size}px;"
        f"background-size:{sheet.columns * size}px {sheet.rows * size}px"
    )
    span = '<span class="tile{}" role="img" aria-label="{}" style="{}"></span>'
    return Markup(span).format(sharp, name, style)

"""Draws a scene: flat, large, in clear colours. Deterministic and fast (Pillow)."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from models.data.scene import (
    BACK_ROW_Y,
    CAR_HEIGHT,
    CAR_WIDTH,
    DOOR_X,
    FRONT_ROW_Y,
    PARCEL_SIZE,
    PARCEL_X,
    PERSON_HEIGHT,
    PERSON_WIDTH,
    SCENE_HEIGHT,
    SCENE_WIDTH,
    SPOTS_X,
    Person,
    Phase,
    SceneScript,
    View,
)

RGB = tuple[int, int, int]

PAINTS: dict[str, RGB] = {
    "red": (222, 30, 36),
    "blue": (34, 70, 230),
    "green": (16, 150, 50),
    "yellow": (250, 215, 20),
}
# (sky, wall, ground) of each look; pale and grey, so that none is near a paint.
LOOKS: tuple[tuple[RGB, RGB, RGB], ...] = (
    ((196, 214, 232), (222, 208, 190), (168, 164, 158)),
    ((176, 196, 216), (206, 200, 200), (150, 148, 146)),
    ((214, 222, 230), (214, 190, 176), (180, 174, 164)),
    ((188, 200, 214), (230, 222, 206), (158, 156, 160)),
    ((206, 206, 214), (198, 190, 182), (174, 168, 160)),
    ((184, 210, 226), (220, 214, 214), (160, 154, 148)),
)
ROOF: RGB = (92, 74, 78)
DOOR: RGB = (112, 66, 34)
DARK: RGB = (18, 18, 24)
SKIN: RGB = (240, 200, 170)
PARCEL: RGB = (168, 104, 48)
WHITE: RGB = (250, 250, 250)
LIGHT_ON: RGB = (255, 252, 190)
LIGHT_OFF: RGB = (52, 58, 74)
GLASS: RGB = (60, 66, 80)
GATE: RGB = (110, 104, 100)


def render(script: SceneScript, time_ms: int, height: int, width: int) -> np.ndarray:
    """The picture at this moment: uint8 [height, width, 3]."""
    return render_view(script.view(time_ms), script.look, height, width)


def render_view(view: View, look: int, height: int, width: int) -> np.ndarray:
    """As `render`, from what is to be seen."""
    if height < 1 or width < 1:
        raise ValueError(f"height {height}, width {width}: must be positive")
    image = _background(look, view.light, view.door_open, view.parcel, height, width).copy()
    pen = _Pen(image)
    # Back row first: who stands in front hides who walks behind.
    if view.walker is not None and view.walker.y <= BACK_ROW_Y:
        _draw_person(pen, view.walker)
    for spot, colour in enumerate(view.standing):
        if colour:
            _draw_person(pen, Person(colour, SPOTS_X[spot], FRONT_ROW_Y))
    if view.walker is not None and view.walker.y > BACK_ROW_Y:
        _draw_person(pen, view.walker)
    if view.car_phase != Phase.ABSENT:
        _draw_car(pen, view)
    return np.array(image)


class _Pen:
    """Draws in scene units on a picture of any size."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)
        self._sx = image.width / SCENE_WIDTH
        self._sy = image.height / SCENE_HEIGHT

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
        left, top = round(x0 * self._sx), round(y0 * self._sy)
        # Pillow's far corner is included.
        right, bottom = round(x1 * self._sx) - 1, round(y1 * self._sy) - 1
        return left, top, max(left, right), max(top, bottom)

    def box(self, x0: float, y0: float, x1: float, y1: float, paint: RGB) -> None:
        self._draw.rectangle(self._box(x0, y0, x1, y1), fill=paint)

    def disc(self, x0: float, y0: float, x1: float, y1: float, paint: RGB) -> None:
        self._draw.ellipse(self._box(x0, y0, x1, y1), fill=paint)

    def polygon(self, points: list[tuple[float, float]], paint: RGB) -> None:
        self._draw.polygon([(round(x * self._sx), round(y * self._sy)) for x, y in points], fill=paint)


@lru_cache(maxsize=256)
def _background(
    look: int, light: bool, door_open: bool, parcel: bool, height: int, width: int
) -> Image.Image:
    sky, wall, ground = LOOKS[look]
    image = Image.new("RGB", (width, height), sky)
    pen = _Pen(image)
    pen.box(0, 44, SCENE_WIDTH, SCENE_HEIGHT, ground)
    pen.box(2, 4, 74, BACK_ROW_Y, wall)
    pen.polygon([(0, 5), (6, 0), (70, 0), (76, 5)], ROOF)
    pen.box(5, 7, 25, 25, ROOF)
    pen.box(7, 9, 23, 23, LIGHT_ON if light else LIGHT_OFF)
    pen.box(DOOR_X - 9, BACK_ROW_Y - 27, DOOR_X + 9, BACK_ROW_Y, DARK if door_open else DOOR)
    if parcel:
        _draw_parcel(pen, PARCEL_X, BACK_ROW_Y)
    # The gate: two posts and a bar behind the place where cars stop.
    pen.box(82, 48, 85, 62, GATE)
    pen.box(106, 48, 109, 62, GATE)
    pen.box(82, 50, 109, 53, GATE)
    return image


def _draw_parcel(pen: _Pen, x: float, y: float) -> None:
    """x of the left side, y of the bottom."""
    pen.box(x, y - PARCEL_SIZE, x + PARCEL_SIZE, y, PARCEL)
    pen.box(x + PARCEL_SIZE / 2 - 1.5, y - PARCEL_SIZE, x + PARCEL_SIZE / 2 + 1.5, y, WHITE)


def _draw_person(pen: _Pen, person: Person) -> None:
    half, x, y = PERSON_WIDTH / 2, person.x, person.y
    pen.box(x - half, y - PERSON_HEIGHT + 8, x + half, y, PAINTS[person.colour])
    pen.disc(x - 4, y - PERSON_HEIGHT, x + 4, y - PERSON_HEIGHT + 8, SKIN)
    if person.carrying:
        _draw_parcel(pen, x + 2, y - 3)


def _draw_car(pen: _Pen, view: View) -> None:
    """A car points to the left as it arrives and parks, to the right as it leaves; lamps burn as it moves."""
    x, y, paint = view.car_x, FRONT_ROW_Y, PAINTS[view.car]
    flip = view.car_phase == Phase.LEAVING

    def across(x0: float, x1: float) -> tuple[float, float]:
        return (x + CAR_WIDTH - x1, x + CAR_WIDTH - x0) if flip else (x + x0, x + x1)

    left, right = across(9, 27)
    pen.box(left, y - CAR_HEIGHT, right, y - CAR_HEIGHT + 8, paint)
    left, right = across(12, 24)
    pen.box(left, y - CAR_HEIGHT + 2, right, y - CAR_HEIGHT + 7, GLASS)
    pen.box(x, y - CAR_HEIGHT + 7, x + CAR_WIDTH, y - 3, paint)
    for wheel in (4, 20):
        left, right = across(wheel, wheel + 6)
        pen.disc(left, y - 6, right, y, DARK)
    if view.car_phase in (Phase.ARRIVING, Phase.LEAVING):
        left, right = across(0, 5)
        pen.box(left, y - CAR_HEIGHT + 8, right, y - CAR_HEIGHT + 13, WHITE)

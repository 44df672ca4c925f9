"""Draws a place: flat, large, in clear colours. Deterministic and fast (Pillow)."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from models.data.place.layout import (
    DOOR_HEIGHT,
    DOOR_WIDTH,
    HOUSE_ROW_Y,
    LAMP_SIZE,
    PARCEL_SIZE,
    PERSON_WIDTH,
    PLACE_HEIGHT,
    PLACE_WIDTH,
    WINDOW_SIZE,
    Layout,
)
from models.data.place.look import DAYLIGHT, Look
from models.data.place.script import Script
from models.data.place.view import Animal, Car, Person, View

RGB = tuple[int, int, int]

PAINTS: dict[str, RGB] = {
    "red": (226, 26, 32),
    "blue": (30, 76, 236),
    "green": (12, 156, 52),
    "yellow": (252, 216, 16),
    "purple": (152, 40, 176),
}
# (sky, wall, ground, road) of each palette; pale and grey, so that none is near a paint.
PALETTES: tuple[tuple[RGB, RGB, RGB, RGB], ...] = (
    ((196, 214, 232), (222, 208, 190), (176, 170, 162), (128, 128, 132)),
    ((176, 196, 216), (206, 200, 200), (158, 156, 152), (116, 118, 122)),
    ((214, 222, 230), (214, 190, 176), (186, 178, 166), (136, 134, 134)),
    ((188, 200, 214), (232, 224, 208), (164, 162, 164), (122, 120, 126)),
    ((206, 206, 214), (198, 190, 182), (182, 174, 164), (132, 126, 122)),
    ((184, 210, 226), (222, 216, 216), (168, 160, 152), (120, 122, 124)),
)
SKINS: tuple[RGB, ...] = ((240, 200, 170), (206, 152, 116), (132, 90, 66))
ROOF: RGB = (92, 74, 78)
DOOR: RGB = (112, 66, 34)
DARK: RGB = (18, 18, 24)
PARCEL: RGB = (168, 104, 48)
WHITE: RGB = (250, 250, 250)
LIT: RGB = (255, 250, 170)
UNLIT: RGB = (46, 50, 62)
GLASS: RGB = (60, 66, 80)
IRON: RGB = (84, 82, 84)
LEAVES: RGB = (104, 124, 96)
FUR: RGB = (84, 68, 58)

WINDOW_TOP_Y = 10.0
LAMP_TOP_Y = 26.0


def render(script: Script, time_ms: int, height: int, width: int) -> np.ndarray:
    """The picture at this moment, as bright as the moment is: uint8 [height, width, 3]."""
    image = draw(script.view(time_ms), script.layout, script.look, height, width)
    exposure = script.look.exposure(time_ms)
    levels = np.clip(np.arange(256) * exposure, 0, 255).astype(np.uint8).tolist()
    return np.array(image.point(levels * 3))


def draw(view: View, layout: Layout, look: Look, height: int, width: int) -> Image.Image:
    """What is to be seen, without the swing of the light. The picture may be shared: do not draw on it."""
    if height < 1 or width < 1:
        raise ValueError(f"height {height}, width {width}: must be positive")
    still = _background(layout, look, view.lights, view.door_open, view.parcel, view.sway, height, width)
    if not (view.people or view.cars or view.animals or look.post or look.hedge):
        return still
    image = still.copy()
    pen = _Pen(image, look)
    things: list[Person | Car | Animal] = [*view.people, *view.cars, *view.animals]
    # Back rows first: what stands nearer hides what is behind it.
    for thing in sorted(things, key=lambda thing: thing.y):
        if isinstance(thing, Person):
            _draw_person(pen, thing, layout, look)
        elif isinstance(thing, Car):
            _draw_car(pen, thing, layout, look)
        else:
            _draw_animal(pen, thing)
    _draw_foreground(pen, layout, look)
    return image


class _Pen:
    """Draws in scene units on a picture of any size, in the light of the day."""

    def __init__(self, image: Image.Image, look: Look) -> None:
        self._draw = ImageDraw.Draw(image)
        self._sx = image.width / PLACE_WIDTH
        self._sy = image.height / PLACE_HEIGHT
        self._daylight = DAYLIGHT[look.daylight]

    def shade(self, paint: RGB) -> RGB:
        red, green, blue = (round(c * share) for c, share in zip(paint, self._daylight, strict=True))
        return red, green, blue

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[int, int, int, int]:
        left, top = round(x0 * self._sx), round(y0 * self._sy)
        # Pillow's far corner is included.
        right, bottom = round(x1 * self._sx) - 1, round(y1 * self._sy) - 1
        return left, top, max(left, right), max(top, bottom)

    def box(self, x0: float, y0: float, x1: float, y1: float, paint: RGB, *, glows: bool = False) -> None:
        self._draw.rectangle(self._box(x0, y0, x1, y1), fill=paint if glows else self.shade(paint))

    def disc(self, x0: float, y0: float, x1: float, y1: float, paint: RGB) -> None:
        self._draw.ellipse(self._box(x0, y0, x1, y1), fill=self.shade(paint))

    def polygon(self, points: list[tuple[float, float]], paint: RGB) -> None:
        corners = [(round(x * self._sx), round(y * self._sy)) for x, y in points]
        self._draw.polygon(corners, fill=self.shade(paint))


@lru_cache(maxsize=256)
def _background(
    layout: Layout,
    look: Look,
    lights: tuple[bool, bool],
    door_open: bool,
    parcel: bool,
    sway: int,
    height: int,
    width: int,
) -> Image.Image:
    """Everything behind those who move, and the door, the lights and the parcel."""
    sky, wall, ground, road = PALETTES[look.palette]
    image = Image.new("RGB", (width, height))
    pen = _Pen(image, look)

    def across(base_x: float) -> float:
        return base_x if layout.house_left else PLACE_WIDTH - base_x

    def wide_box(x0: float, y0: float, x1: float, y1: float, paint: RGB) -> None:
        left, right = sorted((across(x0), across(x1)))
        pen.box(left, y0, right, y1, paint)

    pen.box(0, 0, PLACE_WIDTH, PLACE_HEIGHT, sky)
    pen.box(0, 52, PLACE_WIDTH, 100, ground)
    pen.box(0, 100, PLACE_WIDTH, PLACE_HEIGHT, road)
    wide_box(1, 6, 86, HOUSE_ROW_Y, wall)
    pen.polygon([(across(x), y) for x, y in ((0, 7), (5, 0), (82, 0), (88, 7))], ROOF)
    if look.tree:
        x = across(116) + 1.5 * sway
        pen.box(across(116) - 2, 22, across(116) + 2, 54, FUR)
        pen.disc(x - 15, 3, x + 15, 25, LEAVES)
    _draw_window(pen, layout.window_x, lights[0])
    if look.blind_window:
        x = 2 * layout.door_x - layout.window_x
        pen.box(x - 7, WINDOW_TOP_Y + 2, x + 7, WINDOW_TOP_Y + 14, wall)
        pen.box(x - 6, WINDOW_TOP_Y + 3, x + 6, WINDOW_TOP_Y + 13, (150, 146, 144))
    half = DOOR_WIDTH / 2
    top = HOUSE_ROW_Y - DOOR_HEIGHT
    pen.box(layout.door_x - half - 1.5, top - 1.5, layout.door_x + half + 1.5, HOUSE_ROW_Y, ROOF)
    pen.box(layout.door_x - half, top, layout.door_x + half, HOUSE_ROW_Y, DARK if door_open else DOOR)
    if parcel:
        _draw_parcel(pen, layout.parcel_x, HOUSE_ROW_Y)
    # The gate: two posts and two bars behind the place where cars stop; the lamp beside it on a post.
    wide_box(97, 46, 100, 66, IRON)
    wide_box(133, 46, 136, 66, IRON)
    wide_box(97, 49, 136, 52, IRON)
    wide_box(97, 57, 136, 60, IRON)
    pen.box(layout.lamp_x - 1.5, LAMP_TOP_Y + LAMP_SIZE, layout.lamp_x + 1.5, 56, IRON)
    _draw_lamp(pen, layout.lamp_x, lights[1])
    return image


def _draw_window(pen: _Pen, x: float, lit: bool) -> None:
    half = WINDOW_SIZE / 2
    pen.box(x - half - 2, WINDOW_TOP_Y - 2, x + half + 2, WINDOW_TOP_Y + WINDOW_SIZE + 2, ROOF)
    paint = LIT if lit else UNLIT
    pen.box(x - half, WINDOW_TOP_Y, x + half, WINDOW_TOP_Y + WINDOW_SIZE, paint, glows=lit)


def _draw_lamp(pen: _Pen, x: float, lit: bool) -> None:
    half = LAMP_SIZE / 2
    pen.box(x - half - 1.5, LAMP_TOP_Y - 2, x + half + 1.5, LAMP_TOP_Y + LAMP_SIZE + 1.5, IRON)
    pen.box(x - half, LAMP_TOP_Y, x + half, LAMP_TOP_Y + LAMP_SIZE, LIT if lit else UNLIT, glows=lit)


def _draw_parcel(pen: _Pen, x: float, y: float) -> None:
    """x of the middle, y of the bottom."""
    half = PARCEL_SIZE / 2
    pen.box(x - half, y - PARCEL_SIZE, x + half, y, PARCEL)
    pen.box(x - 1.5, y - PARCEL_SIZE, x + 1.5, y, WHITE)


def _draw_person(pen: _Pen, person: Person, layout: Layout, look: Look) -> None:
    """Whoever stands has a coat down to the ground; whoever walks has their legs apart."""
    half, x, y = PERSON_WIDTH / 2, person.x, person.y
    top, paint = y - layout.person_height, PAINTS[person.colour]
    if person.spot:
        pen.box(x - half, top + 8, x + half, y, paint)
    else:
        pen.box(x - half, top + 8, x + half, y - 8, paint)
        pen.polygon([(x - half, y - 8), (x - 1, y - 8), (x - half, y), (x - half - 3, y)], paint)
        pen.polygon([(x + 1, y - 8), (x + half, y - 8), (x + half + 3, y), (x + half, y)], paint)
    pen.disc(x - 4, top, x + 4, top + 8, SKINS[look.skin])
    if person.carrying:
        _draw_parcel(pen, x + person.carrying * (half + PARCEL_SIZE / 2 - 2), y - 4)


def _draw_car(pen: _Pen, car: Car, layout: Layout, look: Look) -> None:
    """Both ends look alike; whichever leads has a bright lamp while the car moves."""
    paint, half, y = PAINTS[car.colour], layout.car_length / 2, car.y
    top = y - layout.car_height
    roof = half - 3 if car.colour in look.long_cars else half - 8
    pen.box(car.x - roof, top, car.x + roof, top + 9, paint)
    pen.box(car.x - roof + 3, top + 2, car.x + roof - 3, top + 7, GLASS)
    pen.box(car.x - half, top + 7, car.x + half, y - 3, paint)
    for side in (-1, 1):
        x = car.x + side * (half - 8)
        pen.disc(x - 4, y - 7, x + 4, y, DARK)
    if car.heading:
        left = car.x - half if car.heading < 0 else car.x + half - 9
        pen.box(left, y - 14, left + 9, y - 5, WHITE, glows=True)


def _draw_animal(pen: _Pen, animal: Animal) -> None:
    x, y, ahead = animal.x, animal.y, animal.heading
    if animal.kind == "bird":
        lift = 2 if round(x / 4) % 2 else -2
        pen.polygon([(x - 5, y - lift), (x, y + 1), (x, y - 1)], DARK)
        pen.polygon([(x + 5, y - lift), (x, y + 1), (x, y - 1)], DARK)
        return
    pen.box(x - 6, y - 7, x + 5, y - 3, FUR)
    pen.box(x - 6, y - 4, x - 4, y, FUR)
    pen.box(x + 3, y - 4, x + 5, y, FUR)
    head = x + ahead * 6
    pen.box(head - 3, y - 10, head + 3, y - 5, FUR)


def _draw_foreground(pen: _Pen, layout: Layout, look: Look) -> None:
    """What is nearer than everybody: hides parts of those who pass."""
    if look.post:
        pen.box(layout.post_x - 2, 64, layout.post_x + 2, PLACE_HEIGHT, IRON)
    if look.hedge:
        x = layout.post_x
        pen.box(x - 14, PLACE_HEIGHT - 7, x + 14, PLACE_HEIGHT, LEAVES)

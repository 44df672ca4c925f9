"""A teacher that knows the truth of simulated clips and gets it wrong as often as it is told to.

It sees what a real one sees, the request's frames and words, and finds out by the pictures which clip they are of.
"""

import base64
import io
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from models.data.curation import prompts
from models.data.place import wording
from models.data.place.act import COLOURS, TOLD_KINDS
from models.data.place.director import Director
from models.data.place.picture import render
from models.data.place.split import split_rng

_THUMB_WH = (35, 28)
_FPS = 8
QUERY = "When did this happen: {}?"
# What has no colour is told wrong as its opposite.
_OPPOSITES = (("went on", "went off"), ("opened", "closed"))
_MISS = 0.1


@dataclass(frozen=True)
class Noise:
    """rate: how often a thing said is wrong, how often something is made up for each thing that is there, and, halved,
    how often a look is wrong. stubborn: how many of the wrong things every later look repeats."""

    rate: float
    stubborn: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class TrueClip:
    """captions and changes: what happens, in the past tense by its span, in the present by its first moment. thumbs:
    grey pictures, one a second."""

    name: str
    captions: tuple[tuple[str, float, float], ...]
    changes: tuple[tuple[str, float, float], ...]
    questions: tuple[tuple[str, tuple[tuple[float, str], ...]], ...]
    thumbs: np.ndarray


def make_clip(folder: Path, seed: int, duration_s: int, size: tuple[int, int] = (224, 280)) -> TrueClip:
    """Writes `folder/SEED.mp4` and tells what it shows. `size` is (height, width)."""
    script = Director(split_rng("train", seed, "curation"), "train", 1.3).script(duration_s)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{seed}.mp4"
    thumbs = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"preset": "ultrafast"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for index in range(duration_s * _FPS):
            picture = render(script, index * 1000 // _FPS, *size)
            if index % _FPS == 0:
                thumbs.append(_thumb(Image.fromarray(picture)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    told = [act for act in script.acts if act.kind in TOLD_KINDS and act.end_ms <= (duration_s - 2) * 1000]
    views = [script.view(time_ms) for time_ms in range(0, duration_s * 1000, 250)]
    people = [str(len(view.people)) for view in views]
    cars = [view.car_at_gate or "none" for view in views]
    return TrueClip(
        path.stem,
        tuple(
            (wording.caption(act.kind, act.colour, act.place), act.start_ms / 1000, act.end_ms / 1000)
            for act in told
        ),
        tuple(
            (wording.narration(act.kind, act.colour, act.place), act.telling_ms / 1000, act.end_ms / 1000)
            for act in told
        ),
        tuple(
            (question, answers)
            for question, answers in (
                ("How many people are in view?", _steady(people, duration_s)),
                ("Which colour is the car at the gate?", _steady(cars, duration_s)),
            )
            if len(answers) > 1  # it is asked only what changes
        ),
        np.stack(thumbs),
    )


def _steady(values: list[str], duration_s: int) -> tuple[tuple[float, str], ...]:
    """Changes of a quarter-second series that last for 3 s or more; shorter ones are no answer to anybody."""
    changes: list[tuple[float, str]] = []
    for index in range(len(values) - 12):
        lasts = len(set(values[index : index + 12])) == 1
        if lasts and index / 4 <= duration_s - 3 and (not changes or changes[-1][1] != values[index]):
            changes.append((index / 4, values[index]))
    return tuple(changes)


class NoisyTeacher:
    """Deterministic: the same request always has the same reply."""

    def __init__(self, clips: list[TrueClip], noise: Noise) -> None:
        self._clips = clips
        self._noise = noise
        self._vocabulary = sorted({text for clip in clips for text, _, _ in clip.captions})

    def reply(self, body: dict[str, Any]) -> str:
        content = body["messages"][1]["content"]
        text = content[-1]["text"]
        if text.startswith(prompts.GROUNDING_QUERY.split("{")[0]):
            caption = re.search(r"details: (.*)\nReply", text, re.DOTALL)
            assert caption is not None
            return json.dumps({"query": QUERY.format(caption[1])})
        if text.startswith(prompts.NARRATION_LINES.split("{")[0]):
            return json.dumps({"keep": [float(second) for second in re.findall(r"^([\d.]+) s:", text, re.M)]})
        times = [float(part["text"].split()[0]) for part in content[:-1] if part["type"] == "text"]
        clip = self._recognised(content[:-1], times)
        rng = random.Random(f"{self._noise.seed}/{clip.name}/{times[-1]}/{text}")
        if text == prompts.CHANGE:
            return json.dumps({"change": self._change(clip, times[-1], rng)})
        if text in (prompts.EVENTS, prompts.ACTIONS):
            name = "events" if text == prompts.EVENTS else "actions"
            entries = [{"start": a, "end": b, "caption": said} for said, a, b in self._claims(clip, name)[0]]
            return "Here it is:\n```json\n" + json.dumps({name: entries}) + "\n```"
        if text == prompts.QUESTIONS:
            questions = [
                {"question": asked, "answers": [{"time": at, "answer": said} for at, said in answers]}
                for asked, answers in self._questions(clip)[0]
            ]
            return json.dumps({"questions": questions})
        if text.startswith(prompts.CHOICE.split("{")[0]):
            return json.dumps({"choice": self._choice(clip, times[-1], text, rng)})
        for question in prompts.REGROUND:
            before, after = question.split("{caption}")
            if text.startswith(before):
                caption = text[len(before) : text.rindex(after.split("{{")[0])]
                spans = self._spans(clip, caption, rng)
                return json.dumps({"spans": [{"start": a, "end": b} for a, b in spans]})
        raise AssertionError(f"no such question: {text}")

    def _claims(
        self, clip: TrueClip, purpose: str
    ) -> tuple[list[tuple[str, float, float]], dict[str, list[tuple[float, float]]]]:
        """What is said of a clip, and which of it every look will repeat."""
        rng = random.Random(f"{self._noise.seed}/{clip.name}/{purpose}")
        end_s = float(len(clip.thumbs))
        said, believed = [], dict[str, list[tuple[float, float]]]()
        for caption, start_s, stop_s in clip.captions:
            if rng.random() < _MISS:
                continue
            claim = (caption, start_s + rng.uniform(-0.3, 0.3), stop_s + rng.uniform(-0.3, 0.3))
            if rng.random() < self._noise.rate:
                claim = self._spoiled(claim, end_s, rng)
                if rng.random() < self._noise.stubborn:
                    believed.setdefault(claim[0], []).append(claim[1:])
            said.append(claim)
        for _ in clip.captions:
            if rng.random() < self._noise.rate:
                start_s = rng.uniform(0, end_s - 8)
                made_up = (rng.choice(self._vocabulary), start_s, start_s + rng.uniform(2, 6))
                if rng.random() < self._noise.stubborn:
                    believed.setdefault(made_up[0], []).append(made_up[1:])
                said.append(made_up)
        return [(text, max(0.0, min(a, b)), min(end_s, max(a, b))) for text, a, b in said], believed

    def _spoiled(
        self, claim: tuple[str, float, float], end_s: float, rng: random.Random
    ) -> tuple[str, float, float]:
        caption, start_s, stop_s = claim
        kind = rng.randrange(3)
        if kind == 0:
            shift_s = rng.choice((-1, 1)) * rng.uniform(4, 9)
            shift_s = min(max(shift_s, -start_s), end_s - 1.5 - stop_s)
            return caption, start_s + shift_s, stop_s + shift_s
        if kind == 1:
            return caption, start_s - rng.uniform(3, 8), stop_s + rng.uniform(3, 8)
        return _recoloured(caption, rng), start_s, stop_s

    def _spans(self, clip: TrueClip, caption: str, rng: random.Random) -> list[tuple[float, float]]:
        asked = re.fullmatch(re.escape(QUERY).replace(r"\{\}", "(.*)"), caption)
        caption = asked[1] if asked else caption
        for purpose in ("events", "actions"):
            if caption in (believed := self._claims(clip, purpose)[1]):
                return believed[caption]
        found = [(a, b) for text, a, b in clip.captions if text == caption]
        # Some captions are the same in both tenses.
        found = found or [(a, b) for text, a, b in clip.changes if text == caption]
        if rng.random() < self._noise.rate / 2:
            if found and rng.random() < 0.5:
                return []
            start_s = rng.uniform(0, len(clip.thumbs) - 6)
            return [(start_s, start_s + rng.uniform(2, 6))]
        return [(a + rng.uniform(-0.3, 0), b + rng.uniform(0, 0.3)) for a, b in found]

    def _change(self, clip: TrueClip, now_s: float, rng: random.Random) -> str:
        for text, telling_s, _ in clip.changes:
            if now_s - 1 < telling_s <= now_s:
                if rng.random() < _MISS:
                    return ""
                return _recoloured(text, rng) if rng.random() < self._noise.rate else text
        if rng.random() < self._noise.rate * len(clip.changes) / len(clip.thumbs):
            return rng.choice([text for other in self._clips for text, _, _ in other.changes])
        return ""

    def _questions(
        self, clip: TrueClip
    ) -> tuple[list[tuple[str, list[tuple[float, str]]]], dict[str, list[tuple[float, str]]]]:
        rng = random.Random(f"{self._noise.seed}/{clip.name}/questions")
        asked, believed = [], dict[str, list[tuple[float, str]]]()
        for question, truth in clip.questions:
            answers = [(max(0.0, at + rng.uniform(-0.3, 0.3)), text) for at, text in truth]
            if rng.random() < self._noise.rate:
                index = rng.randrange(len(answers))
                at_s, text = answers[index]
                if rng.random() < 0.5 and index > 0:
                    answers[index] = (min(at_s + rng.uniform(4, 9), len(clip.thumbs) - 2.0), text)
                else:
                    answers[index] = (at_s, rng.choice([c for c in (*COLOURS, "5") if c != text]))
                if rng.random() < self._noise.stubborn:
                    believed[question] = answers
            asked.append((question, answers))
        return asked, believed

    def _choice(self, clip: TrueClip, now_s: float, text: str, rng: random.Random) -> str:
        options = dict(re.findall(r"^([A-Z])\. (.*)$", text, re.M))
        if rng.random() < self._noise.rate / 2:
            return rng.choice(sorted(options))
        question = next(asked for asked, _ in clip.questions if asked in text)
        answers = self._questions(clip)[1].get(question) or dict(clip.questions)[question]
        right = ""
        for at_s, answer in answers:
            if at_s <= now_s:
                right = answer
        return next((letter for letter, option in options.items() if option == right), max(options))

    def _recognised(self, parts: list[dict[str, Any]], times: list[float]) -> TrueClip:
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        chosen = sorted({0, len(urls) // 3, 2 * len(urls) // 3, len(urls) - 1})
        seen = []
        for index in chosen:
            jpeg = base64.b64decode(urls[index].split(",", 1)[1])
            seen.append((round(times[index]), _thumb(Image.open(io.BytesIO(jpeg)))))
        return min(
            self._clips,
            key=lambda clip: sum(
                float(np.abs(clip.thumbs[min(at, len(clip.thumbs) - 1)] - t).sum()) for at, t in seen
            ),
        )


def _recoloured(text: str, rng: random.Random) -> str:
    for colour in COLOURS:
        if colour in text:
            return text.replace(colour, rng.choice([other for other in COLOURS if other != colour]))
    for one, other in _OPPOSITES:
        if text.endswith(one):
            return text.removesuffix(one) + other
        if text.endswith(other):
            return text.removesuffix(other) + one
    raise AssertionError(f"no opposite of {text!r}")


def _thumb(image: Image.Image) -> np.ndarray:
    small = image.convert("RGB").resize(_THUMB_WH, Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)

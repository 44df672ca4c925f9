"""What of a teacher's claims is believed. Pure functions of claims and of what independent looks found."""

import math
import re
import statistics
from collections.abc import Callable, Iterable

from models.data.curation.claims import Answer, Claim, Question, Span
from models.data.curation.config import FilterConfig
from models.data.words import said_words

# Reasons of rejection; the manifest counts them.
UNREADABLE = "reply cannot be read"
EMPTY = "says nothing"
OUTSIDE = "outside the clip"
NOT_OVER = "not over within the clip"
REPEATED = "repeats another"
DROPPED = "dropped by the teacher itself"
NOT_FOUND = "not found again"
ELSEWHERE = "found at another time"
NOT_UNIQUE = "happens more than once"
ONE_ANSWER = "its answer does not change"
DISPUTED = "an answer is disputed"
HAPPENS = "happens in this clip too"
TOO_FEW_KEPT = "too little of the clip's list was kept"

# Some may be part of what is told, as in "First aid was given" or "Next door": those are of order before a comma alone.
_ORDER_WORDS = re.compile(
    r"^(?:(?:and|but)\s+)?(?:"
    r"(?:firstly|secondly|thirdly|then|afterwards|meanwhile|finally|lastly|eventually|subsequently)\b[,:]?|"
    r"(?:first|second|third|next|later|after that|at (?:the end|last|first)|in the (?:end|beginning)|to begin with)[,:]"
    r")\s+",
    re.IGNORECASE,
)
_ABOUT_THE_VIDEO = re.compile(
    r"\b(?:the|this) (?:video|clip|footage|scene|frame|camera) "
    r"(?:starts|begins|ends|opens|closes|cuts|fades|shows|zooms|pans)\b",
    re.IGNORECASE,
)
_FILLERS = frozenset(
    re.findall(r"\w+", "a an the is are was were has have had been being of in at on to and")
)
_MIN_WORDS = 2
_SAME_WORDS = 0.8
_NEAR_S = 3.0


def clean_caption(text: str) -> str:
    """Without words of order at its beginning; "" for one that says nothing or speaks of the video itself."""
    text = " ".join(text.split()).strip(" -*•\"'")
    while (shorter := _ORDER_WORDS.sub("", text)) != text:
        text = shorter
    if _ABOUT_THE_VIDEO.search(text) or len(words(text)) < _MIN_WORDS:
        return ""
    return text


def words(text: str) -> frozenset[str]:
    """What two texts are compared by."""
    return frozenset(re.findall(r"\w+", text.lower())) - _FILLERS


def iou(one: Span, other: Span) -> float:
    """Overlap over union of two spans; 1 for two that are one and the same moment."""
    union = max(one[1], other[1]) - min(one[0], other[0])
    overlap = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, overlap) / union if union > 0 else 1.0


def agree(one: Span, other: Span, config: FilterConfig) -> bool:
    near = max(abs(one[0] - other[0]), abs(one[1] - other[1])) <= config.max_time_error_s
    return near or iou(one, other) >= config.min_iou


def is_over(end_s: float, duration_s: float) -> bool:
    """Whether a frame of the clip is left to tell it on, however its sample is laid out."""
    # A sample's latest time for it is the next whole second and one more; our own recipe has a round at every whole
    # second before the clip's last.
    return math.ceil(end_s) + 1 <= int(duration_s) - 1


def sound(claims: Iterable[Claim], duration_s: float) -> list[tuple[Claim, str]]:
    """Each claim, cleaned, with the reason to reject it without another look, or ""."""
    judged: list[tuple[Claim, str]] = []
    kept: list[Claim] = []
    for claim in sorted(claims, key=lambda one: (one.start_s, one.end_s)):
        cleaned = Claim(clean_caption(claim.text), claim.start_s, claim.end_s)
        reason = ""
        if not cleaned.text:
            reason, cleaned = EMPTY, claim
        elif not 0 <= claim.start_s <= claim.end_s:
            reason = OUTSIDE
        elif not is_over(claim.end_s, duration_s):
            reason = NOT_OVER if claim.start_s < duration_s else OUTSIDE
        elif any(_repeats(cleaned, other) for other in kept):
            reason = REPEATED
        else:
            kept.append(cleaned)
        judged.append((cleaned, reason))
    return judged


def _repeats(claim: Claim, other: Claim) -> bool:
    mine, theirs = words(claim.text), words(other.text)
    same_words = len(mine & theirs) / max(1, len(mine | theirs)) >= _SAME_WORDS
    is_moment = claim.start_s == claim.end_s
    same_time = claim.start_s - other.end_s <= _NEAR_S if is_moment else iou(claim.span, other.span) >= 0.5
    return same_words and same_time


def confirm(
    claim: Claim, look: Callable[[int], tuple[Span, ...]], config: FilterConfig, *, unique: bool = False
) -> tuple[Claim | None, str, tuple[tuple[Span, ...], ...]]:
    """Looks again until enough looks agree or no longer can.

    Returns the claim with the median of the times that agreed, or None and the reason, and what the looks found. Of a
    moment only the start of a found span counts. With `unique` a look that finds it more than once disagrees.
    """
    is_moment = claim.start_s == claim.end_s
    found: list[tuple[Span, ...]] = []
    agreed: list[Span] = [claim.span]
    for index in range(config.votes):
        spans = look(index)
        found.append(spans)
        times = [(start, start) for start, _ in spans] if is_moment else list(spans)
        matching = [span for span in times if agree(claim.span, span, config)]
        if matching and not (unique and len(spans) > 1):
            agreed.append(
                max(matching, key=lambda span: (iou(claim.span, span), -abs(span[0] - claim.start_s)))
            )
        if len(agreed) - 1 >= config.min_agreeing:
            start_s = statistics.median(span[0] for span in agreed)
            end_s = statistics.median(span[1] for span in agreed)
            return Claim(claim.text, start_s, end_s), "", tuple(found)
        if len(agreed) - 1 + config.votes - index - 1 < config.min_agreeing:
            break
    if unique and any(len(spans) > 1 for spans in found):
        reason = NOT_UNIQUE
    else:
        reason = ELSEWHERE if any(found) else NOT_FOUND
    return None, reason, tuple(found)


def sound_question(question: Question, duration_s: float) -> tuple[Question, str]:
    """With repeated answers joined, and the reason to reject it without another look, or ""."""
    answers: list[Answer] = []
    for answer in question.answers:
        if answer.time_s < 0 or not is_over(answer.time_s, duration_s):
            return question, OUTSIDE
        if not answers or not same_answer(answers[-1].text, answer.text):
            answers.append(answer)
    joined = Question(question.text, tuple(answers))
    if len(words(question.text)) < _MIN_WORDS:
        return joined, EMPTY
    return joined, "" if len(answers) >= 2 else ONE_ANSWER


def same_answer(one: str, other: str) -> bool:
    return said_words(one) == said_words(other)


def check_times(question: Question, duration_s: float, margin_s: float) -> list[tuple[float, str]]:
    """Moments at which a look must find which answer: soon after it has become right, and shortly before the next.

    `margin_s` away from changes, whose exact moment is open to dispute; never beyond the middle.
    """
    times = []
    ends = [*(answer.time_s for answer in question.answers[1:]), duration_s]
    for answer, end_s in zip(question.answers, ends, strict=True):
        margin = min(margin_s, (end_s - answer.time_s) / 2)
        first_s, last_s = answer.time_s + margin, end_s - margin
        times.append((first_s, answer.text))
        if last_s - first_s > margin_s:
            times.append((last_s, answer.text))
    return times


def confirm_question(
    question: Question, choose: Callable[[float, int], str], duration_s: float, config: FilterConfig
) -> tuple[str, tuple[str, ...]]:
    """ "" if at every moment of `check_times` enough looks choose the answer claimed, else the reason; and what the
    looks chose. `choose` is given the moment and the look."""
    chosen: list[str] = []
    for at_s, text in check_times(question, duration_s, config.max_time_error_s):
        num_agreeing = 0
        for index in range(config.votes):
            chosen.append(choose(at_s, index))
            num_agreeing += same_answer(chosen[-1], text)
            if num_agreeing >= config.min_agreeing:
                break
            if num_agreeing + config.votes - index - 1 < config.min_agreeing:
                return DISPUTED, tuple(chosen)
    return "", tuple(chosen)


def enough_kept(num_kept: int, num_claimed: int, config: FilterConfig) -> bool:
    return num_claimed > 0 and num_kept >= max(1.0, config.min_kept_share * num_claimed)

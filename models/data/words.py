"""What two texts are compared by where they follow no grammar."""

import re

_NUMBERS = {
    name: str(value)
    for value, name in enumerate(re.findall(r"\w+", "zero one two three four five six seven eight nine ten"))
}
_ARTICLES = frozenset({"a", "an", "the"})


def said_words(text: str) -> tuple[str, ...]:
    """The words in their order, without case, punctuation and articles; small numbers as digits."""
    found = (_NUMBERS.get(word, word) for word in re.findall(r"\w+", text.lower()))
    return tuple(word for word in found if word not in _ARTICLES)

"""What is asked of texts that follow no grammar."""

import re

_NUMBERS = {
    name: str(value)
    for value, name in enumerate(re.findall(r"\w+", "zero one two three four five six seven eight nine ten"))
}
_ARTICLES = frozenset({"a", "an", "the"})


def is_whole(text: str) -> bool:
    """Without half a character (a lone surrogate), which JSON's escapes can hold, but no UTF-8 and no tokenizer."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def said_words(text: str) -> tuple[str, ...]:
    """The words in their order, without case, punctuation and articles; small numbers as digits."""
    found = (_NUMBERS.get(word, word) for word in re.findall(r"\w+", text.lower()))
    return tuple(word for word in found if word not in _ARTICLES)

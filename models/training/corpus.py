"""What the small tokenizer is trained on: what the training set says and asks, and plain English."""

from __future__ import annotations

from collections.abc import Iterator

from models.data.place.act import CAR_KINDS, COLOURS, PERSON_KINDS, PLACES
from models.data.place.instruction import wordings
from models.data.place.query import TASKS, queries
from models.data.place.wording import NOTHING, VERBS, caption, colour_text, count_text, narration
from models.data.sample import SEPARATOR

# So that an instruction in other words costs a token or two a word, not one a letter.
COMMON_WORDS = """
the be to of and a in that have it for not on with he as you do at this but his by from they we say her she
or an will my one all would there their what so up out if about who get which go me when make can like time
no just him know take people into year your good some could them see other than then now look only come its
over think also back after use two how our work first well way even new want because any these give day most
us is are was were has had been being person man woman child children boy girl dog cat bird animal car cars
truck van bus bike bicycle motorcycle vehicle train plane boat door doors gate window house home shop store
office room kitchen street road garden yard wall roof floor stairs table chair bed box parcel package bag
bottle cup book phone key light lights lamp fire smoke water rain snow sun sky tree grass red blue green
yellow black white orange purple grey brown pink big small large little long short tall high low left right
top bottom front behind inside outside near far between under above across around open opens opened close
closes closed enter enters entered leave leaves left arrive arrives arrived stop stops stopped start starts
started move moves moved moving walk walks walking run runs running stand stands standing sit sits sitting
fall falls falling carry carries carrying hold holds holding put puts pick picks drop drops deliver delivers
delivered delivery deliveries bring brings take takes taken turn turns turned push pull wait waits waiting
park parks parked drive drives driving pass passes passed cross show shows appear appears disappear happen
happens happening tell report describe count watch warn alert find notice answer ask question many much more
less few number every each always never again still yet soon before during until while since ago today night
morning evening minute second hour begin begins end ends finish finished done step steps action event
narrate whether where why how anything something nothing anyone someone nobody everything everyone please
let if does did yes no none zero one two three four five six seven eight nine ten first last next same
different ready empty full broken safe dangerous loud quiet fast slow camera video picture frame scene
machine worker line belt tool part hand hands head face hat helmet coat shirt shoes
"""
MAX_COUNT = 4


def tokenizer_texts() -> Iterator[str]:
    """Texts, repeated in proportion to how much it helps that they are short; the same every time.

    Instructions that are held out of training are held out here too.
    """
    words = COMMON_WORDS.split()
    asked = [
        text
        for task in TASKS
        for query in queries(task)
        if not query.held_out
        for text in (*wordings(query).seen, *wordings(query).late)
    ]
    told = [
        say(kind, colour, place)
        for kind in VERBS
        for colour in (COLOURS if kind in (*CAR_KINDS, *PERSON_KINDS) else ("",))
        for place in PLACES.get(kind, ("",))
        for say in (caption, narration)
    ]
    answers = [
        "yes",
        "no",
        *NOTHING.values(),
        *(count_text(count) for count in range(MAX_COUNT + 1)),
        *(colour_text(thing, colour) for thing in NOTHING for colour in COLOURS),
    ]
    for _ in range(20):
        yield from (
            "system\n",
            "user\n",
            "assistant\n",
            "<0s-1s>\n",
            "<9.5s-10.5s>\n",
            "1s to 2s",
        )
        yield from (f" {text}" for text in (*told, *answers))
        yield SEPARATOR.join(told)
    for _ in range(2):
        yield from asked
    for _ in range(3):
        yield " ".join(words)
        yield " ".join(word.capitalize() for word in words)

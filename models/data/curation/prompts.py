"""What the teacher is asked, task by task. Every question ends with the JSON that its reply must be."""

SYSTEM = (
    "You annotate videos from cameras. You see the frames of one clip in order; before each stands its time in "
    "seconds. Say only what the frames show. Reply with one JSON object of the form asked for, and nothing else."
)

_CAPTION_RULES = (
    "Give start and end in seconds, as the times before the frames have them: start is where it can first be seen, end "
    "where it is over. Leave out what had begun before the first frame or is not over by the last one. A caption is "
    "one short sentence in the past tense that would be understood by someone who has seen nothing else of the clip: "
    "who or what, what it did, where; no words of order such as first, then, finally, and none about the camera or the "
    "video."
)

EVENTS = (
    "List the events of this clip: each thing that happens and changes something in the scene, once. "
    f"{_CAPTION_RULES} If nothing happens, the list is empty.\n"
    'Reply: {"events": [{"start": 3.0, "end": 7.0, "caption": "..."}]}'
)

ACTIONS = (
    "List what people, vehicles or machines do in this clip, step by step: each step that is carried out from its "
    f"beginning to its end, as finely as the frames show it. {_CAPTION_RULES} If nobody does anything, the list is "
    "empty.\n"
    'Reply: {"actions": [{"start": 3.0, "end": 7.0, "caption": "..."}]}'
)

# Asked of two seconds at a time.
CHANGE = (
    "Compare the last of these frames with those before it. If something has visibly begun, ended or changed, say the "
    "most important change in one short sentence in the present tense; if not, or if you are not sure, leave it "
    "empty.\n"
    'Reply: {"change": "..."}'
)

# Text alone.
NARRATION_LINES = (
    "These lines were noted one by one while a clip was playing, each with its second. Several may tell of one and the "
    "same change, and some may tell of nothing. Of those about one change keep the first; drop those that tell nothing "
    "to be seen. Do not change the words. Reply with the seconds of the lines to keep.\n"
    "{lines}\n"
    'Reply: {{"keep": [3.0, 8.0]}}'
)

# Independent looks at what was claimed: the same question in other words, so that looks do not repeat each other.
REGROUND = (
    "Find in this clip: {caption}\n"
    "Give each time it happens, with start and end in seconds. If the frames do not show it, the list is empty; it may "
    'well be that they do not.\nReply: {{"spans": [{{"start": 3.0, "end": 7.0}}]}}',
    "Someone claims of this clip: {caption}\n"
    "Check it against the frames. Where is it seen to begin, and where is it over? Every detail has to be right, "
    'colours and directions too, else the list is empty.\nReply: {{"spans": [{{"start": 3.0, "end": 7.0}}]}}',
    "Go through the frames and mark the seconds during which this takes place: {caption}\n"
    "Give one entry for each time it takes place, and none if it never does.\n"
    'Reply: {{"spans": [{{"start": 3.0, "end": 7.0}}]}}',
)

# Text alone.
GROUNDING_QUERY = (
    "Turn this caption into a question that asks when it happens, naming the same things with the same details: "
    '{caption}\nReply: {{"query": "When ...?"}}'
)

QUESTIONS = (
    "Ask about this clip what somebody watching it live would want to know, where the right answer changes while the "
    "clip plays: how many there are of something, whether something is there, what is where, what somebody is doing, "
    "what colour or state something has. Give up to three questions, each with every answer and the second from which "
    "it is right; the first answer may be right from the start. An answer is a few words, and differs from the one "
    "before it. If nothing that can be asked changes, the list is empty.\n"
    'Reply: {"questions": [{"question": "...", "answers": [{"time": 0.0, "answer": "..."}, {"time": 9.0, "answer": '
    '"..."}]}]}'
)

# Asked of the frames up to one moment; the options are every answer of the question, in an order drawn for each look.
CHOICE = (
    "As of the last of these frames: {question}\n"
    "Which of these is right?\n{options}\n"
    'Reply with its letter: {{"choice": "A"}}'
)
NO_CHOICE = "none of these, or it cannot be told"

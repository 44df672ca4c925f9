"""The official counter's rules on answers made by hand."""

import pytest

from models.evaluation.benchmarks.streaming_score import clock_s, label, labels_in, score_answered

NAME = label("push")


def choice(task, answer, response):
    return {"task_type": task, "answer": answer, NAME: response}


def proactive(response_s, text, answered=True):
    history = [{"role": "assistant", "content": text, "time": response_s}]
    return {
        "task_type": "Proactive Output",
        "ground_truth_time_stamp": "00:01:00",
        "ground_truth_output": "3",
        NAME: {"answered": response_s if answered else False, "dialog_history": history},
    }


def score(*questions, nested=False):
    entry = {"questions": list(questions)}
    return score_answered([[entry]] if nested else [entry], NAME)


@pytest.mark.parametrize("nested", [False, True])
def test_first_letters_are_counted_and_silence_is_left_out_officially(nested):
    found = score(
        choice("Counting", "A", "A. four"),
        choice("Counting", "B", "Because"),  # its first letter is a B
        choice("Counting", "C", "The answer is C"),
        choice("Causal", "D", None),
        nested=nested,
    ).choices
    assert found["Counting"].official == pytest.approx(200 / 3)
    assert found["Counting"].strict == pytest.approx(100 / 3)
    assert found["Causal"].official is None and found["Causal"].strict == 0
    assert found["total"].official == pytest.approx(200 / 3) and found["total"].strict == 25
    assert (found["total"].num_questions, found["total"].num_silent) == (4, 1)
    assert found["total"].floor == 25


def test_proactive_answers_have_two_seconds():
    found = score(
        proactive(62, "It is 3 now"),
        proactive(58.0, "3"),
        proactive(57, "3"),
        proactive(60, "4"),
        proactive(64, "", answered=False),
    ).proactive["Proactive Output"]
    assert (found.in_time, found.right, found.num_questions, found.num_silent) == (60, 40, 5, 1)


def test_only_questions_with_a_response_of_that_name():
    answered = [{"questions": [choice("Counting", "A", "A"), {"task_type": "Counting", "answer": "B"}]}]
    assert score_answered(answered, NAME).choices["total"].num_questions == 1
    assert labels_in(answered) == [NAME]
    with pytest.raises(ValueError, match="no question has a response of 'other'"):
        score_answered(answered, "other")


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (choice("Counting", "A", 5), "response: must be a string"),
        (choice("Counting", "A", ["A"]), "response: must be a string"),
        (choice("Counting", None, "A"), "answer: must be a string"),
        (proactive(62, "3") | {NAME: "3"}, "response: must be an object"),
        (proactive("62", "3"), r"response\.dialog_history\.0\.time: "),
        (proactive(62, "3") | {"ground_truth_time_stamp": "soon"}, "ground_truth_time_stamp: needs HH:MM:SS"),
    ],
)
def test_what_cannot_be_scored_is_named(question, told):
    with pytest.raises(ValueError, match=f"question 0-0-1 of 'streamo-push': {told}"):
        score(choice("Counting", "A", "A"), question)


def test_clock_times():
    assert [clock_s(text) for text in ("00:01:05", "01:05", "1:00:00", "7")] == [65, 65, 3600, 7]
    with pytest.raises(ValueError, match="needs HH:MM:SS"):
        clock_s("1.5 s")

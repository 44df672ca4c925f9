"""Both benchmarks end to end, in the official layouts, on small made files: the shipped checkpoint, both modes.

Prompts and questions here are our own: only the layout is the benchmarks'.
"""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from models.data.place.act import ActKind
from models.data.place.picture import render
from models.evaluation.benchmarks.clip import ClipError, clip_frames
from models.evaluation.benchmarks.ovo_bench import OvoWording, questions, read_annotations, result_file
from models.evaluation.benchmarks.probe import Answer, Mode, Probe, ask, serve_for
from models.evaluation.benchmarks.streaming_bench import (
    StreamingWording,
    ask_all,
    read_questions,
    with_responses,
)
from models.evaluation.benchmarks.wording import wording, wordings
from models.evaluation.suite import ServingSettings
from models.vlm.frame_size import FrameBudget
from services.cli.main import app
from services.shared.settings import ModelSettings
from tests.support.place_scripts import act_of, layout_of, script_of

MODEL = ModelSettings().path
FPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video of 12 s in which a yellow car arrives between 4 and 7 s, and copies of the benchmarks."""
    root = tmp_path_factory.mktemp("benchmarks")
    script = script_of(act_of(ActKind.CAR_ARRIVES, 4_000, 7_000, "yellow"), layout=layout_of(2, 2))
    (root / "videos" / "COIN").mkdir(parents=True)
    for path in (root / "videos" / "COIN" / "a.mp4", root / "videos" / "sample_1_real.mp4"):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height = 280, 224
            for index in range(12 * FPS):
                picture = render(script, index * 1000 // FPS, 224, 280)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    ovo = root / "OVO-Bench"
    (ovo / "utils").mkdir(parents=True)
    (ovo / "data").mkdir()
    (ovo / "constant.py").write_text(
        'BR_PROMPT_TEMPLATE = """Choose. {}\nOptions: {}\n"""\n'
        'REC_PROMPT_TEMPLATE = "Count. {}"\n'
        'SSR_PROMPT_TEMPLATE = "Is this step done now? {}"\n'
        'CRR_PROMPT_TEMPLATE = "Can you tell? {}"\n'
        'raise RuntimeError("never run")\n'
    )
    (ovo / "utils" / "OVOBench.py").write_text(
        'def build(task, question):\n    if task == "REC":\n'
        '        question = "How often did they " + _anno_["activity"] + "?"\n'
    )
    (ovo / "data" / "ovo_bench_new.json").write_text(json.dumps(ANNOTATIONS))
    bench = root / "StreamingBench" / "src" / "benchmark"
    bench.mkdir(parents=True)
    (bench / "StreamingBench.py").write_text(
        'PROMPT_TEMPLATE = """Choose.\n{}\n{} {} {} {}"""\n'
        'def run():\n    inp = PROMPT_TEMPLATE.format(ques, *options)\n    inp += "\\nBest:"\n'
    )
    (bench / "StreamingBenchSQA.py").write_text(
        'PROMPT_TEMPLATE = """{}Choose.\n{}\n{} {} {} {}"""\n'
        'def run():\n    context = ""\n    if not context:\n        context += "Before: "\n'
        "    context += f\"At {q['time_stamp']}: {ques} {o[0]}, {o[1]}, {o[2]}, {o[3]}: {q['answer']}; \"\n"
    )
    (bench / "StreamingBenchProactive.py").write_text(
        'PROMPT_TEMPLATE_PROACTIVE = """Look.\n{}\n"""\n'
        "def run():\n    query = f\"{q['question']} Is it time for \\\"{q['output']}\\\"?\"\n"
    )
    (root / "real.json").write_text(json.dumps([_entry(_choice("00:00:09"), _choice("00:00:03"))]))
    (root / "sqa.json").write_text(json.dumps([[_entry(_choice("00:00:05")), _entry(_choice("00:00:10"))]]))
    (root / "proactive.json").write_text(json.dumps([_entry(PROACTIVE)]))
    return root


def _entry(*questions):
    return {"questions": list(questions), "video_path": "./videos/sample_1_real.mp4"}


def _choice(asked):
    return {
        "task_type": "Counting",
        "question": "Which car is at the gate?",
        "time_stamp": asked,
        "answer": "A",
        "options": ["a yellow car", "a blue car", "a green car", "no car"],
    }


PROACTIVE = {
    "task_type": "Proactive Output",
    "question": "Tell me when a car arrives.",
    "time_stamp": "00:00:01",
    "ground_truth_time_stamp": "00:00:06",
    "ground_truth_output": "car",
}
ANNOTATIONS = [
    {
        "id": 0,
        "task": "OJR",
        "video": "COIN/a.mp4",
        "realtime": 8.4,
        "question": "Which car?",
        "options": ["yellow", "blue"],
        "gt": 0,
    },
    {
        "id": 1,
        "task": "EPM",
        "video": "COIN/a.mp4",
        "realtime": 10,
        "question": "What came?",
        "options": ["a dog", "a car"],
        "gt": 1,
    },
    {
        "id": 2,
        "task": "REC",
        "video": "COIN/a.mp4",
        "activity": "arrive",
        "test_info": [{"realtime": 3, "count": 0}, {"realtime": 9.5, "count": 1}],
    },
    {
        "id": 3,
        "task": "SSR",
        "video": "COIN/a.mp4",
        "test_info": [
            {"realtime": 2, "step": "park", "type": 0},
            {"realtime": 6, "step": "leave", "type": 0},
            {"realtime": 8, "step": "park", "type": 1},
        ],
    },
    {
        "id": 4,
        "task": "CRR",
        "video": "COIN/a.mp4",
        "question": "Did a car arrive?",
        "ask_time": 5,
        "test_info": [{"realtime": 6, "type": 0}, {"realtime": 9, "type": 1}],
    },
]


def invoke(*arguments):
    done = CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_clips_are_sampled_by_their_own_clock(folder, tmp_path):
    budget = FrameBudget.load(MODEL)
    video = folder / "videos" / "sample_1_real.mp4"
    whole = list(clip_frames(video, 0, 100, 1, budget))
    assert [at_ms for at_ms, _ in whole] == list(range(0, 12_000, 1000))
    assert all(picture.shape == (*budget.fit(224, 280), 3) for _, picture in whole)
    part = list(clip_frames(video, 4, 6, 2, budget))
    assert [at_ms for at_ms, _ in part] == [0, 500, 1000, 1500, 2000]
    assert (part[0][1] == whole[4][1]).all() and not (part[-1][1] == whole[4][1]).all()
    with pytest.raises(ClipError, match="no frame from 20 s to 30 s"):
        list(clip_frames(video, 20, 30, 1, budget))
    with pytest.raises(ClipError, match=r"b\.mp4 is missing"):
        list(clip_frames(folder / "b.mp4", 0, 1, 1, budget))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:1000])
    with pytest.raises(ClipError, match="cannot be decoded"):
        list(clip_frames(broken, 0, 1, 1, budget))


def test_wording_is_read_and_never_run(folder, tmp_path):
    texts = OvoWording.read(folder / "OVO-Bench")
    assert texts.count_question == "How often did they {}?" and texts.choice.count("{}") == 2
    streaming = StreamingWording.read(folder / "StreamingBench")
    assert (streaming.choice_end, streaming.sequence_begin) == ("\nBest:", "Before: ")
    assert streaming.proactive_query == '{} Is it time for "{}"?'
    (tmp_path / "x.py").write_text('a = f"{1}" + b\nc = "} {" + d\nc = "two {}"\n')
    # Braces of the text itself are kept apart from places to fill; plain text is left as it is.
    assert wordings(tmp_path / "x.py") == {"c": ["}} {{{}", "two {}"]}
    with pytest.raises(ValueError, match=r"x\.py has no text 'c' \(3\.\)"):
        wording(tmp_path / "x.py", "c", 2)
    with pytest.raises(ValueError, match=r"constant\.py is missing: give the folder"):
        OvoWording.read(tmp_path)


def test_what_is_asked_of_ovo_bench(folder):
    items = read_annotations(folder / "OVO-Bench" / "data" / "ovo_bench_new.json")
    texts = OvoWording.read(folder / "OVO-Bench")
    official = {one.key: one for one in questions(items, texts, folder / "videos", Mode.OFFICIAL)}
    assert list(official) == ["0", "1", "2_0", "2_1", "3_0", "3_1", "3_2", "4_0", "4_1"]
    assert official["0"].prompt == "Choose. Which car?\nOptions: A. yellow; B. blue;\n"
    assert official["0"].end_s == 9 and official["2_1"].end_s == 10
    assert official["2_1"].prompt == "Count. How often did they arrive?"
    push = {one.key: one for one in questions(items, texts, folder / "videos", Mode.PUSH)}
    # Each step of SSR is a standing question of its own.
    assert list(push) == ["0", "1", "2", "3_0", "3_1", "4"]
    assert (push["0"].asked_s, push["0"].end_s) == (8.4, 10.4)
    assert (push["3_0"].prompt, push["3_0"].end_s) == ("Is this step done now? park", 8)
    assert (push["4"].asked_s, push["4"].end_s) == (5, 9)
    assert [one["id"] for one in read_annotations(folder / "OVO-Bench/data/ovo_bench_new.json", ["REC"])] == [
        2
    ]


def test_push_takes_the_answer_that_stands_and_silence_is_null():
    told = {
        "0": [Answer(9.0, "A"), Answer(10.0, "B")],
        "1": [],
        "2": [Answer(5.0, "1"), Answer(9.0, "2")],
        "3_0": [Answer(7.0, "Yes")],
        "3_1": [],
        "4": [Answer(6.0, "No"), Answer(9.5, "Yes")],
    }
    results = result_file(ANNOTATIONS, told, Mode.PUSH, {"fps": 1})
    assert [one["response"] for one in results["realtime"] + results["backward"]] == ["A", None]
    responses = [[info["response"] for info in one["test_info"]] for one in results["forward"]]
    assert responses == [[None, "2"], [None, None, "Yes"], ["No", "No"]]
    assert results["streamo"] == {"mode": "push", "fps": 1}
    assert "response" not in ANNOTATIONS[2]["test_info"][0]


CHOICE, _, COUNTING, STEPS, CLUE = ANNOTATIONS


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"task": "XYZ"}], "item 0 has the task 'XYZ'"),
        ([{"task": ["OJR"]}], r"item 0 has the task \['OJR'\]"),
        ([{k: v for k, v in CHOICE.items() if k != "gt"}], r"item 0 \(OJR\) lacks gt"),
        (["x"], "item 0: must be an object"),
        ([CHOICE | {"realtime": "00:03"}], r"item 0 \(OJR\): realtime: .*number"),
        ([CHOICE | {"options": 3}], r"item 0 \(OJR\): options: "),
        ([CHOICE | {"options": []}], r"item 0 \(OJR\): options: "),
        ([CHOICE | {"gt": "A"}], r"item 0 \(OJR\): gt: .*integer"),
        ([CHOICE | {"gt": 2}], r"item 0 \(OJR\): gt: must be the index of one of 2 options"),
        ([COUNTING | {"test_info": 3}], r"item 0 \(REC\): test_info: "),
        ([COUNTING | {"test_info": []}], r"item 0 \(REC\): test_info: "),
        ([COUNTING | {"test_info": [{"realtime": 3}]}], r"item 0 \(REC\): 'test_info\.0\.count' is missing"),
        ([CLUE | {"test_info": [{"type": 0}]}], r"item 0 \(CRR\): 'test_info\.0\.realtime' is missing"),
        ([STEPS | {"test_info": [{"realtime": 3, "type": 0, "step": 1}]}], r"\(SSR\): test_info\.0\.step: "),
        ([CHOICE, COUNTING, CHOICE | {"id": "2"}], r"item 2 \(OJR\): id: '2' is taken by item 1"),
        ([CHOICE | {"id": "2_1"}, COUNTING], r"item 1 \(REC\): id: 2 is taken by item 0"),
    ],
)
def test_broken_annotations_are_named(tmp_path, items, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(items))
    with pytest.raises(ValueError, match=message):
        read_annotations(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x", "entry 0-0: must be an object"),
        ({"video_path": "a.mp4"}, "entry 0-0: questions: must be a list"),
        ({"questions": ["x"], "video_path": "a.mp4"}, "question 0-0-0: must be an object"),
        ({"questions": [_choice("00:00:05")]}, "entry 0-0: 'video_path' is missing"),
        (_entry(_choice("soon")), "question 0-0-0: time_stamp: needs HH:MM:SS"),
        (_entry(_choice("00:00:03"), _choice(5)), "question 0-0-1: time_stamp: must be a string"),
        (_entry(_choice("00:00:05") | {"options": ["a", "b", "c"]}), "question 0-0-0: options: must be four"),
        (_entry(_choice("00:00:05") | {"options": []}), "question 0-0-0: options: must be four"),
        (_entry(_choice("00:00:05") | {"options": [*"abcde"]}), "question 0-0-0: options: must be four"),
        (
            _entry(PROACTIVE | {"ground_truth_time_stamp": "soon"}),
            "question 0-0-0: ground_truth_time_stamp: needs HH:MM:SS",
        ),
        (
            _entry(PROACTIVE | {"ground_truth_output": 3}),
            "question 0-0-0: ground_truth_output: must be a string",
        ),
        ([_entry(PROACTIVE)], "question 0-0-0: 'options' is missing"),
    ],
)
def test_broken_questions_are_named(tmp_path, entry, message):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=message):
        read_questions(path, tmp_path)


@pytest.mark.parametrize("mode", ["official", "push"])
def test_ovo_bench_end_to_end(folder, tmp_path, mode):
    out = tmp_path / "results.json"
    command = (
        *("ovo-bench", "--model", MODEL, "--repository", folder / "OVO-Bench"),
        *("--videos", folder / "videos", "--out", out, "--mode", mode),
    )
    printed = invoke(*command)
    assert f"OVO-Bench, mode {mode}" in printed
    results = json.loads(out.read_text())
    assert results["streamo"]["mode"] == mode and results["streamo"]["fps"] == 1
    answers = [one["response"] for one in results["realtime"] + results["backward"]]
    answers += [info["response"] for one in results["forward"] for info in one["test_info"]]
    assert len(answers) == 9
    if mode == "official":
        # The model is made to respond: it says what it can, and never nothing at all.
        assert all(isinstance(answer, str) for answer in answers)
    scored = json.loads(invoke("ovo-bench", "--score", out, "--json"))[mode]
    assert scored["tasks"]["forward"]["REC"]["num_probes"] == 2
    # A run that was cut off goes on: nothing is asked again, the result is the same.
    journal = Path(f"{out}.journal")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]))
    invoke(*command)
    assert json.loads(out.read_text()) == results
    assert sorted(journal.read_text().splitlines(keepends=True)) == sorted(lines)


@pytest.mark.parametrize("changed", ["questions_sha256", "wording_sha256"])
@pytest.mark.parametrize("benchmark", ["ovo-bench", "streaming-bench"])
def test_a_run_goes_on_with_the_same_questions_in_the_same_words_only(folder, tmp_path, benchmark, changed):
    shutil.copytree(folder, tmp_path / "copy")
    name, asked, worded = {
        "ovo-bench": ("OVO-Bench", "OVO-Bench/data/ovo_bench_new.json", "constant.py"),
        "streaming-bench": (
            "StreamingBench",
            "proactive.json",
            "src/benchmark/StreamingBenchProactive.py",
        ),
    }[benchmark]
    questions = tmp_path / "copy" / asked
    command = (
        *(benchmark, "--model", MODEL, "--repository", tmp_path / "copy" / name, "--mode", "push"),
        *("--videos", tmp_path / "copy" / "videos", "--out", tmp_path / "results.json"),
        *("--annotations" if benchmark == "ovo-bench" else "--questions", questions),
    )
    invoke(*command)
    path = questions if changed == "questions_sha256" else tmp_path / "copy" / name / worded
    others = {"Which car?": "Which?", "Tell me when": "Say when", "Choose.": "Choose!", "Look.": "See."}
    before = after = path.read_text()
    for old, new in others.items():
        after = after.replace(old, new)
    assert after != before
    path.write_text(after)
    refused = CliRunner().invoke(app, ["eval", *map(str, command)])
    assert refused.exit_code == 1 and f"under other settings ({changed}: " in str(refused.exception)


def test_made_to_respond_on_the_last_frame_alone(folder):
    served = serve_for(MODEL, Mode.OFFICIAL, ServingSettings(), device="cpu", max_at_once=2)
    video = folder / "videos" / "sample_1_real.mp4"
    probes = [
        Probe("late", video, "Which car is at the gate?", end_s=10),
        Probe("early", video, "Which car is at the gate?", end_s=2),
        Probe("middle", video, "Which car is at the gate?", end_s=10, start_s=8),
    ]
    told = {probe.key: answers for probe, answers in ask(served, probes, Mode.OFFICIAL, 1)}
    assert [one.at_s for one in told["late"]] == [10] and [one.at_s for one in told["early"]] == [2]
    assert [one.at_s for one in told["middle"]] == [10]
    assert all(answers[0].text for answers in told.values())


def test_what_it_is_made_to_say_is_what_it_sees(folder):
    served = serve_for(MODEL, Mode.OFFICIAL, ServingSettings(), device="cpu", max_at_once=2)
    video = folder / "videos" / "sample_1_real.mp4"
    probes = [Probe(str(end_s), video, "Which car is at the gate?", end_s=end_s) for end_s in (2, 10)]
    told = {probe.key: answers for probe, answers in ask(served, probes, Mode.OFFICIAL, 1)}
    assert told["2"][0].text == "no car" and told["10"][0].text == "a yellow car"


@pytest.mark.parametrize("asked_s", [0, 1, 3])
def test_free_to_be_silent_in_push(folder, asked_s):
    served = serve_for(MODEL, Mode.PUSH, ServingSettings(), device="cpu", max_at_once=2)
    video = folder / "videos" / "sample_1_real.mp4"
    probe = Probe("q", video, "Which car is at the gate?", end_s=11, asked_s=asked_s)
    ((_, told),) = ask(served, [probe], Mode.PUSH, 1)
    assert [one.text for one in told] == ["no car", "a yellow car"]
    assert told[0].at_s == asked_s and told[1].at_s in (7, 8)
    later = Probe("q", video, "Which car is at the gate?", end_s=11, asked_s=9)
    ((_, told),) = ask(served, [later], Mode.PUSH, 1)
    assert all(one.at_s >= 9 for one in told)


@pytest.mark.parametrize(
    ("asked_s", "fps"),
    # The video is over after 12 s; of one frame in 4 s there is none between the question and the end of its time.
    [(20, 1), (9, 0.25)],
)
def test_no_answer_comes_before_its_question_in_push(folder, asked_s, fps):
    served = serve_for(MODEL, Mode.PUSH, ServingSettings(), device="cpu", max_at_once=2)
    video = folder / "videos" / "sample_1_real.mp4"
    probe = Probe("q", video, "Which car is at the gate?", end_s=asked_s + 2, asked_s=asked_s)
    ((_, told),) = ask(served, [probe], Mode.PUSH, fps)
    assert [(one.at_s, one.text) for one in told] == [(asked_s, "a yellow car")]


@pytest.mark.parametrize("part", ["real", "sqa", "proactive"])
@pytest.mark.parametrize("mode", ["official", "push"])
def test_streaming_bench_end_to_end(folder, tmp_path, part, mode):
    out = tmp_path / "results.json"
    # The embedded model understands no words but those of its own instructions.
    repository = tmp_path / "StreamingBench"
    shutil.copytree(folder / "StreamingBench", repository)
    wording_file = repository / "src" / "benchmark" / "StreamingBenchProactive.py"
    wording_file.write_text(wording_file.read_text().replace("Look.\n", ""))
    command = (
        *("streaming-bench", "--model", MODEL, "--repository", repository),
        *("--videos", folder / "videos", "--questions", folder / f"{part}.json", "--out", out),
        *("--mode", mode, "--json"),
    )
    ((title, scores),) = json.loads(invoke(*command)).items()
    assert title.endswith(f"streamo-{mode}")
    shares = scores["proactive" if part == "proactive" else "choices"]["total"]
    assert shares["num_questions"] == (1 if part == "proactive" else 2)
    answered = json.loads(out.read_text())
    first = answered[0][0] if part == "sqa" else answered[0]
    assert f"streamo-{mode}" in first["questions"][0]
    if mode == "official" and part != "proactive":
        assert shares["num_silent"] == 0
    if part == "proactive" and mode == "push":
        # The model tells the car at the frame where it has arrived.
        assert first["questions"][0]["streamo-push"]["answered"] in (6.0, 7.0, 8.0)


def test_polls_go_on_until_it_is_time(folder):
    """The official way, on answers made by hand: yes at the third poll, then what to say."""
    _, asked = read_questions(folder / "proactive.json", folder / "videos")
    texts = StreamingWording.read(folder / "StreamingBench")
    seen = []

    def put(probes):
        for probe in probes:
            seen.append((probe.start_s, probe.end_s, probe.prompt))
            is_query = "Is it time" in probe.prompt
            text = ("Yes." if probe.end_s == 4 else "no") if is_query else "a car"
            yield probe, [Answer(probe.end_s, text)]

    ((_, response),) = ask_all(asked, texts, Mode.OFFICIAL, 60, put)
    assert [(start, end) for start, end, _ in seen] == [(1, 2), (1, 3), (1, 4), (1, 4)]
    assert seen[0][2] == 'Look.\nTell me when a car arrives. Is it time for "car"?\n'
    assert seen[-1][2] == "Look.\nTell me when a car arrives.\n"
    assert response["answered"] == 4
    assert [turn["content"] for turn in response["dialog_history"]][-2:] == [
        "Tell me when a car arrives.",
        "a car",
    ]

    def never(probes):
        return ((probe, [Answer(probe.end_s, "no")]) for probe in probes)

    ((_, response),) = ask_all(asked, texts, Mode.OFFICIAL, 60, never)
    # The last poll is 4 s after the right moment: too late to count.
    assert response["answered"] is False and response["dialog_history"][-1]["time"] == 10


def test_a_sequence_tells_what_was_asked_before(folder):
    data, asked = read_questions(folder / "sqa.json", folder / "videos")
    texts = StreamingWording.read(folder / "StreamingBench")
    prompts = {}

    def put(probes):
        for probe in probes:
            prompts[probe.key] = probe.prompt
            assert probe.start_s == 0 and probe.end_s == probe.asked_s
            yield probe, [Answer(probe.end_s, "A")]

    responses = {one.key: said for one, said in ask_all(asked, texts, Mode.OFFICIAL, 60, put)}
    assert prompts["0-0-0"].startswith("Choose.\nWhich car")
    assert prompts["0-1-0"].startswith(
        "Before: At 00:00:05: Which car is at the gate? A. a yellow car, B. a blue car, C. a green car, D. no car: A; "
    )
    assert with_responses(data, responses, "m")[0][1]["questions"][0]["m"] == "A"
    assert "m" not in data[0][1]["questions"][0]


def test_what_is_missing_is_named(folder, tmp_path):
    done = CliRunner().invoke(app, ["eval", "ovo-bench", "--model", str(MODEL)])
    assert "--repository, --videos, --out is missing" in str(done.exception)
    done = CliRunner().invoke(
        app,
        [
            *("eval", "ovo-bench", "--model", str(MODEL), "--repository", str(folder / "OVO-Bench")),
            *("--videos", str(tmp_path), "--out", str(tmp_path / "out.json")),
        ],
    )
    assert "1 videos are missing" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_pictures_of_the_fixture_show_the_car(folder):
    budget = FrameBudget.load(MODEL)
    pictures = [picture for _, picture in clip_frames(folder / "videos" / "COIN" / "a.mp4", 0, 11, 1, budget)]
    assert np.abs(pictures[0].astype(int) - pictures[9].astype(int)).max() > 100

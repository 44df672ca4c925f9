import json
import sys
from pathlib import Path
from typing import Any

import pytest

from services.cli.main import main
from tests.support.noisy_teacher import Noise, NoisyTeacher, make_clip
from tests.support.stub_endpoint import Answer, StubEndpoint
from tests.support.video import write_video


def run(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["streamo", "data", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "v.mp4", 4, size=(56, 56))
    samples = [
        {
            "video_path": "v.mp4",
            "task_type": "qa",
            "question": [{"content": "Q?", "time": 0}],
            "response": [],
        },
        {"video_path": "gone.mp4"},
    ]
    path = tmp_path / "raw.json"
    path.write_text(json.dumps(samples))
    return path


def test_a_package_that_is_missing_is_named_with_what_needs_it(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    check = ("check", raw, "--video-root", raw.parent / "videos")
    assert run(*check, monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().err
    assert "videos needs av" in said and "--no-videos" in said and "--plot" not in said
    assert run(*check, "--no-videos", "--plot", raw.parent / "x.png", monkeypatch=monkeypatch) == 1
    assert "--plot needs matplotlib" in capsys.readouterr().err


def test_convert_and_check(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, root = tmp_path / "out.json", tmp_path / "videos"
    (tmp_path / "prompt.txt").write_text("Watch closely.")
    asked = ["convert", raw, out, "--to", "stream", "--fps", "2", "--video-root", root]
    assert run(*asked, monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().err
    assert f"{raw}: sample 1: video_path: not found" in said and "--skip-broken" in said
    assert not out.exists()

    code = run(*asked, "--skip-broken", "--system-prompt", tmp_path / "prompt.txt", monkeypatch=monkeypatch)
    assert code == 0
    said = capsys.readouterr().out
    assert "1 samples, 8 rounds (8 Silence)" in said and "1 broken samples" in said
    (sample,) = json.loads(out.read_text())
    assert sample["messages"][0]["content"] == "Watch closely."

    assert run("check", out, "--json", "--plot", tmp_path / "plot.png", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["states"] == {"silence": 8, "standby": 0, "response": 0}
    assert (tmp_path / "plot.png").exists()
    assert run("check", raw, "--video-root", root, monkeypatch=monkeypatch) == 1
    shown = capsys.readouterr()
    assert "2 samples" in shown.out and "not found" in shown.out and "sample 1" in shown.err

    images = ["convert", raw, out, "--to", "image", "--video-root", root, "--skip-broken"]
    assert run(*images, monkeypatch=monkeypatch) == 1
    assert "frames_dir" in capsys.readouterr().err
    assert run(*images, "--frames-dir", tmp_path / "frames", monkeypatch=monkeypatch) == 0
    assert all(Path(image).is_file() for image in json.loads(out.read_text())[0]["images"])


def test_what_is_no_file_of_samples_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text("nothing")
    for arguments in (
        ["check", tmp_path / "bad.json"],
        ["check", tmp_path / "gone.json"],
        ["convert", tmp_path / "bad.json", tmp_path / "out.json", "--to", "stream"],
        ["convert", tmp_path / "bad.json", tmp_path / "out.json", "--to", "stream", "--fps", "0"],
    ):
        assert run(*arguments, monkeypatch=monkeypatch) == 1
        said = capsys.readouterr().err.strip()
        assert said.startswith("Error: ") and said.count("\n") == 0


def test_curate_by_its_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("curate", monkeypatch=monkeypatch) == 1
    assert "--example" in capsys.readouterr().err
    assert run("curate", "--example", monkeypatch=monkeypatch) == 0
    example = capsys.readouterr().out
    clips = [make_clip(tmp_path / "videos", seed, 20, size=(112, 140)) for seed in range(2)]
    noisy = NoisyTeacher(clips, Noise(0.1))
    is_ill = True
    config = tmp_path / "curate.toml"

    def answer(body: dict[str, Any]) -> Answer:
        return Answer(status=400, payload=b"ill") if is_ill else Answer(noisy.reply(body))

    with StubEndpoint(answer) as stub:
        settings = example.replace("http://127.0.0.1:8000/v1", stub.base_url)
        settings = settings.replace('# key_variable = ""', 'key_variable = "THE_KEY"')
        config.write_text(settings.replace("# tasks = [", 'tasks = ["event", "qa"]\n# ['))
        assert run("curate", config, monkeypatch=monkeypatch) == 1
        assert "THE_KEY" in capsys.readouterr().err and stub.num_requests == 0

        monkeypatch.setenv("THE_KEY", "sk-secret")
        assert run("curate", config, monkeypatch=monkeypatch) == 1
        said = capsys.readouterr()
        assert "4 undone" in said.err and "same command goes on" in said.err
        is_ill = False
        assert run("curate", config, monkeypatch=monkeypatch) == 0
        said = capsys.readouterr()
        assert set(stub.keys_seen) == {"Bearer sk-secret"}
    assert "train" in said.out and "manifest.json" in said.out
    everything = said.out + said.err + "".join(p.read_text() for p in (tmp_path / "curated").glob("*.json*"))
    assert "sk-secret" not in everything
    curated = tmp_path / "curated"
    assert run("check", curated / "train.json", "--video-root", curated, monkeypatch=monkeypatch) == 0

    config.write_text(settings.replace("[clips]", "[clips]\nspeed = 1"))
    assert run("curate", config, monkeypatch=monkeypatch) == 1
    assert "clips.speed" in capsys.readouterr().err

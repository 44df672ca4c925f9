import json
from pathlib import Path

import pytest

from models.data import json_array
from models.data.json_array import JsonArrayWriter, read_json_array


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_elements_come_one_by_one_however_the_text_is_cut(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_array, "_CHUNK_CHARS", chunk)
    elements = [{"a": 'x,]} \\ "é"'}, [1, [2]], 1234567, "text", None, {"b": {"c": [True]}}, -1.5e3]
    path = tmp_path / "list.json"
    for text in (
        json.dumps(elements),
        json.dumps(elements, indent=2),
        " \n[" + json.dumps(elements)[1:] + "\n ",
    ):
        path.write_text(text, encoding="utf-8")
        assert list(read_json_array(path)) == elements


def test_a_single_object_is_a_list_of_one(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"a": 1}')
    assert list(read_json_array(path)) == [{"a": 1}]
    path.write_text(" [ ] ")
    assert list(read_json_array(path)) == []


def test_what_comes_before_a_fault_is_given_before_it(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text('[{"a": 1}, {"a": 2}, {"a": ')
    elements = read_json_array(path)
    assert [next(elements), next(elements)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(ValueError, match=r"cut\.json: .*element 2, character 27"):
        next(elements)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a list"),
        ('"text"', "expected a list"),
        ('[{"a": 1}', "cut off"),
        ('[{"a": 1} {"a": 2}]', "expected ',' or ']'"),
        ('[{"a": 1},]', "Expecting value"),
        ('[{"a": 1}] x', "followed by something else"),
        ('{"a": 1}, {"a": 2}', "followed by something else"),
    ],
)
def test_what_is_no_list_is_told_with_its_place(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json.*character \d+") as told:
        list(read_json_array(path))
    assert reason in str(told.value)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.json"
    with pytest.raises(TypeError), JsonArrayWriter(path) as writer:
        writer.write({"a": object()})
    assert list(path.parent.iterdir()) == []
    elements = [{"a": "é"}, {"b": [1]}]
    with JsonArrayWriter(path) as writer:
        for element in elements:
            writer.write(element)
    assert json.loads(path.read_text(encoding="utf-8")) == elements
    assert "é" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["out.json"]
    with JsonArrayWriter(path):
        pass
    assert json.loads(path.read_text()) == []

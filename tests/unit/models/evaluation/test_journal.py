import pytest

from models.evaluation.journal import Journal, read_journal


def test_a_run_goes_on_where_it_was_cut_off(tmp_path):
    path = tmp_path / "runs" / "journal.jsonl"
    with Journal(path, {"model": "a", "seeds": (1, 2)}) as journal:
        journal.add("one", {"told": "ä"})
        journal.add("two", [1])
    whole = path.read_bytes()
    for kept in range(len(whole) - 1, len(whole) - 12, -1):
        path.write_bytes(whole[:kept])
        with Journal(path, {"model": "a", "seeds": [1, 2]}) as journal:
            assert "one" in journal and journal["one"] == {"told": "ä"}
            assert "two" not in journal
            journal.add("two", [2])
        assert read_journal(path) == ({"model": "a", "seeds": [1, 2]}, [{"told": "ä"}, [2]])


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r", "\r\n"])
def test_a_text_may_hold_what_ends_a_line_elsewhere(end, tmp_path):
    path = tmp_path / "journal.jsonl"
    told = [f"a{end}b", f"{end}", f"b{end}"]
    with Journal(path, {"wording": end}) as journal:
        journal.add("one", told[0])
        journal.add("two", told[1])
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:-3])
    with Journal(path, {"wording": end}) as journal:
        assert [journal[key] for key in ("one", "two")] == told[:2]
        assert path.read_bytes() == whole
        journal.add("three", told[2])
    assert read_journal(path) == ({"wording": end}, told)


def test_a_file_of_which_not_even_the_settings_are_whole_begins_anew(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"settings": {"mo')
    with Journal(path, {"model": "a"}) as journal:
        journal.add("one", 1)
    assert read_journal(path) == ({"model": "a"}, [1])


def test_other_settings_are_refused_and_the_first_difference_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, {"model": "a", "source": {"split": "test"}}) as journal:
        journal.add("one", 1)
    with pytest.raises(ValueError, match=r"source\.split: 'test' then, 'validation' now"):
        Journal(path, {"model": "a", "source": {"split": "validation"}})
    assert read_journal(path)[1] == [1]


def test_one_run_writes_at_a_time(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path, {}) as journal:
        journal.add("one", 1)
        with pytest.raises(ValueError, match="being written by another run"):
            Journal(path, {})
        journal.add("two", 2)
    with Journal(path, {}) as journal:
        assert "two" in journal


def test_a_record_is_written_once(tmp_path):
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        journal.add("one", 1)
        with pytest.raises(ValueError, match="'one' is there already"):
            journal.add("one", 1)


def test_reading_a_run_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="missing or empty"):
        read_journal(tmp_path / "journal.jsonl")

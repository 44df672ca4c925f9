import pytest

from services.camera.fault import Fault, FaultKind


def test_faults_are_read_from_text():
    assert Fault.parse("stall") == Fault(FaultKind.STALL)
    assert Fault.parse("close:20") == Fault(FaultKind.CLOSE, 20)


@pytest.mark.parametrize("text", ["", "explode", "close:soon", "close:-1", "CLOSE"])
def test_other_text_is_refused(text: str):
    with pytest.raises(ValueError, match="fault"):
        Fault.parse(text)


def test_a_fault_waits_for_its_frames():
    fault = Fault.parse("close:3")
    assert [fault.hits(FaultKind.CLOSE, frames) for frames in range(5)] == [False, False, False, True, True]
    assert not fault.hits(FaultKind.STALL, 10)

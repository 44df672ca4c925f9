import numpy as np
import pytest

from services.cli.histogram_receiver import HistogramReceiver
from services.shared.settings import TelemetrySettings
from services.shared.telemetry import Metrics, Telemetry


@pytest.fixture
def receiver():
    receiver = HistogramReceiver()
    receiver.start()
    yield receiver
    receiver.stop()


def test_quantiles_come_out_within_a_bucket_of_the_truth(receiver):
    values = np.random.default_rng(0).lognormal(4, 0.8, size=2000)
    for service, part in (("a", values[:500]), ("b", values[500:])):
        telemetry = Telemetry(service, TelemetrySettings(otlp_endpoint=receiver.endpoint))
        for value in part:
            telemetry.record(Metrics.DECISION_MS, float(value))
        telemetry.close()
    name = Metrics.DECISION_MS[0]
    assert receiver.count(name) == 2000
    found = receiver.quantiles(name, (0.5, 0.95, 0.99))
    assert found == pytest.approx(np.quantile(values, (0.5, 0.95, 0.99)), rel=0.1)


def test_what_was_never_recorded_has_no_quantiles(receiver):
    assert receiver.quantiles("streamo.nothing", (0.5,)) is None

"""Telemetry that a test can look into."""

from collections import Counter

from services.shared.settings import TelemetrySettings
from services.shared.telemetry import Declared, Telemetry


class CountingTelemetry(Telemetry):
    """Exports nothing; keeps the counts, by name and reason."""

    def __init__(self, service: str) -> None:
        super().__init__(service, TelemetrySettings())
        self.counts: Counter[tuple[str, str]] = Counter()

    def count(self, declared: Declared, amount: int = 1, **attributes: str) -> None:
        self.counts[declared[0], attributes.get("reason", "")] += amount

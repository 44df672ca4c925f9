"""How services log: a line each on standard error, with time, level and who says it."""

import logging


def start_logging(kafka: int = logging.WARNING) -> None:
    """Ours from INFO on, others' from WARNING on, Kafka's client from `kafka` on.

    Never below WARNING: its debug lines quote records, and records hold passwords. Where the process logs already,
    that stays as it is.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("services").setLevel(logging.INFO)
    logging.getLogger("kafka").setLevel(max(kafka, logging.WARNING))

"""What a run takes of energy, as codecarbon estimates it where that is installed."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ANYWHERE = "USA"
"""codecarbon wants a country for the carbon of a kWh, of which nothing is kept."""


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Within, energy is counted; afterwards the mapping has `energy_kwh`, or is empty.

    The tracker is the one that asks no server, and keeps to itself what stops it. It is the whole
    machine's energy where the processor tells it, and an estimate by its type where not.
    """
    found: dict[str, Any] = {}
    if importlib.util.find_spec("codecarbon") is None:
        yield found
        return
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # before it reads log_level
    with warnings.catch_warnings(action="ignore"):  # of save_to_file, which older ones need
        tracker = OfflineEmissionsTracker(
            country_iso_code=ANYWHERE,
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
        )
    tracker.start()
    try:
        yield found
    finally:
        tracker.stop()
    said = getattr(tracker, "final_emissions_data", None)  # it has none where it did not start
    if said is not None:
        found["energy_kwh"] = float(said.energy_consumed)

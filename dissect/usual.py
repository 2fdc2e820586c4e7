"""What is taken unless something else is given: one place for options, their help, Python signatures and hints.

The settings of a training stand in `runs.config.Config`. Nothing is imported here, so that --help is instant.
"""

from typing import Any

RUNS = "runs"  # the folder of the runs
FIGURES = "figures"  # the folder of figures, in that of a group or of the runs
REPORT = "report.html"
MODEL, DATASET = "srgnn", "demo"
FULL = "full"  # the variant of a group that lacks no part
TRIALS = 12  # of a tuning
LISTED = 20  # items that are recommended
RESAMPLES, MOST_RESAMPLES = 2_000, 10_000  # of the bootstrap; and at most, if Holm's correction needs more
ASKED_RESAMPLES = 100, 1_000_000  # the fewest and the most that may be asked for
RANKED = 2_000  # prefixes of validation sessions on which second opinions judge a criterion
# Nats for an open L0 gate. Chosen on planted data that no result is of: at 5, the price of a parameter in the BIC, 0.92
# of a useless matrix stayed open, at 40 0.22, at 200 nothing, and the needed ones lost no accuracy (docs/opinions.md).
L0_WEIGHT = 100.0
LEAST_CLICKS = 5  # of an item of a log
TEST_SHARE = 0.2  # of the sessions of a log
VALIDATION_SHARE = 0.1  # of the training sessions, for the files of an export
# How much a study trains: width, most epochs (of `train`), and seeds. `full` has the paper's width and seeds.
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"dim": 32, "epochs": 2, "seeds": (1,)},
    "eighth": {"dim": 64, "epochs": 30, "seeds": (1, 2, 3)},
    "full": {"dim": 256, "epochs": 30, "seeds": (1, 2, 3, 4, 5)},
}
SCALE = next(iter(SCALES))

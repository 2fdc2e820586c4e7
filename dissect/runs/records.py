"""The fields of each record in a run folder. A record is checked once, when it is read.

A record may hold more (a later version writes it), and lack what is NotRequired (an earlier version wrote it).
"""

from __future__ import annotations

import re
import reprlib
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from dissect.errors import DataError
from dissect.text import STEERS

KINDS = {  # what msgspec calls the kind of a value -> in words
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "none",
}
LARGEST = 2**53  # a whole number that JSON readers agree on
BINS = 162  # of a histogram of log alpha: those of dissect.sparsevd.density, and the two beyond its ends
METRICS = ("hr@5", "hr@10", "hr@20", "mrr@5", "mrr@10", "mrr@20")

Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Words = Annotated[str, Meta(pattern=rf"^[^{STEERS}]*\Z")]  # what tables and verdicts print
Percent = Annotated[float, Meta(ge=0, le=100)]
Points = Annotated[float, Meta(ge=-100, le=100)]  # a difference of percentages
Accuracy = TypedDict("Accuracy", dict.fromkeys(METRICS, Percent))  # type: ignore[misc]
ALSO = ("ndcg@20",)  # metrics by the ranks that no summary has
LISTED = ("coverage@20", "popularity@20")  # of the lists of 20 items (training/lists.py)
EVERY = (*METRICS, *ALSO, *LISTED)
OfLists = TypedDict("OfLists", dict.fromkeys(LISTED, Percent), total=False)  # type: ignore[misc]
At20 = TypedDict("At20", {"hr@20": Percent, "mrr@20": Percent})
Bias = TypedDict("Bias", {"hr@20": Points, "mrr@20": Points})


class Selected(TypedDict):
    epoch: Amount


class Kept(TypedDict):
    """Of one matrix or block: how many of its weights are kept at each threshold."""

    matrix: Words
    block: Words
    numel: Positive
    kept: dict[Words, Count]


class Summary(TypedDict):
    """summary.json"""

    seed: Count
    protocol: Literal["clean", "paper"]
    epochs: Amount  # 0 for a baseline
    seconds: Amount
    n_parameters: Count
    test: Accuracy
    test_worst_ties: NotRequired[At20]
    test_worst_ties_at_best: NotRequired[At20]  # under protocol "paper": at the epoch with the best MRR@20
    selection_bias: NotRequired[Bias]
    lists: NotRequired[OfLists]
    steps: NotRequired[Count]
    selected: NotRequired[Selected]
    checks: NotRequired[dict[Words, At20]]
    removable: NotRequired[list[Words]]
    valid: NotRequired[Accuracy | None]  # None: no session was held out
    density: NotRequired[list[Kept]]


class Environment(TypedDict):
    """environment.json"""

    max_steps: NotRequired[Count]  # 0 for a baseline
    command: NotRequired[list[str]]
    processor: NotRequired[Words]
    threads: NotRequired[Count]
    device: NotRequired[Words]


class Part(TypedDict):
    """train or test in data.json"""

    sessions: Count


class Data(TypedDict):
    """data.json"""

    n_items: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Parts(TypedDict):
    """The parts of data.json, where they count"""

    test: NotRequired[Part]


class TunedBy(TypedDict):
    """tuned.json: where the settings of a group come from, if `dissect tune` found them"""

    file: Words
    sha256: Words
    trials: Count
    asked: NotRequired[Count]


class Identifiers(TypedDict):
    """items.json"""

    identifiers: list[int | str]


class Covered(TypedDict):
    """How much of a declared name SparseVD covers: `numel` and `covered` count weights."""

    matrix: Words
    declared: bool
    role: Words
    module: Words
    numel: Positive
    covered: Count
    reason: Words


class Coverage(TypedDict):
    """coverage.json"""

    coverage: list[Covered]


class Train(msgspec.Struct, tag_field="kind", tag="train"):
    """A line of metrics.jsonl: the loss since the line before."""

    step: Count
    epoch: Amount
    ce: Annotated[float, Meta(ge=-1e15, le=1e15)]
    seconds: Amount


class Eval(msgspec.Struct, tag_field="kind", tag="eval", rename=lambda name: name.replace("_", "@")):
    """A line of metrics.jsonl: the accuracy on a split."""

    split: Words
    step: Count
    epoch: Amount
    hr_5: Percent
    hr_10: Percent
    hr_20: Percent
    mrr_5: Percent
    mrr_10: Percent
    mrr_20: Percent


class Density(TypedDict):
    """A line of density.jsonl: one matrix or block at one step."""

    step: Count
    epoch: Amount
    kl_weight: Amount
    matrix: Words
    block: Words
    role: Words
    module: Words
    numel: Positive
    log_alpha_hist: Annotated[list[Count], Meta(min_length=BINS, max_length=BINS)]
    kept: dict[Words, Count]
    theta_abs_gt: dict[Words, Count]
    theta_gt: dict[Words, Count]


class Piece(TypedDict):
    """One of the second opinions: what was asked, and the time that it took."""

    how: dict[str, Any]
    seconds: Amount


class SecondOpinions(TypedDict):
    """opinions/s<seed>.json"""

    judged: NotRequired[dict[str, Any]]
    split: Literal["valid", "test"]
    ranked: Count
    roles: dict[Words, list[Words]]
    training_seconds: Amount
    pieces: dict[Words, Piece]


class Exported(TypedDict):
    """The sizes of a layer in export.json: rows and columns, of a GRU its units and inputs."""

    kind: Literal["Linear", "GRU"]
    whole: tuple[Count, Count]
    left: tuple[Count, Count]
    unused: bool


class Origin(TypedDict):
    """The run that an export came from."""

    path: Words
    variant: Words
    seed: Count
    step: Count
    command: list[str]


class Export(TypedDict):
    """export.json"""

    kind: Literal["dissect export"]
    run: Origin
    config: dict[str, Any]
    n_items: Positive
    dim: Positive
    is_table: bool
    part: Words | None
    layers: dict[Words, Exported]
    unread: list[Words]
    sha256: dict[Annotated[str, Meta(pattern=r"^[a-z][a-z.]*\Z")], Words]


def in_words(error: msgspec.ValidationError, given: Any) -> str:
    """What is wrong with a value of `given`, and where: "lr is a number, not 'fast'"."""
    says, _, at = str(error).partition(" - at `$")  # of a whole record there is no place
    at = at.removesuffix("`")
    value, names = given, list[str]()
    for key, place in re.findall(r"\.([^.\[]+)|\[(\d+)\]", at):
        value = value[key or int(place)]
        names[:1] = [key, *names[:1]] if key else [f"{names[0]} {int(place) + 1}"]  # "label of arm 1"
    name = " of ".join(names) or "it"
    if kinds := re.fullmatch("Expected `([^`]*)`, got `[^`]*`", says):
        right = " or ".join(KINDS.get(kind, kind) for kind in kinds[1].split(" | "))
        return f"{name} is {right}, not {reprlib.repr(value)}"
    if lacking := re.fullmatch("Object missing required field `(.*)`", says):
        return f"{name} has no {lacking[1]}"
    if says.startswith("Invalid enum value"):
        return f"{name} cannot be {reprlib.repr(value)}"
    return f"{name}: {says}"


def check(value: Any, kind: Any, place: str, hint: str) -> None:
    """Raises DataError if `value`, found at `place`, is not a record of this kind."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        says = re.sub("matching regex .* - at", "without control characters - at", str(error))
        raise DataError(f"{place} is damaged: {says}.", hint) from error

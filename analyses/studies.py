"""Studies: a plan of trainings, and the table or figure that answers it. Each table and figure of the paper is one.

A study is data. A user's own is a TOML file of the same form:

    question = "Does a second step of propagation help?"
    [[arm]]
    label = "one step"
    model = "srgnn"
    [[arm]]
    label = "two steps"
    model = "srgnn"
    options = {steps = 2}
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from analyses import paper
from analyses.paper import Printed
from dissect.errors import DataError, UsageError, unknown
from dissect.runs.config import is_file_name
from dissect.runs.records import in_words
from dissect.text import STEERS
from models import MODELS

Verb = Literal["train", "run", "literal"]
Shows = Literal["table", "lines", "lengths"]  # of a user's own study
CHOICES = {"verb": get_args(Verb), "shows": get_args(Shows)}


@dataclass(frozen=True)
class Arm:
    """A row of a study: a model as it is trained.

    verb      "train": as it is; "run": with SparseVD, as `dissect run`; "literal": as `dissect run --literal`
    x         where it stands on the axis of a figure, if the study is one
    printed   what the paper prints, by data set
    """

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    without: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    verb: Verb = "train"
    x: float | None = None
    printed: Mapping[str, Printed] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """What is trained to answer a question.

    shows   "table": accuracy, side by side; "density": Figure 3 or 4 (`module`); "lines": HR@20 against `axis`;
            "lengths": accuracy by the length of the session; "data": counts of the data set; "claims": what the runs of
            other studies say of each claim of the paper
    pairs   the pairs of labels that a table shows; () those with its best row
    expects the shape of the paper's figure in words, by data set of the paper
    chosen  the labels of its arms, if they are only some of those of the whole study
    """

    name: str
    question: str
    arms: tuple[Arm, ...]
    shows: Literal["table", "density", "lines", "lengths", "data", "claims"] = "table"
    module: str = ""
    axis: str = ""
    pairs: tuple[tuple[str, str], ...] = ()
    expects: Mapping[str, str] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()


# Whole sessions in a step of models with a target after every click: about as many targets as 100 prefixes have.
WHOLE_SESSIONS = {"batch_size": 32}
# The models of Table 2 in its order, then the strong simple ones that it lacks.
TABLE2 = ("attenmixer", "nextitnet", "narm", "srgnn", "gcsan", "sgnnhn", "lessr", "niser", "dhcn", "dsan")
BESIDE = ("gru4rec", "sasrec", "core", "pop", "spop", "sknn", "vsknn", "sr", "sfsknn", "stan", "vstan")
GNNS = ("srgnn", "gcsan", "sgnnhn", "lessr", "niser", "dhcn")  # of Table 2
LEVELS, HEADS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), (1, 2, 4, 8, 16, 32)
ABLATIONS = {"paper-M": "one level", "paper-IP": "no priority", "paper-LI": "concatenated", "paper-LP": "max pooling"}


def _plain(name: str) -> Arm:
    """A model as it is."""
    of_sessions = name in ("nextitnet", "gru4rec", "sasrec")
    return Arm(name, name, settings=WHOLE_SESSIONS if of_sessions else {}, printed=paper.TABLE2.get(name, {}))


def _sparse(name: str) -> Arm:
    return Arm(f"{name}, with SparseVD", name, verb="run")


# Each trained model without SparseVD and with it.
SPARSEVD = [(_plain(name), _sparse(name)) for name in (*TABLE2, *BESIDE) if MODELS[name].learns]


def _table2() -> tuple[Arm, ...]:
    plain = [_plain(name) for name in (*TABLE2, *BESIDE)]
    sparse = [_sparse(name) for name in ("srgnn", "attenmixer")]
    control = Arm("srgnn, normalised", "srgnn", preset="normalised")
    return (*plain, control, *sparse)


def _table3() -> tuple[Arm, ...]:
    arms = []
    for name in ("srgnn", "sgnnhn"):
        arms.append(Arm(name, name, printed=paper.TABLE2[name]))
        mixed = {"readout": "attenmixer"}
        arms.append(Arm(f"{name}, Atten-Mixer", name, options=mixed, printed=paper.TABLE3[name]))
    return (*arms, Arm("srgnn, normalised", "srgnn", preset="normalised"))


def _dissections() -> tuple[Arm, ...]:
    return (Arm("srgnn", "srgnn", verb="run"), Arm("srgnn, published settings", "srgnn", verb="literal"))


# What the paper compares: with the readout of Atten-Mixer against without; beside it what the paper lacks, the control.
PAIRS3 = (
    ("srgnn, Atten-Mixer", "srgnn"),
    ("sgnnhn, Atten-Mixer", "sgnnhn"),
    ("srgnn, normalised", "srgnn"),
    ("srgnn, Atten-Mixer", "srgnn, normalised"),
)


def _table4() -> tuple[Arm, ...]:
    parts = [
        Arm(f"{preset.removeprefix('paper')}: {says}", "attenmixer", preset=preset, printed=paper.TABLE4[preset])
        for preset, says in ABLATIONS.items()
    ]
    whole = Arm("attenmixer", "attenmixer", printed=paper.TABLE2["attenmixer"])
    return (whole, *parts, Arm("without attention", "attenmixer", without=("attention",)))


TABLE4 = _table4()


def _others() -> tuple[Arm, ...]:
    named = [name for name in GNNS if name != "srgnn"]
    literal = "{}, published settings"
    return tuple(arm for name in named for arm in (_sparse(name), Arm(literal.format(name), name, verb="literal")))


STUDIES = {
    study.name: study
    for study in (
        Study("table1", "Are the data sets those of the paper?", (), "data"),
        Study("figure3", "Does propagation wither in SR-GNN?", _dissections(), "density", module="gnn"),
        Study("figure4", "Does SR-GNN's readout hold?", _dissections(), "density", module="readout"),
        Study("others", "Do propagation and readout of other models do the same?", _others(), "density"),
        Study("table2", "Is Atten-Mixer better than the models before it, and what does it cost?", _table2()),
        Study(
            "sparsevd",
            "Which models are better if they are trained with SparseVD?",
            tuple(chain(*SPARSEVD)),
            pairs=tuple((sparse.label, plain.label) for plain, sparse in SPARSEVD),
        ),
        Study(
            "table3",
            "Does Atten-Mixer's readout improve other models, or does the normalisation?",
            _table3(),
            pairs=PAIRS3,
        ),
        Study(
            "table4",
            "Does each part of Atten-Mixer count?",
            TABLE4,
            pairs=tuple(("attenmixer", arm.label) for arm in TABLE4[1:]),
        ),
        Study(
            "figure6",
            "How many levels does Atten-Mixer need?",
            tuple(Arm(f"L = {n}", "attenmixer", options={"levels": n}, x=n) for n in LEVELS),
            "lines",
            axis="levels L",
            expects={
                **dict.fromkeys(("diginetica", "gowalla"), "lowest at L = 1, rises, then falls"),
                "lastfm": "lowest at L = 1, highest at L = 2, then falls",
            },
        ),
        Study(
            "figure7",
            "How many heads does Atten-Mixer need?",
            tuple(Arm(f"H = {n}", "attenmixer", options={"heads": n}, x=n) for n in HEADS),
            "lines",
            axis="heads H",
            expects={**dict.fromkeys(("diginetica", "gowalla"), "rises with H"), "lastfm": "highest at H = 1"},
        ),
        Study(
            "figure8",
            "Which readout is best for sessions of which length?",
            (
                Arm("SR-GNN, Atten-Mixer", "srgnn", options={"readout": "attenmixer"}),
                Arm("SR-GNN", "srgnn"),
                Arm("GC-SAN", "gcsan"),
                Arm("SR-GNN, normalised", "srgnn", preset="normalised"),
            ),
            "lengths",
            expects={
                "diginetica": "falls with length; SR-GNN with Atten-Mixer highest",
                **dict.fromkeys(("gowalla", "lastfm"), "rises with length; SR-GNN with Atten-Mixer highest"),
            },
        ),
        Study("claims", "Which claims of the paper hold?", (), "claims"),
    )
}


class _ArmFile(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    label: str = ""
    options: dict[str, Any] = {}
    preset: str | None = None
    without: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    verb: Verb = "train"
    x: float | None = None


class _StudyFile(msgspec.Struct, forbid_unknown_fields=True):
    arm: Annotated[list[_ArmFile], msgspec.Meta(min_length=1)]
    question: str = ""
    shows: Shows = "table"
    axis: str = ""


def find_study(name: str) -> Study:
    """A study by its name, or from a TOML file. Raises UsageError for an unknown name, DataError for a wrong file."""
    if not name.endswith(".toml"):
        if name not in STUDIES:
            raise unknown("study", name, STUDIES)
        return STUDIES[name]
    path = Path(name)
    try:
        content = tomllib.loads(path.read_bytes().decode())
        read = msgspec.convert(content, _StudyFile)
    except OSError as error:
        raise UsageError(f"Could not read the study {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        hint = "docs/studies.md has an example."
        if wrong := re.search(r"unknown field `(.*?)`(.*)", str(error)):  # at the top, or "- at `$.arm[0]`"
            kind = _ArmFile if wrong[2] else _StudyFile
            about = unknown("key of an arm" if wrong[2] else "key", wrong[1], kind.__struct_fields__)
            raise DataError(f"{path} is not a study: {about}", about.hint or hint) from error
        says = in_words(error, content) if isinstance(error, msgspec.ValidationError) else error
        if choices := next((known for key, known in CHOICES.items() if str(says).startswith(f"{key} ")), ()):
            hint = f"It is one of {', '.join(choices)}."
        raise DataError(f"{path} is not a study: {says}.", hint) from error
    arms = tuple(Arm(**{**msgspec.structs.asdict(of), "label": of.label or of.model}) for of in read.arm)
    if any(re.search(f"[{STEERS}]", f"{arm.label}{read.question}{read.axis}") for arm in arms):
        raise DataError(f"{path}: labels, question and axis must have no control characters.")
    if read.axis and read.shows != "lines":
        raise DataError(f'{path}: axis has no effect without shows = "lines".')
    labels, places = set[str](), set[float]()
    for arm in arms:
        if arm.model not in MODELS and not is_file_name(arm.model):
            near = unknown("model", arm.model, MODELS)
            raise UsageError(f"{path}: {near.message}", near.hint)
        if arm.label in labels:
            raise DataError(f"{path}: two arms have the label {arm.label!r}; each needs one of its own.")
        if arm.x is not None and not math.isfinite(arm.x):
            raise DataError(f"{path}: the x of {arm.label!r} must be a finite number, not {arm.x}.")
        if read.shows == "lines" and arm.x is None:
            raise DataError(f'{path}: with shows = "lines" each arm needs an x; {arm.label!r} has none.')
        if arm.x is not None and read.shows != "lines":
            raise DataError(f'{path}: the x of {arm.label!r} has no effect without shows = "lines".')
        if arm.x in places:
            raise DataError(f"{path}: two arms have x = {arm.x:g}; a line has one point there.")
        labels.add(arm.label)
        places.update(() if arm.x is None else (arm.x,))
    return Study(path.stem, read.question or f"What does {path.stem} show?", arms, read.shows, axis=read.axis or "x")


def only(study: Study, labels: Collection[str]) -> Study:
    """The study with some of its arms; without labels it is whole. Raises UsageError for a label that it has not."""
    if not labels:
        return study
    if study.shows == "claims":
        raise UsageError("The claims need the arms of several studies.", "Name one of them: dissect study list")
    for label in labels:
        if label not in (known := [arm.label for arm in study.arms]):
            raise unknown(f"arm of {study.name}", label, known)
    pairs = tuple(pair for pair in study.pairs if {*pair} <= {*labels})
    arms = tuple(arm for arm in study.arms if arm.label in labels)
    chosen = tuple(arm.label for arm in arms) if len(arms) < len(study.arms) else ()
    return replace(study, arms=arms, pairs=pairs, chosen=chosen)

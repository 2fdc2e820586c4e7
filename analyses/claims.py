"""Each claim of the paper (Zhang et al., WSDM 2023), and what finished runs say of it.

A claim is data and a function from tables to an answer. It is judged twice, under the paper's protocol and under the
fair one (analyses/evidence.py has the rules). For densities the paper's protocol is that of `dissect run --literal`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analyses import evidence as by
from analyses import paper
from analyses import study as studying
from analyses.answers import FAILS, HOLDS, NOT_APPLICABLE, UNDECIDED
from analyses.density import finished
from analyses.entries import JUDGED
from analyses.evidence import MISSING, Evidence, Finding
from analyses.studies import ABLATIONS, GNNS, STUDIES, TABLE2, Study
from analyses.study import Job
from analyses.verdict import judge
from dissect.data import planted
from dissect.data.sessions import Dataset
from dissect.data.stats import statistics
from dissect.errors import DataError
from dissect.experiment.plan import Say, unsaid
from dissect.runs import folders
from dissect.runs.config import CALIBRATED, LITERAL, Config
from models import MODELS
from models.search import SPARSE, TRAINED

PROTOCOLS = ("clean", "paper")  # fair, and the paper's own
STUDIED = ("figure3", "table2", "table3", "table4", "figure6", "figure7", "figure8", "others")
ANSWERS = (HOLDS, FAILS, UNDECIDED, by.NOT_RUN)
MIXED, PLAIN, GCSAN = "SR-GNN, Atten-Mixer", "SR-GNN", "GC-SAN"  # arms of Figure 8
LEAST_SLOWER = 5.0  # times: what "about 10 times" has to be at least


class Case(NamedTuple):
    """Where a claim is looked at: a data set, the paper's data set it comes from, a runs folder, a protocol."""

    data: Dataset
    log: str
    runs_dir: Path
    protocol: str
    of: Callable[[str], Evidence]  # by the name of a study
    verdict: Callable[[Path], dict[str, Any]]  # by the group


@dataclass(frozen=True)
class Claim:
    """A claim; `study` trains what it needs ("" for none), `printed` is what the paper gives for it, by data set."""

    name: str
    where: str
    says: str
    study: str
    judge: Callable[[Case], Finding]
    printed: Callable[[str], str] = lambda log: ""
    logs: tuple[str, ...] = paper.SETS


def says(text: str) -> Callable[[str], str]:
    return lambda log: text


# --- counts ------------------------------------------------------------------------------------------------


def same_counts(case: Case) -> Finding:
    """Table 1, for the whole data set by the rules of the paper."""
    if case.data.name not in paper.SETS:
        return MISSING
    counts = statistics(case.data)
    measured = [counts[name] for name in paper.COUNTS]
    is_same = all(round(a, 2) == b for a, b in zip(measured, paper.TABLE1[case.log]))
    return Finding(
        HOLDS if is_same else FAILS, ", ".join(f"{value:,.4g}" if value < 100 else f"{value:,}" for value in measured)
    )


def distinct(case: Case) -> Finding:
    """Whether 65 to 75 % of the sessions have no item twice, in the whole data set by the rules of the paper."""
    if case.data.name not in paper.SETS:
        return MISSING
    share = statistics(case.data)["distinct"]
    return Finding(HOLDS if 65 <= share < 75 else FAILS, f"{share:.1f} % of the sessions")


# --- densities ---------------------------------------------------------------------------------------------


def dissection(case: Case, model: str) -> Path | None:
    """The group that dissects a model under the protocol of the case: of `dissect run`, or with `--literal`.

    Nothing but width, length, precision and, with `dissect run`, the KL weight and the items that shadows learn from
    may differ from its usual settings; of a tuned one, what is searched for the model too. Another preset or option is
    another model. Of several the one that has the usual KL weight, then
    that of most seeds, the widest, the longest, that of the highest KL weight, the last by name: never by when it was
    made. None if none is finished.
    """
    settings = LITERAL if case.protocol == "paper" else CALIBRATED
    free = ("max_steps", "products", *(["kl_weight", "shadow_items"] if settings is CALIBRATED else []))
    found = []
    for group, config in folders.configs(case.runs_dir):
        if config.model != model or config.split_hash != case.data.split_hash or not config.has_verdict:
            continue
        usual = Config(model, config.dataset, config.split_hash, **settings)
        is_tuned = (group / folders.TUNED_BY).exists()
        searched = {*TRAINED, *SPARSE, *MODELS[model].search} if is_tuned else set()
        same = {name: getattr(usual, name) for name in {*free, *searched & studying.KNOWN}} | {"model_options": {}}
        is_same = replace(config, **same) == usual and not config.model_options.keys() - {"dim", *searched}
        if is_same and (seeds := len(finished(group))):
            has_usual_weight = config.kl_weight == usual.kl_weight
            size = (config.model_options.get("dim", 0), config.max_steps, config.kl_weight)
            found.append((has_usual_weight, seeds, *size, group.name, group))
    return max(found)[-1] if found else None


def observed(case: Case, model: str, question: str) -> Finding:
    """O1 (propagation withers) or O2 (the readout holds) of the verdict on a model."""
    if (group := dissection(case, model)) is None:
        return MISSING
    try:
        verdict = case.verdict(group)
    except DataError as error:
        return Finding(UNDECIDED, error.message, (group.name,))
    answer = verdict[question]
    # The paper reads its figures: no control, no doubt.
    decided = answer["figures_say"] if case.protocol == "paper" else answer["answer"]
    dim = folders.group_config(group)["model_options"].get("dim")
    seeds = len(verdict["seeds"])
    where = f"{model}, width {dim}, KL weight {verdict['kl_weight']:g}, {seeds} seed{'s' * (seeds != 1)}"
    reasons = answer["reasons"][:1] if decided == answer["figures_say"] else answer["reasons"]
    return Finding(decided, f"{where}: {'; '.join(reasons)}", (group.name,), answer["figures_say"])


def similar(case: Case) -> Finding:
    """O1 and O2 of the other graph networks: holds if each holds, fails if one fails."""
    others = [model for model in GNNS if model != "srgnn"]
    found = {(model, question): observed(case, model, question) for model in others for question in ("O1", "O2")}
    there = {key: each for key, each in found.items() if each.answer not in (by.NOT_RUN, NOT_APPLICABLE)}
    if not there:
        return MISSING
    answers = [each.answer for each in there.values()]
    is_whole = all(each.answer != by.NOT_RUN for each in found.values())
    answer = FAILS if FAILS in answers else HOLDS if is_whole and set(answers) == {HOLDS} else UNDECIDED
    words = "; ".join(f"{model} {question} {each.answer}" for (model, question), each in there.items())
    lacking = [model for (model, question), each in found.items() if question == "O1" and each.answer == by.NOT_RUN]
    words += f"; not run: {', '.join(lacking)}" if lacking else ""
    return Finding(
        answer, words, tuple(dict.fromkeys(group for each in there.values() for group in each.groups)), answer
    )


# --- tables ------------------------------------------------------------------------------------------------


def printed_order(case: Case) -> Finding:
    """Every pair of models of Table 2, by either metric, in the order that the paper prints."""
    rows = {name: of[case.log] for name, of in paper.TABLE2.items()}
    pairs = [
        (a, b, metric)
        for metric, part in zip(JUDGED, ("hr", "mrr"))
        for a in rows
        for b in rows
        if getattr(rows[a], part) > getattr(rows[b], part)
    ]
    return by.ordered(case.of("table2"), pairs)


def gnns_first(case: Case) -> Finding:
    """Whether each graph network is better than NARM and than NextItNet."""
    pairs = [(gnn, other, metric) for gnn in GNNS for other in ("narm", "nextitnet") for metric in JUDGED]
    return by.ordered(case.of("table2"), pairs)


def slower_gnns(log: str) -> list[str]:
    """The graph networks whose epoch takes longer than that of Atten-Mixer in Table 2."""
    own = paper.TABLE2["attenmixer"][log].seconds or 0.0
    return [name for name in GNNS if (paper.TABLE2[name][log].seconds or 0.0) > own]


def hr_mrr(*rows: tuple[str, paper.Printed]) -> str:
    return "; ".join(f"{name} {row.hr:.2f} / {row.mrr:.2f}" for name, row in rows)


def improvement(model: str) -> Callable[[str], str]:
    def printed(log: str) -> str:
        before, after = paper.TABLE2[model][log], paper.TABLE3[model][log]
        gain = [100 * (getattr(after, part) / getattr(before, part) - 1) for part in ("hr", "mrr")]
        return f"{hr_mrr(('without', before), ('with', after))} (+{gain[0]:.1f} %, +{gain[1]:.1f} %)"

    return printed


def readout_of(model: str) -> Claim:
    return Claim(
        f"table3-{model}",
        "Table 3",
        f"Atten-Mixer's readout makes {model} better in HR@20 and MRR@20.",
        "table3",
        lambda case: by.best(case.of("table3"), f"{model}, Atten-Mixer", [model], JUDGED),
        improvement(model),
    )


def part_of(preset: str) -> Claim:
    short, words = preset.removeprefix("paper"), ABLATIONS[preset]
    return Claim(
        f"table4{short}",
        "Table 4",
        f"Atten-Mixer is better than its ablation {short} ({words}).",
        "table4",
        lambda case: by.best(case.of("table4"), "attenmixer", [f"{short}: {words}"], JUDGED),
        lambda log: hr_mrr(("whole", paper.TABLE2["attenmixer"][log]), (short, paper.TABLE4[preset][log])),
    )


def of_table2(*names: str) -> Callable[[str], str]:
    return lambda log: hr_mrr(*((name, paper.TABLE2[name][log]) for name in names))


def seconds(log: str, *names: str) -> str:
    return ", ".join(f"{name} {paper.TABLE2[name][log].seconds:,.0f} s" for name in names)


def drawn(
    name: str, words: str, printed: str, rule: Callable[..., Finding], *more: Any, logs: Any = paper.SETS
) -> Claim:
    """A claim on a figure, or on runs that a figure has, by a rule of analyses/evidence.py and its arguments."""
    study = name.split("-")[0]
    return Claim(
        name,
        study.replace("figure", "Figure "),
        words,
        study,
        lambda case: rule(case.of(study), *more),
        says(printed),
        logs,
    )


TWO, ONE = ("diginetica", "gowalla"), ("lastfm",)
OF_DATA = (
    Claim(
        "table1",
        "Table 1",
        "The data set has these clicks, prefixes, items and clicks a session.",
        "",
        same_counts,
        lambda log: "{:,}, {:,}, {:,}, {:.2f}".format(*paper.TABLE1[log]),
    ),
    Claim(
        "distinct",
        "Section 1",
        "Almost 70 % of the sessions have distinct items.",
        "",
        distinct,
        says("almost 70 %"),
        ("diginetica",),
    ),
)
OF_DENSITY = (
    Claim(
        "figure3",
        "Figure 3",
        "Propagation of SR-GNN withers.",
        "figure3",
        lambda case: observed(case, "srgnn", "O1"),
        says("density approaches zero"),
    ),
    Claim(
        "figure4",
        "Figure 4",
        "The attention of SR-GNN's readout holds.",
        "figure3",
        lambda case: observed(case, "srgnn", "O2"),
        says("a relatively higher density, the highest"),
    ),
    Claim("others", "Section 3.3", "Other models give similar results.", "others", similar, says("no numbers")),
)
OF_TABLES = (
    Claim(
        "table2-best",
        "Table 2",
        "Atten-Mixer is better than each other model in HR@20 and MRR@20.",
        "table2",
        lambda case: by.best(case.of("table2"), "attenmixer", TABLE2, JUDGED),
        of_table2("attenmixer", "niser", "dsan", "srgnn"),
    ),
    Claim(
        "table2-order",
        "Table 2",
        "All ten models stand in the printed order, by HR@20 and by MRR@20.",
        "table2",
        printed_order,
        lambda log: " > ".join(sorted(paper.TABLE2, key=lambda name: -paper.TABLE2[name][log].hr)) + " (HR@20)",
    ),
    Claim(
        "table2-gnns",
        "Section 5.2",
        "Graph networks are better than NARM and NextItNet.",
        "table2",
        gnns_first,
        of_table2("srgnn", "narm", "nextitnet"),
    ),
    Claim(
        "table2-dhcn",
        "Section 5.2",
        "An epoch of DHCN takes about 10 times as long as one of other models.",
        "table2",
        lambda case: by.times_slower(case.of("table2"), "dhcn", TABLE2, LEAST_SLOWER),
        lambda log: seconds(log, "dhcn", "srgnn", "attenmixer"),
    ),
    Claim(
        "table2-cost",
        "Section 5.2",
        "An epoch of Atten-Mixer is quicker than one of the graph networks that the paper timed as slower.",
        "table2",
        lambda case: by.quicker(case.of("table2"), "attenmixer", slower_gnns(case.log)),
        lambda log: seconds(log, "attenmixer", *slower_gnns(log)),
    ),
    readout_of("srgnn"),
    readout_of("sgnnhn"),
    Claim(
        "table3-control",
        "Table 3, our control",
        "The gain of SR-GNN is more than that of Atten-Mixer's normalisation alone.",
        "table3",
        lambda case: by.best(case.of("table3"), "srgnn, Atten-Mixer", ["srgnn, normalised"], JUDGED),
        says("no such control"),
    ),
    *map(part_of, ABLATIONS),
)
LOWEST, POWER = "HR@20 is lowest with one level.", "O(H L² n d)"
FALL, RISE = (f"All models {way} with the length of the session." for way in ("fall", "rise"))
OF_FIGURES = (
    drawn("figure6-worst", LOWEST, "worst at L = 1", by.worst_at, 1.0),
    drawn(
        "figure6-peak",
        "With more levels HR@20 rises to a peak, then falls.",
        "a peak, then a fall",
        by.peaked,
        logs=TWO,
    ),
    drawn("figure6-peak", "HR@20 is highest with two levels.", "the peak is at L = 2", by.best_at, 2.0, logs=ONE),
    drawn("figure7-heads", "HR@20 rises with the number of heads.", "rises from H = 1 to 32", by.rising, logs=TWO),
    drawn("figure7-heads", "HR@20 is highest with one head.", "best at H = 1", by.best_at, 1.0, logs=ONE),
    drawn(
        "figure8-best",
        "SR-GNN with Atten-Mixer's readout is best at most lengths.",
        "best for most cases",
        *(by.mostly, MIXED, (PLAIN, GCSAN), JUDGED),
    ),
    drawn(
        "figure8-worst",
        "SR-GNN has the lowest HR@20 at most lengths.",
        "worst for most cases",
        *(by.mostly, PLAIN, (MIXED, GCSAN), ["hr@20"], -1),
    ),
    drawn(
        "figure8-long",
        "On long sessions GC-SAN has a higher HR@20 than SR-GNN.",
        "better for relatively long sessions",
        *(by.on_long, GCSAN, PLAIN),
    ),
    drawn("figure8-length", FALL, "fall", by.along_length, (MIXED, PLAIN, GCSAN), -1, JUDGED, logs=("diginetica",)),
    drawn(
        "figure8-length", RISE, "rise", by.along_length, (MIXED, PLAIN, GCSAN), 1, JUDGED, logs=("gowalla", "lastfm")
    ),
    *(
        replace(drawn(name, f"Time grows no faster than the {of}.", POWER, by.growth, most), where="Section 4.3")
        for name, of, most in (("figure6-cost", "square of the levels", 2.0), ("figure7-cost", "number of heads", 1.0))
    ),
)
CLAIMS = (*OF_DATA, *OF_DENSITY, *OF_TABLES, *OF_FIGURES)


# --- all of them -------------------------------------------------------------------------------------------


def whole(found: Study) -> Study:
    """The study with all that it trains: `claims` has the arms of the studies that it needs, each with its name."""
    arms = [replace(arm, label=f"{name}: {arm.label}") for name in STUDIED for arm in STUDIES[name].arms]
    return replace(found, arms=tuple(arms)) if found.shows == "claims" else found


def size_of(scale: dict[str, Any], name: str) -> dict[str, Any]:
    """The size of a study that the claims need: its own of the tuned settings, by the labels that it gives itself."""
    tuned, start = scale.get("tuned", {}), f"{name}: "
    own = {label.removeprefix(start): path for label, path in tuned.items() if label.startswith(start)}
    return {**scale, "tuned": own}


def jobs_of(found: Study, data: Dataset, scale: dict[str, Any], runs_dir: str | Path, say: Say = unsaid) -> list[Job]:
    """The trainings of any study: those of `claims` are those of all studies that it needs."""
    return (jobs if found.shows == "claims" else partial(studying.jobs, found))(data, scale, runs_dir, say)


def jobs(data: Dataset, scale: dict[str, Any], runs_dir: str | Path, say: Say = unsaid) -> list[Job]:
    """The trainings that the claims need, each once, seed by seed; labels begin with the first study that needs one."""
    found: dict[Path, Job] = {}
    for name in STUDIED:
        for job in studying.jobs(STUDIES[name], data, size_of(scale, name), runs_dir, say):
            named = replace(job, arm=replace(job.arm, label=f"{name}: {job.arm.label}"))
            found.setdefault(job.run, named)
    return sorted(found.values(), key=lambda job: job.seed)


def command(study: str, data: str, words: str = "", protocol: str = "clean") -> str:
    """The command that trains what a study needs under a protocol; `words` are the options of its size."""
    # Densities have the paper's protocol in an arm of the same study.
    own = " --protocol paper" if protocol == "paper" and STUDIES[study].shows != "density" else ""
    return " ".join(f"dissect study run {study} --dataset {data} {words}{own}".split())


def trained(data: Dataset, runs_dir: str | Path) -> set[tuple[str, str]]:
    """(model, protocol) of the sound groups on a split."""
    here = (config for _, config in folders.configs(runs_dir) if config.split_hash == data.split_hash)
    return {(config.model, config.protocol) for config in here}


def judged(data: Dataset, scale: dict[str, Any], runs_dir: str | Path) -> pd.DataFrame:
    """The claims on a data set, a row for each: name, where, says, study, printed, and for each of PROTOCOLS
    `<protocol> answer`, `<protocol> says` (without the doubts), `<protocol> measured` and `<protocol> groups`.

    A data set that is no split of one of the paper's logs is asked what the paper claims of Diginetica. Needs no
    training: claims without finished runs are "not run".
    """
    log = studying.log_of(data.name) or paper.SETS[0]
    there = trained(data, runs_dir)
    verdict = cache(lambda group: judge(group, planted.judged(data.name)))
    rows: dict[str, dict[str, Any]] = {}
    for protocol in PROTOCOLS:

        @cache
        def of(name: str, protocol: str = protocol) -> Evidence:
            size = {**size_of(scale, name), "protocol": "paper" if protocol == "paper" else None}
            arms = tuple(arm for arm in STUDIES[name].arms if (arm.model, protocol) in there)  # planning takes time
            return Evidence(
                STUDIES[name], studying.jobs(replace(STUDIES[name], arms=arms), data, size, runs_dir), protocol
            )

        case = Case(data, log, Path(runs_dir), protocol, of, verdict)
        for claim in (claim for claim in CLAIMS if log in claim.logs):
            try:
                found = claim.judge(case)
            except DataError as error:  # a damaged record decides nothing; the other claims have theirs
                found = Finding(UNDECIDED, error.message)
            about = {"name": claim.name, "where": claim.where, "says": claim.says, "study": claim.study}
            row = rows.setdefault(claim.name, {**about, "printed": claim.printed(log)})
            row |= {f"{protocol} {key}": value for key, value in found._asdict().items()}
    return pd.DataFrame(rows.values())

"""A study on a data set: what is to be trained, what is there, and the tables that answer it.

Its trainings are ordinary run folders. What one study has trained another finds, and `dissect compare` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses import compare, paper
from analyses.entries import entry
from analyses.significance import read_gains
from analyses.studies import Arm, Study
from dissect.data.catalog import STAND_INS
from dissect.data.sessions import Dataset
from dissect.data.stats import statistics
from dissect.errors import BusyError, DataError, DissectError, DivergedError, FinishedError, UsageError, unknown
from dissect.experiment import tuned
from dissect.experiment.plan import OF_BASELINE, Plan, Say, planned, unsaid
from dissect.experiment.subject import find_model
from dissect.experiment.train import Manner, note_tuning, train_plan
from dissect.runs import folders
from dissect.runs.config import CALIBRATED, DENSE, LITERAL, SETTINGS
from dissect.runs.folders import each_sound
from dissect.training.device import processor_as_it_was
from dissect.training.evaluation import gains
from dissect.usual import SCALES
from models import MODELS

# A constant rate, and the best epoch on validation: models need different numbers of epochs. Nothing is tuned.
USUAL: dict[str, Mapping[str, Any]] = {
    "train": {**DENSE, "schedule": "constant"},
    "run": CALIBRATED,
    "literal": LITERAL,
}
LONGEST = 10  # clicks of a prefix in Figure 8; longer ones count together
TRAIN = "Train them: dissect study run, with the same study and options."
NONE_FINISHED = "No seed of this study is finished.", TRAIN
KNOWN = {each.name for each in SETTINGS} | {"epochs"}


@dataclass(frozen=True)
class Job:
    """One training of a study: an arm with a seed."""

    arm: Arm
    seed: int
    plan: Plan

    @property
    def run(self) -> Path:
        return self.plan.run(self.seed)

    @property
    def is_done(self) -> bool:
        return folders.is_done(self.run)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to train: beside a dissection belongs its matched dense model."""
        return all(folders.is_done(each.run(self.seed)) for each in (self.plan, *self.plan.beside))


def size_of(scale: str, **given: Any) -> dict[str, Any]:
    """A scale by its name, with what is given in place of its own: dim, epochs, seeds, and the protocol if it is not
    the usual one. Raises UsageError for an unknown name.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    return SCALES[scale] | {name: value for name, value in given.items() if value not in (None, ())}


def arguments(arm: Arm, scale: dict[str, Any]) -> dict[str, Any]:
    """What `train` and `planned` are told about an arm at a scale: {"dim": ..., "epochs": ..., "seeds": ...}, and
    perhaps "protocol", if it is not the usual one, and "tuned", the files of `tuned_arms`.

    The settings of the arm come first: its epochs or max_steps take the place of those of the scale. Raises UsageError
    for a setting that does not exist, or has no effect.
    """
    for name in arm.settings.keys() - KNOWN:
        raise unknown(f"setting of arm {arm.label}", name, KNOWN)
    if "where" in arm.settings and (arm.settings["where"] == "none") != (arm.verb == "train"):
        how = "without SparseVD" if arm.verb == "train" else "with SparseVD"
        raise UsageError(f'Arm {arm.label}: verb = "{arm.verb}" trains {how}; where says otherwise.', "Leave one out.")
    given: dict[str, Any] = {"preset": arm.preset, "without": arm.without, "usual": USUAL[arm.verb], **arm.settings}
    given |= {"options": dict(arm.options), "tuned": scale.get("tuned", {}).get(arm.label)}
    if arm.verb == "train" and scale.get("protocol"):  # of densities `literal` arms have the paper's protocol
        given = {"protocol": scale["protocol"], **given}
    if arm.model in MODELS and not MODELS[arm.model].learns:
        if idle := sorted(arm.settings.keys() - set(OF_BASELINE)) + ["verb"] * (arm.verb != "train"):
            has = "has" if len(idle) == 1 else "have"
            raise UsageError(f"Arm {arm.label}: {', '.join(idle)} {has} no effect, because {arm.model} is not trained.")
        return {**given, "usual": DENSE}
    given["options"] = {"dim": scale["dim"], **arm.options}
    if arm.verb != "run" and not {"epochs", "max_steps"} & arm.settings.keys():  # `run` has a length of its own
        given["epochs"] = scale["epochs"]
    return given


def jobs(study: Study, data: Dataset, scale: dict[str, Any], runs_dir: str | Path, say: Say = unsaid) -> list[Job]:
    """The trainings of a study, seed by seed, so that a study that is stopped has all arms with fewer seeds.

    Raises UsageError if an arm has wrong settings, or two arms are the same training.
    """
    found, labels = [], dict[tuple[Path, str], str]()
    for arm in study.arms:
        if arm.verb == "run" and study.shows == "table" and scale.get("protocol") == "paper":
            continue  # `dissect run` has a protocol of its own
        given = arguments(arm, scale)
        try:
            plan = planned(arm.model, data, runs_dir=runs_dir, seeds=scale["seeds"], say=say, **given)
        except UsageError as error:
            raise UsageError(f"Arm {arm.label}: {error.message}", error.hint) from error
        if (other := labels.setdefault((plan.group, plan.variant), arm.label)) != arm.label:
            raise UsageError(f"The arms {other!r} and {arm.label!r} are the same training.", "Leave one of them out.")
        found.append([Job(arm, seed, plan) for seed in plan.seeds])
    longest = max(map(len, found), default=0)
    return [of_arm[place] for place in range(longest) for of_arm in found if place < len(of_arm)]


def tuned_arms(study: Study, data: Dataset, scale: dict[str, Any], runs_dir: str | Path) -> dict[str, Path]:
    """The files of tuned settings in the runs folder for the arms that have some, by label.

    Best are those of the arm's own preset and options (`study tune`), else those of its model as it is: what the arm
    says itself, and the size of the study, win over them. The published settings of SparseVD are not tuned.
    """
    files = dict[str, Path]()
    for arm in study.arms:
        given, subject = arguments(arm, scale), find_model(arm.model)
        of = subject.name, data.split_hash, tuned.verb_of(given["usual"])
        path = tuned.find(*of, Path(runs_dir), arm.preset, given["options"], subject.source, arm.settings)
        if path is not None and tuned.read(path).model_source == subject.source:
            files[arm.label] = path
    return files


def to_tune(study: Study, scale: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is to be tuned for a study, by the label of its first arm: the arguments of `experiment.tune` and the model.

    Arms of one model, preset and options are tuned once, with nothing left out; those of a figure with an axis are
    tuned as the model is, not at every x. Raises UsageError if there is none.
    """
    found = dict[str, dict[str, Any]]()
    for arm in study.arms:
        given = arguments(replace(arm, options={}) if study.shows == "lines" else arm, scale)
        if tuned.verb_of(given["usual"]) == "literal":
            continue
        del given["without"], given["tuned"]
        given |= {"model": arm.model, "sparsevd": arm.verb == "run"}
        if given not in found.values():
            found[arm.label] = given
    if not found:
        raise UsageError(f"{study.name} has nothing to tune.", "dissect study show has the arms that a study trains.")
    return found


def perform(todo: Sequence[Job], say: Say, beside: Sequence[Job] = (), **how: Any) -> Iterator[Job]:
    """Train what is not finished, one after the other, and yield each; one that another process trains is left to it.

    An arm that cannot be trained, or diverges, is said and left out; if that leaves nothing, and nothing `beside` it is
    finished, its error is raised. `how` is a part of `Manner`: device, observe.
    """
    manner = Manner(say=say, **{name: value for name, value in how.items() if value is not None})
    failed: dict[str, DissectError] = {}
    for plan in {job.plan.group: job.plan for job in beside if job.is_done}.values():
        note_tuning(plan)
    for job in todo:
        if job.arm.label in failed:
            continue
        if not job.is_complete:
            try:
                with processor_as_it_was(manner.device):  # a small arm takes one thread
                    train_plan(replace(job.plan, seeds=(job.seed,)), manner)
            except BusyError:
                say(f"{job.arm.label}, seed {job.seed}: another process trains it.")
                continue
            except FinishedError:
                pass  # another process was quicker
            except (UsageError, DataError, DivergedError) as error:
                failed[job.arm.label] = error
                say(f"{job.arm.label} is left out: {error.message}")
                continue
        yield job
    if failed and all(job.arm.label in failed for job in todo) and not any(job.is_done for job in beside):
        raise next(iter(failed.values()))


def status(todo: Sequence[Job]) -> pd.DataFrame:
    """A row for each arm: label, verb, learns (by gradients), done and wanted (seeds; of a dissection with the matched
    dense model), seconds (of training, mean over finished seeds), hr@20 and mrr@20 (means so far), group.

    An arm whose configuration is damaged is said on stderr, and has nothing done.
    """
    rows = []
    for label in dict.fromkeys(job.arm.label for job in todo):
        own = [job for job in todo if job.arm.label == label]
        done = each_sound([job for job in own if job.is_done], _summaries, required=False)
        tested = [summaries[0]["test"] for _, summaries in done]
        metrics = pd.DataFrame(tested, columns=["hr@20", "mrr@20"], dtype=float).mean()
        learns = own[0].arm.model not in MODELS or MODELS[own[0].arm.model].learns
        finished = sum(job.is_complete for job, _ in done)
        about = {"label": label, "verb": own[0].arm.verb, "learns": learns, "done": finished, "wanted": len(own)}
        spent = [sum(each["seconds"] for each in summaries) for _, summaries in done]
        seconds = pd.Series(spent, dtype=float).mean()
        rows.append({**about, "seconds": seconds, **metrics, "group": own[0].plan.group.name})
    return pd.DataFrame(rows)


def _summaries(job: Job) -> tuple[Job, list[dict[str, Any]]]:
    """A job with the summaries of its finished trainings, its own first. Raises DataError if one is damaged."""
    folders.group_config(job.plan.group)
    runs = [each.run(job.seed) for each in (job.plan, *job.plan.beside)]
    return job, [folders.read_summary(run) for run in runs if folders.is_done(run)]


def seconds_left(rows: pd.DataFrame) -> float:
    """The training time of what is not finished, by that of the same arm or of the mean arm that learns: baselines take
    seconds. NaN if it is not known.
    """
    each = rows["seconds"].fillna(rows["seconds"][rows["learns"]].mean())
    left = (rows["wanted"] - rows["done"])[rows["done"] < rows["wanted"]]
    return float((left * each[left.index]).sum(skipna=False))


def compared(study: Study, todo: Sequence[Job], every_pair: bool = False, **how: Any) -> compare.Comparison:
    """The finished arms side by side, labelled as the study does; `paper hr@20`, `paper mrr@20` and `paper seconds` are
    what the paper prints (NaN if nothing). Pairs are those of the study, else those with the best row, or every one.

    Raises UsageError if fewer than two arms have a finished seed, DataError if all that have one are damaged.
    """
    by_label = {job.arm.label: job for job in todo}
    entries, arms = [], []
    with folders.hearing(is_aloud=True) as lost:
        for label, job in by_label.items():
            own = [each.run for each in todo if each.arm.label == label and each.is_done]
            try:
                row = entry(job.plan.group, job.plan.variant, own) if own else None
            except DataError as error:  # of its configuration
                folders.left_out(error)
                continue
            if row is not None:
                entries.append(row)
                arms.append(job.arm)
    if lost and not entries:
        raise lost[0]
    if len(entries) < 2:
        raise UsageError(
            f"Arms of {study.name} with a finished seed: {len(entries)} of {len(by_label)}. It takes two for a table.",
            TRAIN if len(by_label) > 1 else "Name a second --arm, or leave --arm out.",
        )
    names = {(row.group, row.variant): arm.label for row, arm in zip(entries, arms)}
    entries, read, count = read_gains(entries)
    if len(entries) < 2:
        raise DataError(f"The ranks of {len(entries)} of {len(arms)} arms of {study.name} can be read: it takes two.")
    known = [names[row.group, row.variant] for row in entries]
    table = compare.compared(entries, read, count, every_pair=every_pair or bool(study.pairs), names=known, **how)
    data = todo[0].plan.data.name
    printed = {arm.label: arm.printed.get(name_in_paper(data)) for arm in arms}
    for column, part in (("hr@20", "hr"), ("mrr@20", "mrr"), ("seconds", "seconds")):
        values = [getattr(printed[label], part, None) for label in table.rows["label"]]
        table.rows[f"paper {column}"] = pd.Series(values, dtype=float)
    if study.pairs and not every_pair:
        facts = table.pairs.attrs
        wanted = [oriented(table, a, b) for a, b in study.pairs]
        table = table._replace(pairs=pd.concat([table.pairs[:0], *wanted], ignore_index=True))
        table.pairs.attrs = facts
    return table


def oriented(table: compare.Comparison, a: str, b: str) -> pd.DataFrame:
    """The pair a against b of a table with every pair, a row for each metric; none if one of them is not there."""
    if table.pairs.empty:
        return table.pairs
    found = table.pairs[(table.pairs["a"] == a) & (table.pairs["b"] == b)]
    if len(found):
        return found
    turned = table.pairs[(table.pairs["a"] == b) & (table.pairs["b"] == a)]
    names = {"a": a, "b": b, "a run": turned["b run"], "b run": turned["a run"]}
    values = {name: -turned[name] for name in ("difference", "t", "d_z")} | {"low": -turned["high"]}
    # Of the same ranks as before: means of the protocol `paper` are of other epochs.
    times = 1 + turned["relative"] / 100  # b in units of a; NaN if a is 0
    relative = (100 / times.where(times > 0) - 100).mask(times.isna() & (turned["difference"] != 0), -100.0)
    return turned.assign(**names, **values, high=-turned["low"], relative=relative)


def counts(data: Dataset) -> pd.DataFrame:
    """Table 1: count, the name of the data set and paper (NaN for a data set that is not the paper's)."""
    found, printed = statistics(data), paper.TABLE1.get(name_in_paper(data.name), (None,) * len(paper.COUNTS))
    rows = [{"count": name, data.name: found[name], "paper": there} for name, there in zip(paper.COUNTS, printed)]
    return pd.DataFrame(rows).astype({"paper": float})


def log_of(dataset: str) -> str:
    """The paper's data set that this one is another split or a part of, by its name; "" for none."""
    return next((name for name in paper.SETS if dataset.split("-")[0] == name), "")


def name_in_paper(dataset: str) -> str:
    """The paper's data set that a name means, "" for another: stand-ins and cuts are other splits of the same log."""
    whole = next((name for name, stand_in in STAND_INS.items() if stand_in == dataset), dataset)
    return whole if whole in paper.SETS else ""


def lines(todo: Sequence[Job], metrics: Sequence[str] = ("hr@20", "mrr@20")) -> pd.DataFrame:
    """Accuracy against the x of the arms: a row for each seed, with columns x, line (the metric), seed, value."""
    rows = [
        {"x": job.arm.x, "line": metric.upper(), "seed": job.seed, "value": summary["test"][metric]}
        for job, summary in _read(todo, folders.read_summary)
        for metric in metrics
    ]
    return pd.DataFrame(rows)


def _read(todo: Sequence[Job], read: Callable[[Path], Any]) -> list[tuple[Job, Any]]:
    """What `read` finds in the finished runs. Damaged ones are left out; raises DataError if all are."""
    if not (done := [job for job in todo if job.is_done]):
        raise UsageError(*NONE_FINISHED)
    return each_sound(done, lambda job: (job, read(job.run)))


def lengths(todo: Sequence[Job], metric: str = "hr@20") -> pd.DataFrame:
    """Accuracy by the clicks of the prefix: a row for each arm, seed and length, with columns x (the length; LONGEST
    stands for that and more), line (the arm), seed, value (percent), prefixes.
    """
    rows = []
    for job, ranks in _read(todo, lambda run: folders.read_ranks(folders.test_ranks(run))):
        length = np.minimum(ranks["length"], LONGEST)
        gain = gains(ranks["rank"], metric)
        for x in np.unique(length):
            here = length == x
            value = {"value": 100 * gain[here].mean(), "prefixes": int(here.sum())}
            rows.append({"x": int(x), "line": job.arm.label, "seed": job.seed, **value})
    return pd.DataFrame(rows)

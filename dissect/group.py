"""What was trained, read back from its folder as DataFrames and Figures."""

from __future__ import annotations

import inspect
import shlex
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.density import density_table
from analyses.opinions import Opinions, opinions
from analyses.training import training_table
from analyses.verdict import judge
from dissect import drawing
from dissect.data import planted
from dissect.data.sessions import Dataset
from dissect.errors import UsageError, unknown
from dissect.progress import is_shown, telling
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.runs.folders import each_sound
from dissect.sparsevd.density import key
from dissect.training.device import processor_as_it_was

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Group:
    """One configuration of a model on a data set, trained with one seed or several: a folder of runs.

    The tables are of the finished seeds of the full model, or of a `variant` such as "without-propagation". They raise
    UsageError for a variant that there is not, and DataError where all records are damaged.

    Parameters
    ----------
    path : Path
        The folder, as `dissect train` and `dissect run` make it.
    model : class or str, optional
        The class of a model of one's own, or its file: only `recommend` needs it.
    data : Dataset, optional
        The data set, if the group was trained just now.
    """

    path: Path
    model: Any = field(default=None, compare=False)
    data: Dataset | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        seeds = ", ".join(run.name for run in self.runs()) or "no finished seed"
        return f"Group({str(self.path)!r}: {seeds})"

    @property
    def config(self) -> Config:
        """The settings that decide the outcome: config.lr, config.kl_weight, config.model_options["dim"]."""
        return Config(**folders.group_config(self.path))

    @property
    def variants(self) -> list[str]:
        """The models trained: "full", "without-<role>" for each without a role, and "without-sparsevd", the matched
        dense model beside a dissection.
        """
        return folders.variants(self.path)

    def runs(self, variant: str = folders.FULL) -> list[Path]:
        """The folders of the finished seeds of a `variant`, by seed. Raises UsageError if there is no such variant."""
        if variant not in (known := dict.fromkeys((folders.FULL, *self.variants))):
            raise unknown(f"variant in {self.path.name}", variant, known)
        return [run for run in folders.group_runs(self.path, variant) if folders.is_done(run)]

    def summaries(self, variant: str = folders.FULL) -> list[dict[str, Any]]:
        """What each finished seed of a `variant` wrote at its end (summary.json): accuracy, checks, time, the epoch.

        A damaged seed is skipped with a warning. Raises DataError if all are.
        """
        return each_sound(self.runs(variant), folders.read_summary)

    def metrics(self, variant: str = folders.FULL) -> pd.DataFrame:
        """Accuracy at the epoch that each seed of a `variant` reports, in percent.

        Returns
        -------
        DataFrame
            A row for each seed and split: seed, variant, split (test, valid), epoch, hr@5, hr@10, hr@20, mrr@5, mrr@10,
            mrr@20.
        """
        rows = [
            {
                "seed": of["seed"],
                "variant": variant,
                "split": split,
                "epoch": of.get("selected", {"epoch": of["epochs"]})["epoch"],
                **of[split],
            }
            for of in self.summaries(variant)
            for split in ("test", "valid")
            if of.get(split)
        ]
        return pd.DataFrame(rows)

    def ranks(self, split: str = "test", variant: str = folders.FULL) -> pd.DataFrame:
        """The rank of the item that was clicked next, from 1 on.

        Parameters
        ----------
        split : str
            "test" or "valid".
        variant : str
            One of `variants`.

        Returns
        -------
        DataFrame
            A row for each seed and prefix: seed, session (from 0, in the order of the split), length (clicks of the
            prefix), target (item), rank.

        Raises
        ------
        UsageError
            There is no such split or variant, or no session was held out.
        DataError
            Ranks are missing or damaged.
        """
        if split not in ("test", "valid"):
            raise unknown("split", split, ("test", "valid"))
        tables = []
        for run in self.runs(variant):
            if split == "valid" and not folders.read_summary(run).get("valid", True):
                raise UsageError(f"{run} held no sessions out: it has ranks of the test part only.")
            path = folders.test_ranks(run)
            ranks = folders.read_ranks(path.with_name(path.name.replace("test", split)))
            tables.append(pd.DataFrame({"seed": folders.place_of(run)[1], **ranks}))
        columns = ["seed", "session", "length", "target", "rank"]
        return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)

    def training(self, variant: str = folders.FULL) -> pd.DataFrame:
        """How loss and accuracy of a `variant` went.

        Returns
        -------
        DataFrame
            A row for each seed, curve, split and step: seed, curve (loss in nats, HR@20 and MRR@20 in percent), split
            (train, valid, test), step, epoch, minutes (in training steps, without evaluation), value.
        """
        return training_table(self.path, variant)

    def density(
        self, variant: str = folders.FULL, threshold: float | None = None, blocks: bool = False
    ) -> pd.DataFrame:
        """How many weights each matrix keeps. Of `dissect.run` only.

        Parameters
        ----------
        variant : str
            One of `variants`.
        threshold : float, optional
            Of log alpha; the group's unless given.
        blocks : bool
            Rows for the parts of matrices too (the gates of a GRU: column block, "" for the whole).

        Returns
        -------
        DataFrame
            A row for each finished seed (or all, if none is), measurement and matrix: seed, step, epoch, matrix, role,
            module, kept (weights with log alpha below the threshold), size (weights in all), density (kept / size).

        Raises
        ------
        UsageError
            There is no such variant, or no counts at this threshold.
        DataError
            Nothing was recorded, or all is damaged.
        """
        _require_number(threshold)
        found = density_table(self.path, variant)
        counts = f"kept {key(self.config.threshold if threshold is None else threshold)}"
        if counts not in found:
            known = [name.removeprefix("kept ") for name in found if name.startswith("kept ")]
            raise UsageError(f"{self.path.name} has no counts at threshold={threshold}.", f"At: {', '.join(known)}.")
        table = found.rename(columns={counts: "kept", "numel": "size"}).assign(density=found[counts] / found["numel"])
        names = ["seed", "step", "epoch", "matrix", *["block"] * blocks, "role", "module", "kept", "size", "density"]
        return table[names] if blocks else table[table["block"] == ""][names].reset_index(drop=True)

    def verdict(self) -> dict[str, Any]:
        """The answers of `dissect verdict`, with reasons, also written to verdict.json. Of `dissect.run` only.

        Raises
        ------
        UsageError
            The group was made by `dissect.train`.
        DataError
            No seed is finished, or all records are damaged.
        """
        self.require_verdict()
        return judge(self.path, judged=planted.judged(self.config.dataset))

    def require_verdict(self) -> None:
        """Raises UsageError if the group was made by `dissect.train`, on which there is no verdict."""
        if not self.config.has_verdict:
            raise UsageError(
                f"{self.path.name} was made by dissect train. A verdict needs a finished group of dissect run.",
                f"See it: dissect compare --dataset {shlex.quote(self.config.dataset)}",
            )

    def opinions(self, *, quiet: bool = False, **how: Any) -> Opinions:
        """What other criteria than SparseVD say of the matrices, like `dissect opinions`; kept in the group's folder.

        Without `quiet`, a terminal or a notebook shows how far it is. `how` are n (prefixes to judge on, 0: all),
        retrain (steps), with_l0, l0_weight, curves and data_dir: those of experiment/opinions.py. Raises UsageError for
        an option or a value that makes no sense, and if no seed has a dense model to judge.
        """
        from dissect.data import bring
        from dissect.experiment.opinions import opinions_of, seeds_of

        taken = inspect.signature(opinions_of).parameters.values()
        known = {each.name for each in taken if each.kind is each.KEYWORD_ONLY} - {"model", "chosen", "tell"}
        for name in how.keys() - known:
            raise unknown("option of opinions", name, known)
        for seed in seeds_of(self.path):
            with processor_as_it_was("cpu"), telling(f"seed {seed}", not is_shown(quiet)) as how["tell"]:
                opinions_of(self.path, seed, lambda *name: self.data or bring.load(*name), model=self.model, **how)
        return opinions(self.path)

    def figure(self, kind: str, **options: Any) -> Figure:
        """A figure of `dissect plot`, not registered with pyplot.

        Parameters
        ----------
        kind : str
            density, heatmap, histogram, path or training.
        **options
            Those of the command: module, x, threshold, measure, tau and variant of a density (without a module, the
            first that has one), and beside, a second group to its right; threshold, measure, tau and variant of a
            heatmap; threshold of a histogram; by and threshold of a path; by and variants of a training.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        UsageError
            There is no such figure, option or value, or nothing to draw.
        DataError
            All records are damaged.
        """
        kinds = [name for name in drawing.FIGURES if name != "data"]
        if kind not in kinds:
            raise unknown("figure of a group", kind, kinds)
        _require_number(options.get("threshold"))
        draw = drawing.FIGURES[kind]
        taken = inspect.signature(draw).parameters.values()
        known = {each.name for each in taken if each.kind is each.KEYWORD_ONLY and each.name != "runs_dir"}
        for name, value in options.items():
            if name not in known:
                raise unknown(f"option of a {kind} figure", name, known)
            if value not in drawing.CHOICES.get(kind, {}).get(name, (value,)):
                raise unknown(name, value, drawing.CHOICES[kind][name])
        if (beside := options.get("beside")) is not None:
            if not isinstance(beside, (Group, str, Path)):
                raise UsageError(f"beside is a group, or the path of one; it cannot be {beside!r}.")
            options["beside"] = beside.path if isinstance(beside, Group) else Path(beside)
        drawings = draw(self.path, **options)
        if not drawings:
            raise UsageError(f"There is no {kind} figure with {options} of {self.path.name}.")
        return drawings[0].figure


def _require_number(threshold: Any) -> None:
    """Raises UsageError for a threshold that is no number."""
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, Real)):
        raise UsageError(f"threshold is a number, such as 3; it cannot be {threshold!r}.")

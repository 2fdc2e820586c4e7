"""What the criteria say of the matrices of a group, side by side: do they agree, and where do they not?

Of each matrix and seed:

    sparsevd    the share of weights that SparseVD keeps; excess: beyond its shadow
    l0          the share of L0 gates that are open
    reduction   the share of weights for which there is evidence (Bayesian model reduction)
    magnitude, taylor, fisher      the mean score of its weights in the dense model
    zero, mean, resample           the fall of MRR@20 (percent) of the trained dense model without it
    constant    the smaller of the falls at zero and at the mean: no more than the best constant in its place needs to
                cost (optimal ablation, arXiv 2409.09951)
    retrained   the fall after the rest has been trained without it

`... (dissected)` are falls of the model with SparseVD.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dissect.errors import DataError, UsageError
from dissect.experiment.pieces import weights_of
from dissect.runs import files, folders
from dissect.runs.records import SecondOpinions
from dissect.runs.replace import write_texts
from dissect.sparsevd.rules import EMPTY, FALL, FEWEST_SEEDS, interval
from dissect.text import without_formulas

WEIGHTS = ("sparsevd", "excess", "l0", "reduction", "magnitude", "taylor", "fisher")  # judged by single weights
FALLS = ("constant", "zero", "mean", "resample", "retrained")
OWN = " (dissected)"
CRITERIA = (*WEIGHTS, *FALLS, *(f"{name}{OWN}" for name in FALLS[:-1]))
COLUMNS = ("", "seed", "matrix", "role", "size", "criterion", "share", "mrr@20")  # beside them in files
WORDS = {
    "sparsevd": "SparseVD",
    "l0": "L0",
    "reduction": "reduction",
    "magnitude": "magnitude",
    "taylor": "Taylor",
    "fisher": "Fisher",
    "constant": "ablation",
    "resample": "resampling",
    "retrained": "retraining",
    "random": "random",
}
SPLITS = {"valid": "validation", "test": "test"}
COMPARED = tuple(WORDS)[:-1]
NEAR = 0.5  # rank correlation below which two criteria are said to disagree


@dataclass(frozen=True)
class Opinions:
    """The opinions on a group.

    matrices   a row for each seed and matrix: seed, matrix, role, size, and a column for each criterion
    roles      the same for each role; shares and mean scores are means over its weights
    agreement  Spearman's rank correlation of each two criteria over the matrices, mean over seeds
    curves     seed, criterion, share (of weights kept), mrr@20 (percent); empty unless asked for
    accuracy   MRR@20 of each model on the same sessions, by seed
    seconds    what each piece took, and the training of the dissected model, by seed
    words      what follows, in sentences; first what speaks against SparseVD
    ranked     how many prefixes the accuracy is of, and of which `split`
    """

    matrices: pd.DataFrame
    roles: pd.DataFrame
    agreement: pd.DataFrame
    curves: pd.DataFrame
    accuracy: pd.DataFrame
    seconds: pd.DataFrame
    words: list[str]
    ranked: int
    split: str

    def accuracy_in_words(self) -> str:
        """MRR@20 of each model, means over seeds."""
        names = {"dense": "dense", "dissected": "dissected", "l0": "with L0 gates", "retrain": "dense and retrained"}
        means = self.accuracy.drop(columns="seed").mean()
        said = ", ".join(f"{words} {means[name]:.2f}" for name, words in names.items() if name in means)
        return f"MRR@20 on {self.ranked:,} {SPLITS[self.split]} prefixes: {said}."

    def cost_in_words(self) -> str:
        """The time that each piece took, means over seeds."""
        means = self.seconds.drop(columns="seed").mean()
        pieces = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in means.drop("training").items())
        return f"Time for each seed: {pieces}; its training took {means['training']:.0f} s."

    def to_record(self) -> dict[str, Any]:
        """Everything for JSON; NaN is null."""

        def rows(name: str, orient: str = "records") -> Any:
            return json.loads(getattr(self, name).to_json(orient=orient))

        tables = {name: rows(name) for name in ("matrices", "roles", "curves", "accuracy", "seconds")}
        agreement = rows("agreement", "index")
        return {"split": self.split, "ranked": self.ranked, **tables, "agreement": agreement, "words": self.words}

    def to_csv(self, folder: Path) -> None:
        """Write the tables to a folder. Raises UsageError for a file of others, DissectError if the disk refuses."""
        tables = {name: without_formulas(getattr(self, name)) for name in ("matrices", "roles", "curves")}
        texts = {name: table.to_csv(index=False, float_format="%.6g") for name, table in tables.items() if len(table)}
        texts["agreement"] = self.agreement.to_csv(float_format="%.4f")
        files = {folder / f"opinions-{name}.csv": text for name, text in texts.items()}
        write_texts(files, "table of opinions", _is_table)


def _is_table(head: bytes) -> bool:
    """Whether a file begins as a table that `Opinions.to_csv` writes; which criteria it has may differ."""
    columns = head.decode(errors="replace").split("\n")[0].split(",")
    return len(columns) > 1 and {*columns} <= {*COLUMNS, *CRITERIA}


def read(group: Path) -> list[dict[str, Any]]:
    """The records of a group, by seed, but those of other weights than now. Raises UsageError if there is none.

    Numbers of several seeds are averaged: a seed that was judged on other sessions than most, or a piece that was asked
    with another setting, is left out, with a warning.
    """
    found: list[dict[str, Any]] = []
    for run in folders.group_runs(group):
        seed = folders.place_of(run)[1]
        if (path := folders.opinions_file(group, seed)).exists():
            record = _sound(path)
            if record.get("judged", {}).get("weights") == weights_of(group, seed):
                found.append({"seed": seed, **record})
    if not found:
        raise UsageError(
            f"There are no second opinions on {group.name}.",
            f"Ask for them: dissect opinions {shlex.quote(str(group))}",
        )
    again = f"Ask again, for all seeds alike: dissect opinions {shlex.quote(str(group))}"
    found = _alike(found, [(each["split"], each["ranked"]) for each in found], "was judged on other sessions", again)
    for name, setting, words in (
        ("retrain", "steps", "was retrained for another number of steps"),
        ("l0", "weight", "has L0 gates at another price"),
        ("curves", "l0_weight", "has curves of L0 gates at another price"),
    ):
        asked = [each for each in found if each["pieces"].get(name, {}).get("how", {}).get(setting) is not None]
        values = [each["pieces"][name]["how"][setting] for each in asked]
        sound = {record["seed"] for record in _alike(asked, values, words, again)}
        for record in asked:
            if record["seed"] not in sound:
                del record["pieces"][name]
    return found


def _alike(records: list[dict[str, Any]], values: list[Any], what: str, again: str) -> list[dict[str, Any]]:
    """The records that have the value of most; others are left out, with a warning."""
    usual = Counter(values).most_common(1)[0][0] if values else None
    for record, value in zip(records, values):
        if value != usual:
            folders.left_out(DataError(f"The second opinion on seed {record['seed']} {what} than most.", again))
    return [record for record, value in zip(records, values) if value == usual]


def _sound(path: Path) -> dict[str, Any]:
    """A record that has what every table needs. Raises DataError if it is damaged."""
    again = f"Remove it and ask again: rm {shlex.quote(str(path))}"
    record = files.read_json(path, SecondOpinions, again)
    if not {"values", "size"} <= record["pieces"].get("scores", {}).keys():
        raise DataError(f"{path} is damaged: it lacks the scores.", again)
    return record


def opinions(group: Path) -> Opinions:
    """The opinions on record. Raises UsageError if there are none."""
    records = read(group)
    matrices = pd.concat([_matrices(record) for record in records], ignore_index=True)
    roles = pd.concat([_roles(record, matrices) for record in records], ignore_index=True)
    curves = [
        pd.DataFrame(record["pieces"]["curves"]["rows"]).assign(seed=record["seed"])
        for record in records
        if "curves" in record["pieces"]
    ]
    shown = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=["criterion", "share", "mrr@20"])
    accuracy = pd.DataFrame([{"seed": record["seed"], **_accuracy(record["pieces"])} for record in records])
    seconds = [
        {name: piece["seconds"] for name, piece in record["pieces"].items()} | {"training": record["training_seconds"]}
        for record in records
    ]
    return Opinions(
        matrices,
        roles,
        agreement(matrices),
        shown,
        accuracy,
        pd.DataFrame(seconds).assign(seed=[record["seed"] for record in records]),
        in_words(matrices, roles),
        records[0]["ranked"],
        records[0]["split"],
    )


def _accuracy(pieces: dict[str, Any]) -> dict[str, float]:
    found = dict(pieces.get("ablation", {}).get("mrr@20", {}))
    return found | {name: pieces[name]["mrr@20"] for name in ("l0", "retrain") if name in pieces}


def _values(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Part -> criterion -> value, over all pieces of a record."""
    values: dict[str, dict[str, Any]] = {}
    for piece in record["pieces"].values():
        for part, each in piece.get("values", {}).items():
            values.setdefault(part, {}).update(each)
    return values


def _matrices(record: dict[str, Any]) -> pd.DataFrame:
    values, sizes = _values(record), record["pieces"]["scores"]["size"]
    rows = [
        {"seed": record["seed"], "matrix": name, "role": role, "size": sizes[name], **values[name]}
        for role, names in record["roles"].items()
        for name in names
    ]
    return _numbers(pd.DataFrame(rows), ["seed", "matrix", "role", "size"])


def _roles(record: dict[str, Any], matrices: pd.DataFrame) -> pd.DataFrame:
    values, own = _values(record), matrices[matrices["seed"] == record["seed"]]
    rows = []
    for role, each in own.groupby("role", sort=False):
        means = {name: (each[name] * each["size"]).sum(min_count=len(each)) / each["size"].sum() for name in WEIGHTS}
        rows.append(
            {"seed": record["seed"], "role": role, "size": each["size"].sum(), **means, **values.get(f"[{role}]", {})}
        )
    return _numbers(pd.DataFrame(rows), ["seed", "role", "size"])


def _numbers(table: pd.DataFrame, about: list[str]) -> pd.DataFrame:
    """The columns `about` a row and those of all criteria, as numbers; NaN for what was not asked or cannot be."""
    table = table.reindex(columns=[*about, *CRITERIA]).astype(dict.fromkeys(CRITERIA, float))
    for own in ("", OWN):
        table[f"constant{own}"] = table[[f"zero{own}", f"mean{own}"]].min(axis=1)
    return table


def compared(matrices: pd.DataFrame) -> list[str]:
    """The criteria that say something of two matrices or more."""
    return [name for name in COMPARED if matrices[name].notna().sum() > 1]


def agreement(matrices: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of each two criteria over the matrices of a seed, mean over seeds."""
    names = compared(matrices)
    each = [own[names].astype(float).corr(method="spearman") for _, own in matrices.groupby("seed")]
    return pd.concat(each).groupby(level=0, sort=False).mean()  # of the seeds that were asked


def in_words(matrices: pd.DataFrame, roles: pd.DataFrame) -> list[str]:
    """Where the opinions differ; first what speaks against SparseVD, whose answers rest on the means over seeds."""
    by_role = roles.drop(columns="seed").groupby("role", sort=False).mean()
    by_matrix = matrices.drop(columns=["seed", "role"]).groupby("matrix", sort=False).mean()
    lines: list[str] = []
    if by_role["excess"].notna().any() or by_role["sparsevd"].notna().any():
        lines += _against(roles, by_role, "excess" if by_role["excess"].notna().all() else "sparsevd")
        lines += _sparse_but_needed(by_matrix)
    lines += _disagreements(matrices)
    return lines


def _against(roles: pd.DataFrame, by_role: pd.DataFrame, kept: str) -> Sequence[str]:
    """Roles that SparseVD empties and the dense model uses, or the other way round.

    It "seems" so where the 95 % interval over seeds says nothing, or there are too few of them.
    """
    lines = []

    def is_sure(role: Hashable, column: str, below: bool) -> bool:
        span = interval([*roles.loc[roles["role"] == role, column].dropna()])
        enough = roles["seed"].nunique() >= FEWEST_SEEDS
        return enough and span is not None and (span[1] <= 100 * FALL if below else span[0] > 100 * FALL)

    for role, row in by_role.iterrows():
        falls, retrained = row["constant"], row["retrained"]
        after = "" if pd.isna(retrained) else f", and {_moves(retrained)} after a short retraining without it (retr.)"
        keeps = f"{role}: SparseVD keeps {row['sparsevd']:.3f} of it"
        if kept == "excess":
            keeps += f", {abs(row[kept]):.3f} {'less' if row[kept] < 0 else 'more'} than its shadow"
        if row[kept] <= EMPTY and falls > 100 * FALL:
            uses = "uses it" if is_sure(role, "constant", below=False) else "seems to use it"
            lines.append(
                f"{keeps}, but the dense model {uses}: its MRR@20 {_moves(falls)} with a constant in its place "
                f"(abl.){after}."
            )
        if row[kept] > EMPTY and row[f"constant{OWN}"] <= 100 * FALL:
            need = "do not need" if is_sure(role, f"constant{OWN}", below=True) else "seem not to need"
            lines.append(
                f"{keeps}, but unseen sessions {need} what it keeps: "
                f"MRR@20 of the dissected model {_moves(row[f'constant{OWN}'])} with a constant in its place (own)."
            )
    return lines


def _sparse_but_needed(by_matrix: pd.DataFrame) -> Sequence[str]:
    """Matrices of the dissected model that are nearly empty, and missed."""
    few = by_matrix[(by_matrix["sparsevd"] <= 2 * EMPTY) & (by_matrix[f"constant{OWN}"] > 100 * FALL)]
    return [
        f"{name}: sparse and needed. It keeps {row['sparsevd']:.3f} of its weights, and the dissected model loses "
        f"{_percent(row[f'constant{OWN}'])} of MRR@20 without it."
        for name, row in few.iterrows()
    ]


def _disagreements(matrices: pd.DataFrame) -> Sequence[str]:
    """The criterion nearest to ablation, and those that disagree with it."""
    table, causal = agreement(matrices), "constant"
    if causal not in table or len(table) < 3:
        return []
    with_it = table[causal].drop(index=[n for n in ("constant", "resample", "retrained") if n in table.index])
    with_it = with_it.dropna()
    if with_it.empty:
        return []
    best = with_it.idxmax()
    far = with_it.index[(with_it < NEAR) & (with_it.index != best)]
    nearest, is_far = f"{WORDS[best]} (rank correlation {with_it[best]:.2f})", bool(with_it[best] < NEAR)
    lines = [f"Nearest to ablation of the dense model is {nearest}{', which is far' * is_far}."]
    if len(far):
        said = ", ".join(f"{WORDS[name]} ({with_it[name]:.2f})" for name in far)
        lines.append(f"{'Further still' if is_far else 'Far from it'}: {said}.")
    return lines


def _moves(fall: float) -> str:
    """What an accuracy does that falls by so many percent; below zero it rises."""
    return f"rises by {_percent(-fall)}" if fall < 0 else f"falls by {_percent(fall)}"


def _percent(value: float) -> str:
    return f"{value:.1f} %"

"""The truth test of the second opinions: does a criterion tell needed matrices from useless ones?

    python benchmarks/opinions.py --runs FOLDER/runs --out FOLDER [--jobs 2] [--case NAME ...] [--no-l0]

`--runs` are the runs of the truth test (benchmarks/truth.py --out FOLDER): data and models with a known answer, each
dissected with three training seeds beside its matched dense model. Nothing is trained but the models with L0 gates.
Writes matrices.csv and roles.csv (a row for each matrix or role on trial and training seed, a column for each
criterion) and auc.csv: the chance that a needed matrix has a higher value than a useless one, over all models together,
and the same of roles. What is done is kept in the groups' folders, and the same command goes on there.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import planted_sets
import torch
from truth import CASES, NEEDED, TRAINING_SEEDS, USELESS, auc

from analyses.opinions import opinions
from dissect.experiment.opinions import opinions_of
from dissect.runs import folders

RANKED = 2_000  # judged test prefixes, at equal distances
WORDS = {
    "sparsevd": "SparseVD: density",
    "excess": "SparseVD: excess over the shadow",
    "l0": "L0: share of open gates",
    "reduction": "reduction: share with evidence",
    "magnitude": "magnitude",
    "taylor": "Taylor",
    "fisher": "Fisher",
    "constant": "ablation, the smaller fall of zero and mean",
    "zero": "ablation: zero",
    "mean": "ablation: mean",
    "resample": "ablation: resample",
    "constant (dissected)": "ablation of the dissected model, the smaller fall",
    "resample (dissected)": "ablation of the dissected model: resample",
}


def tables_of(task: tuple[str, int, Path], with_l0: bool) -> list[pd.DataFrame]:
    """The opinions on matrices and on roles, of a case with one seed of the data; computes what is not on record."""
    torch.set_num_threads(1)
    name, seed, folder = task
    case, planted = CASES[name], getattr(planted_sets, CASES[name].data)(seed)
    (group,) = (path for path in folder.iterdir() if (path / folders.MATCHED).is_dir())
    judged = np.flatnonzero(planted.judged)
    chosen = torch.from_numpy(judged[np.linspace(0, len(judged) - 1, min(RANKED, len(judged))).astype(int)])
    model = None if case.model.islower() else case.subject
    for training_seed in TRAINING_SEEDS:
        opinions_of(group, training_seed, lambda *_: planted.data, chosen=chosen, with_l0=with_l0, model=model)
    found = opinions(group)
    return [on_trial(table, name, seed) for table in (found.matrices, found.roles)]


def on_trial(table: pd.DataFrame, case: str, seed: int) -> pd.DataFrame:
    """The rows of roles whose truth is planted, with it."""
    truth = table["role"].map(CASES[case].truth)
    about = pd.DataFrame({"case": case, "data seed": seed, "truth": truth})
    return pd.concat([about, table], axis=1)[truth.notna()]


def table_of(matrices: pd.DataFrame, roles: pd.DataFrame) -> pd.DataFrame:
    """The AUC of each criterion over matrices, its least and largest over the seeds of the data alone, and by roles."""
    rows = []
    for criterion, words in WORDS.items():
        known = matrices.dropna(subset=criterion)
        each = [auc(part, criterion) for _, part in known.groupby("data seed")] or [float("nan")]
        row = {"criterion": words, "auc": auc(known, criterion), "low": min(each), "high": max(each)}
        row |= {truth: int((known["truth"] == truth).sum()) for truth in (NEEDED, USELESS)}
        rows.append({**row, "auc of roles": auc(roles, criterion)})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=[*CASES])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-l0", dest="l0", action="store_false", help="train nothing")
    given = parser.parse_args()
    paths = [(path.name.rpartition("-"), path) for path in given.runs.iterdir()]
    tasks = [(name, int(seed), path) for (name, _, seed), path in paths if name in (given.case or CASES)]
    tasks.sort(key=lambda task: task[1::-1])  # a seed of the data after the other
    given.out.mkdir(parents=True, exist_ok=True)
    found, began = list[list[pd.DataFrame]](), time.monotonic()
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for (name, seed, _), each in zip(tasks, pool.map(partial(tables_of, with_l0=given.l0), tasks)):
            found.append(each)
            done = len(found)
            left = timedelta(seconds=round((time.monotonic() - began) / done * (len(tasks) - done)))
            print(f"{done} of {len(tasks)}: {name}, data seed {seed}; {left} left", flush=True)
    matrices, roles = (pd.concat(tables, ignore_index=True) for tables in zip(*found))
    for name, table in (("matrices", matrices), ("roles", roles)):
        table.to_csv(given.out / f"{name}.csv", index=False, float_format="%.6g")
    table = table_of(matrices, roles)
    table.to_csv(given.out / "auc.csv", index=False, float_format="%.4f")
    print(table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()

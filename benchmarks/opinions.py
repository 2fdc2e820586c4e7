"""The truth test of the second opinions: does a criterion tell needed matrices from useless ones?

    python benchmarks/opinions.py --runs FOLDER/runs --out FOLDER [--jobs 2] [--case NAME ...]

`--runs` are the runs of the truth test (benchmarks/truth.py --out FOLDER): data and models with a known answer, each
dissected with three training seeds beside its matched dense model. Nothing is trained but the models with L0 gates.
Writes matrices.csv (a row for each matrix on trial and training seed, a column for each criterion) and auc.csv: the
chance that a needed matrix has a higher value than a useless one, over all models together. What is done is kept in the
groups' folders, and the same command goes on there.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted_sets
import torch
from truth import CASES, NEEDED, TRAINING_SEEDS, USELESS, auc

from dissect.experiment.opinions import dataset_of, opinions_of
from dissect.runs import folders

ABOUT = ("case", "data seed", "seed", "role", "truth", "matrix")
RANKED = 2_000  # judged test prefixes, at equal distances
CRITERIA = {
    "sparsevd": "SparseVD: density",
    "excess": "SparseVD: excess over the shadow",
    "l0": "L0: share of open gates",
    "reduction": "reduction: share with evidence",
    "magnitude": "magnitude",
    "taylor": "Taylor",
    "fisher": "Fisher",
    "zero": "ablation of the dense model: zero",
    "mean": "ablation of the dense model: mean",
    "resample": "ablation of the dense model: resample",
    "zero (dissected)": "ablation of the dissected model: zero",
    "mean (dissected)": "ablation of the dissected model: mean",
    "resample (dissected)": "ablation of the dissected model: resample",
    "random": "random numbers",
}


def rows_of(task: tuple[str, int, Path], with_l0: bool) -> list[dict[str, Any]]:
    """The opinions on the matrices of a case with one seed of the data; computes what is not on record."""
    torch.set_num_threads(1)
    name, seed, folder = task
    case, planted = CASES[name], getattr(planted_sets, CASES[name].data)(seed)
    (group,) = (path for path in folder.iterdir() if (path / folders.MATCHED).is_dir())
    judged = np.flatnonzero(planted.judged)
    chosen = torch.from_numpy(judged[np.linspace(0, len(judged) - 1, min(RANKED, len(judged))).astype(int)])
    model, rows = None if case.model.islower() else case.subject, []
    for training_seed in TRAINING_SEEDS:
        found = opinions_of(group, training_seed, dataset_of(planted.data), chosen=chosen, with_l0=with_l0, model=model)
        values: dict[str, dict[str, float]] = {}
        for piece in found["pieces"].values():
            for matrix, each in piece.get("values", {}).items():
                values.setdefault(matrix, {}).update(each)
        about = {"case": name, "data seed": seed, "seed": training_seed}
        for role, truth in case.truth.items():
            for matrix in found["roles"].get(role, ()):
                rows.append({**about, "role": role, "truth": truth, "matrix": matrix, **values[matrix]})
    return rows


def table_of(matrices: pd.DataFrame) -> pd.DataFrame:
    """The AUC of each criterion, with the least and the largest over the seeds of the data alone."""
    rows = []
    for criterion, words in CRITERIA.items():
        each = [auc(part, criterion) for _, part in matrices.groupby("data seed")]
        needed, useless = (matrices.loc[matrices["truth"] == truth, criterion].count() for truth in (NEEDED, USELESS))
        row = {"criterion": words, "auc": auc(matrices, criterion), "low": min(each), "high": max(each)}
        rows.append({**row, "needed": needed, "useless": useless})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=[*CASES])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-l0", dest="l0", action="store_false", help="train nothing")
    given = parser.parse_args()
    found = [(path.name.rpartition("-"), path) for path in given.runs.iterdir()]
    tasks = [(name, int(seed), path) for (name, _, seed), path in found if name in (given.case or CASES)]
    tasks.sort(key=lambda task: task[1::-1])  # a seed of the data after the other
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for done, ((name, seed, _), each) in enumerate(
            zip(tasks, pool.map(partial(rows_of, with_l0=given.l0), tasks)), 1
        ):
            rows += each
            left = timedelta(seconds=round((time.monotonic() - began) / done * (len(tasks) - done)))
            print(f"{done} of {len(tasks)}: {name}, data seed {seed}; {left} left", flush=True)
            matrices = pd.DataFrame(rows).reindex(columns=[*ABOUT, *CRITERIA])
            matrices.to_csv(given.out / "matrices.csv", index=False, float_format="%.6g")
    table = table_of(matrices)
    table.to_csv(given.out / "auc.csv", index=False, float_format="%.4f")
    print(table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()

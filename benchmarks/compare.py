"""The time of `dissect compare` over many finished groups on one split. The groups are made up.

    python benchmarks/compare.py --groups 200 --seeds 1 --sessions 16000 [--all-pairs]

The defaults are as large as Diginetica's test set.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from dissect.cli import main as dissect
from dissect.runs import files, folders
from dissect.runs.config import Config
from dissect.training.evaluation import metrics

PREFIXES = 3.8  # of a session of Diginetica's test set, on average


def make_groups(folder: Path, groups: int, seeds: int, sessions: int) -> None:
    """Finished groups with ranks of their own, one learning rate each, the later the better."""
    rng = np.random.default_rng(1)
    count = rng.geometric(1 / PREFIXES, sessions)
    session = np.repeat(np.arange(sessions, dtype=np.int32), count)
    length = np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in count])
    prefix = {"session": session, "length": length, "target": rng.integers(1, 40_000, len(session), np.int32)}
    hard = rng.random(len(session)) * rng.random(sessions)[session]  # all models find the same prefixes hard
    for number in range(groups):
        config = Config("srgnn", "made-up", "a" * 16, {"dim": 100}, where="none", lr=round((number + 1) * 1e-4, 4))
        group = folder / f"srgnn-made-up-{config.hash}"
        files.write_toml(group / "config.toml", config.to_dict())
        for seed in range(1, seeds + 1):
            noise = rng.lognormal(3 - 0.002 * number, 1.5, len(session))
            rank = (1 + hard * noise * 4).astype(np.int32)
            run = folders.run_path(group, seed)
            folders.write_ranks(run / "ranks-test-last.npz", rank=rank, **prefix)
            told = {"seed": seed, "epochs": 10.0, "seconds": 60.0, "n_parameters": 10**6, "protocol": "clean"}
            files.write_json(run / "summary.json", {**told, "test": metrics(rank)})
            folders.mark_done(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=16_000)
    parser.add_argument("--all-pairs", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_groups(Path(folder) / "runs", given.groups, given.seeds, given.sessions)
        words = ["compare", "--runs-dir", f"{folder}/runs", "--out", f"{folder}/table.json"]
        began = time.perf_counter()
        dissect([*words, "--pairs"] if given.all_pairs else words, standalone_mode=False)
        print(f"{given.groups} groups of {given.seeds} seeds, {given.sessions:,} sessions: ", end="")
        print(f"{time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()

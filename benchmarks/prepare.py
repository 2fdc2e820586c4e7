"""How long `dissect data prepare lastfm` takes on a log of Last.fm-1K's size and shape, and how much memory.

    python benchmarks/prepare.py                     19,150,868 rows; the log takes 2.5 GB in a temporary folder
    python benchmarks/prepare.py --rows 500000
    python benchmarks/prepare.py --log lastfm.tsv     keeps the log there, or takes it where it lies

The log is made by benchmarks/make_lastfm.py and read once before the clock starts, so that it lies in the page cache.
Then the data set is loaded, in this process. The limits are those of 19,150,868 rows on two cores: 90 s, 4 GB, and
0.2 s for loading.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from make_lastfm import ROWS

HERE = Path(__file__).resolve().parent


def measure(words: list[str], folder: Path) -> dict[str, float]:
    """Seconds (wall, processor) and peak memory in GB of a process and those that it waits for."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, cwd=HERE.parent, env={**os.environ, "DISSECT_DATA": str(folder)}, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall, s": wall,
        "processor, s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        # The largest of all children so far, in KiB on Linux. The log's maker is smaller, unless there are few rows.
        "peak memory, GB": after.ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        log = asked.log or Path(temporary) / "lastfm.tsv"
        if not log.exists():
            subprocess.run([sys.executable, HERE / "make_lastfm.py", log, "--rows", str(asked.rows)], check=True)
        rows = 0
        with open(log, "rb") as file:
            while block := file.read(1 << 24):
                rows += block.count(b"\n")
        data = Path(temporary) / "data"
        words = [sys.executable, "-m", "dissect", "data", "prepare", "lastfm", "--from", str(log)]
        figures = measure(words, data)
        sys.path.insert(0, str(HERE.parent))
        from dissect.data import catalog  # torch is imported here, and not on the clock

        start = time.perf_counter()
        dataset = catalog.load("lastfm", data)
        figures["loading, s"] = time.perf_counter() - start
    print(f"{rows:,} rows, {os.cpu_count()} cores; {dataset.train.n_clicks + dataset.test.n_clicks:,} clicks are left")
    for name, value in figures.items():
        print(f"{name:16}{value:8.2f}")


if __name__ == "__main__":
    main()

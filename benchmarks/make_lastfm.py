"""Make a log of the size and shape of Last.fm-1K, to measure `dissect data prepare lastfm` on.

    python benchmarks/make_lastfm.py lastfm.tsv                 19,150,868 rows, 2.5 GB, a minute or two
    python benchmarks/make_lastfm.py small.tsv --rows 200000

As in the real one: 992 users with very unequal numbers of plays, newest first; plays in bursts of one artist;
artists with and without an identifier, popular in proportion to 1 / rank; names with quotation marks in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROWS, USERS, ARTISTS = 19_150_868, 992, 107_000
UNNAMED = 0.03  # share of plays whose artist has no identifier
SAME_ARTIST = 0.55  # chance that a play has the artist of the one before
NEW_SESSION = 0.05  # chance of a pause of hours or days before a play
LAST_PLAY = np.datetime64("2009-06-19T20:00:00", "s")


def users_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Plays per user, summing to `rows`."""
    share = rng.lognormal(0, 1.1, USERS)
    return np.asarray(rng.multinomial(rows, share / share.sum()))


def identifiers(rng: np.random.Generator, count: int) -> list[str]:
    """Random identifiers in the form of MusicBrainz."""
    digits = rng.integers(0, 16, (count, 32), dtype=np.uint8)
    text = np.frombuffer(b"0123456789abcdef", np.uint8)[digits].tobytes().decode()
    parts = (text[i : i + 32] for i in range(0, len(text), 32))
    return [f"{p[:8]}-{p[8:12]}-{p[12:16]}-{p[16:20]}-{p[20:]}" for p in parts]


def names(rng: np.random.Generator, count: int) -> list[str]:
    """Names of 3 to 24 letters; one in two hundred has a quotation mark that is never closed."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    lengths = rng.integers(3, 25, count)
    text = "".join(letters[rng.integers(0, len(letters), int(lengths.sum()))])
    ends = np.cumsum(lengths).tolist()
    quoted = rng.random(count) < 1 / 200
    return [('"' if q else "") + text[e - n : e].strip() for e, n, q in zip(ends, lengths.tolist(), quoted)]


def plays(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(times, artists) of one user's plays, newest first."""
    pause = np.where(
        rng.random(count) < NEW_SESSION, rng.lognormal(np.log(86_400), 1.0, count), rng.normal(240, 60, count).clip(30)
    )
    times = LAST_PLAY - np.cumsum(pause).astype("timedelta64[s]")
    drawn = np.minimum(ARTISTS ** rng.random(count), ARTISTS).astype(np.int64) - 1  # P(rank) falls as 1 / rank
    fresh = rng.random(count) >= SAME_ARTIST
    fresh[:1] = True
    return times, drawn[fresh][np.cumsum(fresh) - 1]


def lines(rng: np.random.Generator, rows: int) -> Iterator[str]:
    """The log, one block of text a user."""
    artist_ids, artist_names = identifiers(rng, ARTISTS), names(rng, ARTISTS)
    artists = np.array([f"{i}\t{n}" for i, n in zip(artist_ids, artist_names)], object)
    unnamed = np.array([f"\t{n}" for n in artist_names], object)
    tracks = np.array([f"{i}\t{n}" for i, n in zip(identifiers(rng, 200_000), names(rng, 200_000))], object)
    for user, count in enumerate(users_rows(rng, rows), 1):
        times, drawn = plays(rng, count)
        artist = np.where(rng.random(count) < UNNAMED, unnamed[drawn], artists[drawn])
        track = tracks[rng.integers(0, len(tracks), count)]
        head = f"user_{user:06d}\t"
        stamps = np.datetime_as_string(times).tolist()
        yield "".join(f"{head}{t}Z\t{a}\t{k}\n" for t, a, k in zip(stamps, artist.tolist(), track.tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with open(asked.path, "w", encoding="utf-8") as file:
        for block in lines(np.random.default_rng(asked.seed), asked.rows):
            file.write(block)
    print(f"{asked.path}: {asked.rows:,} rows, {asked.path.stat().st_size / 1e9:.2f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()

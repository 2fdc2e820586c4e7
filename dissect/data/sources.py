"""Addresses of public logs. Sizes and checksums are those of their owners, or of several copies that agree."""

from __future__ import annotations

from dataclasses import dataclass

from dissect.errors import DataError, unknown


@dataclass(frozen=True)
class Source:
    """A file on the web.

    urls      tried one after the other
    checksum  sha256:...; if none is published md5:..., or git:... for the SHA-1 under which git keeps the file
    size      bytes, if known
    at_most   bytes, if not: a download stops there
    terms     what its owner asks for; to be accepted before it is fetched
    """

    file: str
    urls: tuple[str, ...]
    checksum: str
    size: int | None = None
    at_most: int = 1 << 30
    terms: str = ""

    @property
    def limit(self) -> int:
        """The size above which a download must be another file."""
        return self.at_most if self.size is None else self.size


DIGINETICA = Source(
    file="train-item-views.csv",
    urls=(
        "https://github.com/RecoHut-Datasets/diginetica/raw/main/train-item-views.csv",
        "https://github.com/JXY66/PASBR-datasets/raw/main/datasets/train-item-views.csv",
    ),
    checksum="git:64d39ce3ce8a8d6da81d4cd5d5655eb1c9a3d196",
    at_most=100_000_000,
)

SOURCES: dict[str, Source] = {
    "diginetica": DIGINETICA,
    "diginetica-srgnn": DIGINETICA,
    "gowalla": Source(
        file="loc-gowalla_totalCheckins.txt.gz",
        urls=("https://snap.stanford.edu/data/loc-gowalla_totalCheckins.txt.gz",),
        checksum="sha256:c1c3e19effba649b6c89aeab3c1f9459fad88cfdc2b460fc70fd54e295d83ea0",
        size=105_470_044,
    ),
    "lastfm": Source(
        file="lastfm-dataset-1K.tar.gz",
        urls=("https://zenodo.org/records/6090214/files/lastfm-dataset-1K.tar.gz",),
        checksum="md5:a79a6808f54f73354789a9fb02cb1e41",
        terms="Last.fm allows non-commercial use only (README of the data set).",
    ),
}


def find(name: str) -> Source:
    """The source of a data set. Raises UsageError for an unknown name, DataError if no public file is known."""
    from dissect.data import catalog

    if name in SOURCES:
        return SOURCES[name]
    if name in catalog.KNOWN:
        raise DataError(f"No public file of '{name}' is known that could be checked.", catalog.ways(name))
    raise unknown("data set to fetch", name, SOURCES)

"""What the paper prints (Zhang et al., WSDM 2023): its tables, in percent, by data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Printed(NamedTuple):
    """A row of a table on one data set."""

    hr: float  # HR@20
    mrr: float  # MRR@20
    seconds: float | None = None  # of an epoch, on an RTX 3090


SETS = ("diginetica", "gowalla", "lastfm")
COUNTS = ("clicks", "prefixes", "items", "mean_length")  # of a row of Table 1; it prints prefixes as sessions
TABLE1 = {
    "diginetica": (981_620, 777_029, 42_596, 4.80),
    "gowalla": (1_122_788, 830_893, 29_510, 3.85),
    "lastfm": (3_835_706, 3_510_163, 38_615, 11.78),
}
_TABLE2 = {
    "nextitnet": ((35.60, 9.66, 91.06), (38.69, 16.48, 67.94), (21.02, 6.46, 413.27)),
    "narm": ((48.27, 16.43, 107.61), (49.67, 22.14, 80.52), (21.73, 6.87, 427.14)),
    "srgnn": ((51.16, 17.67, 341.68), (50.16, 24.58, 338.62), (22.49, 8.80, 1626.94)),
    "gcsan": ((50.63, 17.37, 437.27), (50.35, 24.65, 398.04), (22.63, 8.90, 1814.78)),
    "sgnnhn": ((51.57, 17.54, 365.38), (50.72, 24.97, 326.91), (23.66, 8.84, 1595.59)),
    "lessr": ((51.71, 18.15, 440.84), (51.34, 25.49, 511.68), (23.37, 9.01, 1927.20)),
    "niser": ((54.18, 18.66, 292.15), (54.89, 25.73, 278.65), (23.82, 8.76, 279.80)),
    "dhcn": ((53.85, 18.50, 2169.87), (53.77, 24.13, 2452.76), (22.86, 7.78, 21059.94)),
    "dsan": ((54.02, 18.62, 273.48), (54.09, 26.64, 279.17), (24.17, 8.42, 1203.81)),
    "attenmixer": ((55.66, 18.96, 288.12), (55.12, 27.01, 267.37), (24.50, 9.05, 1140.09)),
}
_TABLE3 = {  # with Atten-Mixer's readout; without it, the rows of Table 2
    "srgnn": ((55.73, 19.16), (54.46, 26.17), (23.59, 8.96)),
    "sgnnhn": ((52.76, 17.97), (53.28, 25.00), (23.89, 9.15)),
}
_TABLE4 = {
    "paper-M": ((52.27, 17.52), (50.20, 25.06), (22.14, 8.30)),
    "paper-IP": ((53.76, 17.99), (52.62, 25.03), (22.56, 8.83)),
    "paper-LI": ((53.81, 17.78), (52.27, 24.91), (22.28, 8.81)),
    "paper-LP": ((53.48, 17.89), (53.29, 25.54), (23.44, 8.90)),
}


def _by_set(rows: Mapping[str, tuple[tuple[float, ...], ...]]) -> dict[str, dict[str, Printed]]:
    return {name: {on: Printed(*row) for on, row in zip(SETS, of)} for name, of in rows.items()}


TABLE2, TABLE3, TABLE4 = _by_set(_TABLE2), _by_set(_TABLE3), _by_set(_TABLE4)

"""The rules that turn a log into sessions: small functions on a table, by name.

A table has a row per click and columns session, item, time, and user, day, offset, event, date if known
(dissect/data/log.py). Rules change nothing in place. Sorts are stable, and if counts tie, the item whose identifier
comes first wins. From `sort_clicks` on, the clicks of a session stand together.

A recipe is a list of (rule, settings); the clicks that each step left are recorded (dissect/data/recipes.py has the
recipes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dissect.data.clock import NO_TIME
from dissect.data.log import IDS, MISSING
from dissect.data.sessions import Sessions
from dissect.errors import DataError
from dissect.usual import LEAST_CLICKS

Step = tuple[str, Mapping[str, Any]]  # a rule by name, and its settings

DAY = 86_400_000  # milliseconds
UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY}


# --- rules on clicks -----------------------------------------------------------------------------------------


def drop_missing(log: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Drop the clicks that lack one of `columns`."""
    present = np.ones(len(log), bool)
    for column in columns:
        present &= log[column].to_numpy() != (MISSING if column in IDS else NO_TIME)
    return log[present]


def keep_events(log: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Keep the clicks whose event is of one kind, such as `view`."""
    return log[(log["event"] == kind).to_numpy()]


def number_by_appearance(log: pd.DataFrame, column: str) -> pd.DataFrame:
    """Number sessions or users in the order in which they first appear, instead of the order of their identifiers."""
    return log.assign(**{column: pd.factorize(log[column].to_numpy())[0].astype(np.int32)})


def part_users(log: pd.DataFrame) -> pd.DataFrame:
    """Divide a session with clicks of several users into one of each: session numbers may begin anew for each user.

    Clicks without a user belong to the user of their session if it has one, else they are a session of their own.
    """
    session, user = log["session"].to_numpy(), log["user"].to_numpy()
    known = user != MISSING
    first = np.full(int(session.max(initial=-1)) + 1, MISSING, np.int64)
    first[session[known]] = user[known]  # the last one that is written, whichever
    shared = np.zeros(len(first), bool)
    shared[session[known & (user != first[session])]] = True
    key = session * (user.max(initial=0) + np.int64(2)) + np.where(shared[session], user + 1, 0)
    return log.assign(session=pd.factorize(key)[0].astype(np.int32))


def sort_clicks(log: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Sort by the columns `by`; clicks that are equal in all of them stay in the order of the file."""
    order = np.lexsort([log[column].to_numpy() for column in reversed(by)])
    return log if (np.diff(order) == 1).all() else log.take(order)


def split_at_gaps(log: pd.DataFrame, gap: str) -> pd.DataFrame:
    """Begin a session where the user changes, or where more than `gap` (such as 8h) lies between two clicks."""
    user, time = log["user"].to_numpy(), log["time"].to_numpy()
    begins = np.ones(len(log), bool)
    begins[1:] = (user[1:] != user[:-1]) | (np.diff(time) > milliseconds(gap))
    return log.assign(session=(np.cumsum(begins) - 1).astype(np.int32))


def date_sessions(log: pd.DataFrame, column: str, unit: str = "s") -> pd.DataFrame:
    """Give each session the date of its last line in the file (column `date`), in whole days or seconds."""
    whole = milliseconds("1" + unit)
    last = pd.Series(log[column].to_numpy()).groupby(log["session"].to_numpy()).last()
    return log.assign(date=last.to_numpy()[np.searchsorted(last.index, log["session"])] // whole * whole)


def drop_immediate_repeats(log: pd.DataFrame) -> pd.DataFrame:
    """Drop a click on the item that was clicked just before in the same session."""
    session, item = log["session"].to_numpy(), log["item"].to_numpy()
    repeats = np.zeros(len(log), bool)
    repeats[1:] = (session[1:] == session[:-1]) & (item[1:] == item[:-1])
    return log[~repeats]


def first_clicks(log: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep the first `most` clicks of each session."""
    return log[_positions(log) < most]


def drop_short_sessions(log: pd.DataFrame, least: int = 2) -> pd.DataFrame:
    """Drop the sessions of fewer than `least` clicks."""
    _, lengths = runs(log)
    return log[np.repeat(lengths >= least, lengths)]


def drop_rare_items(log: pd.DataFrame, least: int = LEAST_CLICKS) -> pd.DataFrame:
    """Drop the items that have fewer than `least` clicks, counted once."""
    item = log["item"].to_numpy()
    return log[np.bincount(item)[item] >= least] if len(log) else log


def keep_top_items(log: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep the `most` items with the most clicks; of items tied for the last place, those whose id comes first."""
    item = log["item"].to_numpy()
    count = np.bincount(item)
    top = np.zeros(len(count), bool)
    top[np.argsort(-count, kind="stable")[:most]] = True
    return log[top[item]]


def until_stable(log: pd.DataFrame, steps: Sequence[Step], dropped: Dropped | None = None) -> pd.DataFrame:
    """Repeat some rules until they drop nothing more; what each of them dropped is added to `dropped`."""
    while True:
        before = len(log)
        for rule, settings in steps:
            kept = RULES[rule](log, **settings)
            if dropped is not None:
                dropped.add(rule, settings, (log,), (kept,))
            log = kept
        if len(log) == before:
            return log


# --- rules that split ----------------------------------------------------------------------------------------


def split_by_end(log: pd.DataFrame, last: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sessions that end before (the last click of all - `last`) train, all the others test."""
    ends = session_maxima(log, "time")
    return _divide(log, ends < ends.max() - milliseconds(last))


def split_by_date(log: pd.DataFrame, last: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sessions dated before (the last date of all - `last`) train, later ones test; that very date is dropped."""
    dates = session_maxima(log, "date")
    split = dates.max() - milliseconds(last)
    train, rest = _divide(log, dates < split)
    dates = dates[dates >= split]
    return train, _divide(rest, dates > split)[0]


def split_last_share(log: pd.DataFrame, share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The last `share` of the sessions by end (rounded down) test; of equal ends the later in order."""
    ends = session_maxima(log, "time")
    n_test = int(len(ends) * share)
    train = np.ones(len(ends), bool)
    train[np.argsort(ends, kind="stable")[len(ends) - n_test :]] = False
    return _divide(log, train)


# --- rules after the split -----------------------------------------------------------------------------------


def drop_unseen_items(train: pd.DataFrame, test: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop the test clicks on items that training does not have."""
    seen = np.zeros(int(max(train["item"].max(), test["item"].max() if len(test) else 0)) + 1, bool)
    seen[train["item"].to_numpy()] = True
    return train, test[seen[test["item"].to_numpy()]]


def drop_short_tests(train: pd.DataFrame, test: pd.DataFrame, least: int = 2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop the test sessions of fewer than `least` clicks."""
    return train, drop_short_sessions(test, least)


def order_sessions(train: pd.DataFrame, test: pd.DataFrame, by: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put the sessions of each part in the order of their end (`time`) or date; ties stay as they are."""
    return _order(train, by), _order(test, by)


def number_items(train: pd.DataFrame, test: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Number the items from 1 in the order in which they first appear in training. Test must have no others."""
    numbers, known = pd.factorize(train["item"].to_numpy())
    place = np.zeros(int(known.max()) + 1, np.int32)
    place[known] = np.arange(1, len(known) + 1)
    return train.assign(item=(numbers + 1).astype(np.int32)), test.assign(item=place[test["item"].to_numpy()])


def last_samples(train: pd.DataFrame, test: pd.DataFrame, one_in: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the last 1 / `one_in` of the training samples, rounded down.

    The longest prefixes of a session come first and are cut off first, so the first session kept may lose its end.
    """
    _, lengths = runs(train)
    kept = int((lengths - 1).sum()) // one_in
    from_here = np.cumsum((lengths - 1)[::-1])[::-1]  # samples from each session to the end
    whole = from_here <= kept
    clicks = np.where(whole, lengths, 0)
    first = int(np.count_nonzero(~whole)) - 1
    if first >= 0:
        left = kept - (int(from_here[first + 1]) if first + 1 < len(from_here) else 0)
        clicks[first] = left + 1 if left else 0
    return train[_positions(train) < np.repeat(clicks, lengths)], test


# --- a recipe as a whole -------------------------------------------------------------------------------------

Rules = tuple[Callable[..., Any], ...]
ON_CLICKS: Rules = (drop_missing, keep_events, number_by_appearance, part_users, sort_clicks, split_at_gaps)
ON_SESSIONS: Rules = (date_sessions, drop_immediate_repeats, first_clicks, drop_short_sessions, until_stable)
ON_ITEMS: Rules = (drop_rare_items, keep_top_items)
SPLITS: Rules = (split_by_end, split_by_date, split_last_share)
AFTER: Rules = (drop_unseen_items, drop_short_tests, order_sessions, number_items, last_samples)
RULES = {rule.__name__: rule for rule in (*ON_CLICKS, *ON_SESSIONS, *ON_ITEMS, *SPLITS, *AFTER)}


class Dropped:
    """Clicks and sessions that each rule dropped, in the order of the rules."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.formed = False  # whether the clicks of a session stand together, so that sessions can be counted

    def add(
        self, rule: str, settings: Mapping[str, Any], before: Sequence[pd.DataFrame], after: Sequence[pd.DataFrame]
    ) -> None:
        """A rule made the tables `after` of the tables `before`."""
        clicks = sum(map(len, before)) - sum(map(len, after))
        if clicks:
            row = self.rows.setdefault(f"{rule} {settings}", {"rule": rule, **_plain(settings), "clicks": 0})
            row["clicks"] += clicks
            if self.formed:
                lost = sum(len(runs(table)[0]) for table in before) - sum(len(runs(table)[0]) for table in after)
                row["sessions"] = row.get("sessions", 0) + lost
        self.formed |= rule in ("sort_clicks", "split_at_gaps") and "session" in after[0]


def apply(
    log: pd.DataFrame, rules: Sequence[Step], split: Step, after: Sequence[Step]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any], np.ndarray]:
    """(train, test, record, which item of the log became item 1, 2, ...) of a log.

    The record has `rules`, the clicks that each step left, and `dropped`, the clicks and sessions that each rule
    dropped. Raises DataError, with the step, if nothing is left for training or for test.
    """
    steps: list[dict[str, Any]] = []
    dropped, numbered = Dropped(), np.zeros(0, np.int32)
    parts: tuple[pd.DataFrame, ...] = (log,)
    del log  # a table is freed once the next one is made
    for rule, settings in (*rules, split, *after):
        more = {"dropped": dropped} if rule == "until_stable" else {}
        made = RULES[rule](*parts, **settings, **more)
        made = (made,) if isinstance(made, pd.DataFrame) else made
        left = [len(table) for table in made]
        steps.append({"rule": rule, **_plain(settings), "clicks": left if len(left) > 1 else left[0]})
        if rule == "part_users":
            steps[-1]["sessions"] = [table["session"].nunique() for table in (*parts, *made)]
        if rule == "number_items":
            numbered = pd.unique(parts[0]["item"].to_numpy())
            steps[-1]["items"] = len(numbered)
        if rule != "until_stable":
            dropped.add(rule, settings, parts, made)
        parts = made
        if 0 in left:
            what = "click" if len(left) == 1 else "test session" if left[0] else "training session"
            record = ", ".join(f"{step['rule']} {step['clicks']}" for step in steps)
            raise DataError(
                f"No {what} is left after {rule}. Clicks after each rule: {record}.",
                "The log is too small for these rules, or its times or identifiers are not what they should be.",
            )
    train, test = parts
    return train, test, {"rules": steps, "dropped": list(dropped.rows.values())}, numbered


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def to_sessions(table: pd.DataFrame) -> Sessions:
    """Sessions of a table whose items are numbered: their end is their date where they have one."""
    starts, _ = runs(table)
    ends = session_maxima(table, "date" if "date" in table else "time")
    users = session_maxima(table, "user") if "user" in table else None  # MISSING only where no click has one
    return Sessions(
        items=table["item"].to_numpy(np.int32),
        offsets=np.append(starts, len(table)).astype(np.int64),
        times=ends // 1000,
        users=None if users is None or (users == MISSING).all() else users,
        click_times=table["time"].to_numpy(np.int64) // 1000,
    )


def milliseconds(span: str | float) -> int:
    """A span of time such as 90s, 30m, 8h or 7d in milliseconds. Raises ValueError for anything else."""
    text = str(span).strip()
    try:
        value = float(text[:-1])
    except ValueError:
        value = -1.0
    if text[-1:] not in UNITS or not 0 <= value < float("inf"):
        raise ValueError(f"A span of time is a number with s, m, h or d, such as 30m, not {span!r}.")
    return round(value * UNITS[text[-1]])


def runs(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(first row, rows), int64 [S] each, of the sessions of a table in which the clicks of each stand together."""
    session = table["session"].to_numpy()
    begins = np.ones(len(session), bool)
    begins[1:] = session[1:] != session[:-1]
    starts = np.flatnonzero(begins)
    return starts, np.diff(np.append(starts, len(session)))


def _positions(table: pd.DataFrame) -> np.ndarray:
    """The place of each click in its session, from 0, int64 [C]."""
    starts, lengths = runs(table)
    return np.arange(len(table)) - np.repeat(starts, lengths)


def session_maxima(table: pd.DataFrame, column: str) -> np.ndarray:
    """The largest value of a column in each session, int64 [S]."""
    starts, _ = runs(table)
    return np.asarray(np.maximum.reduceat(table[column].to_numpy(np.int64), starts))


def _divide(table: pd.DataFrame, first: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The sessions chosen by `first` (bool [S]), and the others."""
    _, lengths = runs(table)
    chosen = np.repeat(first, lengths)
    return table[chosen], table[~chosen]


def _order(table: pd.DataFrame, by: str) -> pd.DataFrame:
    starts, lengths = runs(table)
    order = np.argsort(session_maxima(table, by), kind="stable")
    if (np.diff(order) == 1).all():
        return table
    sizes = lengths[order]
    rows = np.repeat(starts[order] - np.cumsum(sizes) + sizes, sizes) + np.arange(len(table))
    return table.take(rows)

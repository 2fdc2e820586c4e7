"""The rules that make each data set from its log. Recipes are data: the rules are in dissect/data/preprocess.py.

`diginetica`, `gowalla` and `lastfm` are the paper's data: LESSR's rules (Chen and Wong, KDD 2020). `diginetica-srgnn`
and `yoochoose-*` follow SR-GNN's (Wu et al., AAAI 2019). The expected counts are those of the papers and of the
files that their authors released.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dissect.data import catalog
from dissect.data.clock import check_format
from dissect.data.lines import check_encoding
from dissect.data.log import NO_VALUE, LogFormat, heads
from dissect.data.preprocess import Step, milliseconds
from dissect.errors import UsageError, unknown
from dissect.usual import LEAST_CLICKS, TEST_SHARE


@dataclass(frozen=True)
class Recipe:
    """From a log to a split.

    expected: counts of the full data set, any of clicks, items, prefixes, train_prefixes, test_prefixes
    """

    log: LogFormat
    rules: tuple[Step, ...]
    split: Step
    after: tuple[Step, ...]
    expected: Mapping[str, int] = field(default_factory=dict)


DIGINETICA_LOG = LogFormat(
    separator="",  # the owner's are semicolons, copies have commas
    columns=heads(
        "session:sessionId,session_id user:userId,user_id item:itemId,item_id offset:timeframe day:eventdate"
    ),
    clock="iso",
    missing=("", "NA"),
    member="train-item-views.csv",
)
GOWALLA_LOG = LogFormat(
    separator="\t",
    columns=heads("user:user time:time item:item"),
    names=("user", "time", "latitude", "longitude", "item"),
    clock="iso",
    missing=("",),
    may_lack=("item",),
    member="loc-gowalla_totalCheckins.txt",
)
LASTFM_LOG = replace(
    GOWALLA_LOG,
    columns=heads("user:userid time:timestamp item:artid"),
    names=("userid", "timestamp", "artid", "artname", "traid", "traname"),
    free=True,  # names of artists and tracks, as they were typed
    member="userid-timestamp-artid-artname-traid-traname.tsv",
)
YOOCHOOSE_LOG = LogFormat(
    separator=",",
    columns=heads("session:session_id,sessionId time:timestamp item:item_id,itemId"),
    names=("session_id", "timestamp", "item_id", "category"),
    clock="iso",
    missing=("",),
    member="yoochoose-clicks.dat",
)
RETAILROCKET_LOG = LogFormat(
    separator="",
    columns=heads("time:timestamp user:visitorid,visitor_id event:event item:itemid,item_id"),
    clock="milliseconds",
    missing=("",),
    may_lack=(),
    member="events.csv",
)

SHORT: Step = ("drop_short_sessions", {"least": 2})
RARE: Step = ("drop_rare_items", {"least": 5})
FIRST: Step = ("first_clicks", {"most": 20})
PRESENT: Step = ("drop_missing", {"columns": ("user", "time", "item")})
LAST_FIFTH: Step = ("split_last_share", {"share": 0.2})

# --- LESSR's rules -------------------------------------------------------------------------------------------

LESSR_AFTER: tuple[Step, ...] = (
    ("drop_unseen_items", {}),
    ("drop_short_tests", {"least": 2}),
    ("number_items", {}),  # in the order of session numbers, not of time
    ("order_sessions", {"by": "time"}),
)


def cut_at(gap: str) -> tuple[Step, ...]:
    """Sessions of a log of users: a pause of more than `gap` ends one."""
    numbered = ("number_by_appearance", {"column": "user"})
    return numbered, ("sort_clicks", {"by": ("user", "time")}), ("split_at_gaps", {"gap": gap})


def plays(first: Step, gap: str, *more: Step) -> tuple[Step, ...]:
    """LESSR's rules for a log of users without sessions."""
    until_stable = ("until_stable", {"steps": (SHORT, RARE)})
    return first, *cut_at(gap), ("drop_immediate_repeats", {}), FIRST, *more, until_stable


# --- SR-GNN's rules ------------------------------------------------------------------------------------------

SRGNN_AFTER: tuple[Step, ...] = (("order_sessions", {"by": "date"}), *LESSR_AFTER[:3])


def srgnn(column: str, unit: str, *by: str) -> tuple[Step, ...]:
    """SR-GNN's rules for a log of sessions, which are dated by a column in whole units."""
    numbered, dated = (
        ("number_by_appearance", {"column": "session"}),
        ("date_sessions", {"column": column, "unit": unit}),
    )
    return numbered, dated, ("sort_clicks", {"by": ("session", *by)}), SHORT, RARE, SHORT


def yoochoose(one_in: int, train_prefixes: int) -> Recipe:
    """The last 1 / `one_in` of Yoochoose; items keep the numbers that they have in the whole of it."""
    return Recipe(
        log=YOOCHOOSE_LOG,
        rules=srgnn("time", "s"),
        split=("split_by_date", {"last": "1d"}),
        after=(*SRGNN_AFTER, ("last_samples", {"one_in": one_in})),
        expected={"train_prefixes": train_prefixes, "test_prefixes": 55_898, "items": 37_483},
    )


RECIPES: dict[str, Recipe] = {
    "diginetica": Recipe(
        log=DIGINETICA_LOG,
        rules=(("sort_clicks", {"by": ("session", "time")}), SHORT, FIRST, RARE, SHORT),
        split=("split_by_end", {"last": "7d"}),
        after=LESSR_AFTER,
        expected={"clicks": 981_620, "items": 42_596, "train_prefixes": 716_835, "test_prefixes": 60_194},
    ),
    "diginetica-srgnn": Recipe(
        log=DIGINETICA_LOG,
        rules=srgnn("day", "d", "offset"),
        split=("split_by_date", {"last": "7d"}),
        after=SRGNN_AFTER,
        expected={"items": 43_097, "train_prefixes": 719_470, "test_prefixes": 60_858},
    ),
    "gowalla": Recipe(
        log=GOWALLA_LOG,
        rules=plays(PRESENT, "1d", ("keep_top_items", {"most": 30_000})),
        split=LAST_FIFTH,
        after=LESSR_AFTER,
        expected={"clicks": 1_122_788, "items": 29_510, "prefixes": 830_893, "test_prefixes": 155_332},
    ),
    "lastfm": Recipe(
        log=LASTFM_LOG,
        rules=plays(PRESENT, "8h", ("keep_top_items", {"most": 40_000})),
        split=LAST_FIFTH,
        after=LESSR_AFTER,
        expected={"clicks": 3_835_706, "items": 38_615, "prefixes": 3_510_163},
    ),
    # Those who use RetailRocket agree on no rules: these are Gowalla's, on views, with a gap of 30 minutes.
    "retailrocket": Recipe(
        RETAILROCKET_LOG, plays(("keep_events", {"kind": "view"}), "30m"), split=LAST_FIFTH, after=LESSR_AFTER
    ),
    "yoochoose-1-4": yoochoose(4, 5_917_745),
    "yoochoose-1-64": yoochoose(64, 369_859),
}


def own_log(
    *,
    item: str,
    time: str,
    session: str | None = None,
    user: str | None = None,
    gap: str | None = None,
    separator: str = "",
    clock: str = "auto",
    encoding: str = "utf-8",
    missing: Sequence[str] = NO_VALUE,
    least_clicks: int = LEAST_CLICKS,
    longest: int | None = None,
    top: int | None = None,
    drop_repeats: bool = False,
    test_last: str | None = None,
    test_share: float = TEST_SHARE,
) -> Recipe:
    """A recipe for any log, by the names of its columns; the rules are LESSR's unless they are chosen otherwise.

    session or (user and gap)   what makes a session; with session and user, each session belongs to one user
    separator                   one character; "" to find it from the header
    clock                       auto, iso, seconds, milliseconds, ... or a pattern such as %d/%m/%Y
    missing                     texts that count as empty
    least_clicks                of an item
    longest, top                first clicks of a session, and most clicked items, that are kept
    test_last or test_share     sessions that end in the last `7d`, or the last share of all

    Raises UsageError if these do not fit together.
    """
    _check(session, user, gap, separator, test_last, test_share)
    columns = {"session": session, "user": user, "item": item, "time": time}
    given = [name for name in columns.values() if name]
    if len({name.lower() for name in given}) < len(given):
        raise UsageError(f"One column cannot be two things: {', '.join(given)} name the same column twice.")
    format = LogFormat(
        separator=separator,
        columns={role: (name,) for role, name in columns.items() if name},
        clock="auto" if clock == "auto" else check_format(clock),
        counts=False,
        quoted=True,
        encoding=check_encoding(encoding),
        missing=("", *missing),  # an empty field is always empty
        may_lack=() if gap else ("user",),
        optional=(),
        options=("--encoding", "--missing"),
    )
    parted: Step = ("part_users", {}) if user else ("number_by_appearance", {"column": "session"})
    rules = (
        *(cut_at(gap) if gap else (parted, ("sort_clicks", {"by": ("session", "time")}))),
        *([("drop_immediate_repeats", {})] if drop_repeats else []),
        *([("first_clicks", {"most": longest})] if longest else []),
        *([("keep_top_items", {"most": top})] if top else []),
        ("until_stable", {"steps": (SHORT, ("drop_rare_items", {"least": least_clicks}))}),
    )
    split = ("split_by_end", {"last": test_last}) if test_last else ("split_last_share", {"share": test_share})
    return Recipe(format, rules, split, LESSR_AFTER)


def _check(
    session: str | None, user: str | None, gap: str | None, separator: str, test_last: str | None, test_share: float
) -> None:
    """Raises UsageError unless these arguments of `own_log` make sense, and say once what a session is."""
    if (session is None) == (gap is None):
        raise UsageError(
            "Sessions come from --session-col, or from --user-col and --gap: give the one or the other.",
            "For example --session-col session_id, or --user-col user --gap 30m.",
        )
    if gap is not None and user is None:
        raise UsageError("--gap cuts the clicks of a user into sessions: name the users with --user-col.")
    if not 0 < test_share < 1:
        raise UsageError(f"--test-share is a share of the sessions, above 0 and below 1, not {test_share}.")
    for name, span in (("--gap", gap), ("--test-last", test_last)):
        try:
            milliseconds(span or "1d")
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    if separator and (len(separator) > 1 or not separator.isascii() or separator in '"\r\n\0'):
        raise UsageError(f"--separator is one character, such as ',' or ';', not {separator!r}.")


# Arguments of `own_log` whose option of `dissect data prepare` has another name.
OPTIONS = {"item": "item-col", "time": "time-col", "session": "session-col", "user": "user-col", "clock": "time-format"}
OPTIONS |= {"least_clicks": "min-clicks", "top": "top-items"}


def choose(name: str, encoding: str | None = None, **own: Any) -> Recipe:
    """The recipe of that name for a log in that encoding; if columns are named, `own_log` of the arguments.

    Raises UsageError for an unknown name, and for arguments that do not apply to it.
    """
    own = {name: value for name, value in own.items() if value not in (None, (), "") and value is not False}
    if {"item", "time", "session", "user", "gap"} & own.keys():
        if not {"item", "time"} <= own.keys():
            raise UsageError("A log of your own needs --item-col and --time-col.")
        if {"test_last", "test_share"} <= own.keys():
            raise UsageError("The test part is --test-last SPAN or --test-share SHARE: leave one of them out.")
        own["separator"] = own.get("separator", "").replace("\\t", "\t")
        return own_log(**own, encoding=encoding or "utf-8")
    if (known := catalog.canonical(name)) not in RECIPES:
        error = unknown("recipe", name, RECIPES)
        hint = f"{error.hint} For a log of your own, say --item-col and --time-col."
        raise UsageError(error.message, catalog.ways(known) or hint)
    if own:
        option = "--" + OPTIONS.get(next(iter(own)), next(iter(own))).replace("_", "-")
        raise UsageError(f"{option} is for a log of your own; the rules of {name} are fixed.", f"Leave {option} out.")
    return replace(RECIPES[known], log=replace(RECIPES[known].log, encoding=check_encoding(encoding or "utf-8")))

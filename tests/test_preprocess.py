"""Raw logs to sessions: every recipe against a plain twin that follows the rules in words, click by click."""

from __future__ import annotations

import datetime
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissect.data import catalog, preprocess
from dissect.data.bring import differences, prepare
from dissect.data.preprocess import milliseconds
from dissect.data.recipes import RECIPES, Recipe, choose, own_log
from dissect.errors import DataError, UsageError

# --- plain twins: (session, item, time) lists, one loop a rule ------------------------------------------------


def grouped(clicks):
    """Sessions in the order in which they first appear: session -> its clicks."""
    sessions = {}
    for click in clicks:
        sessions.setdefault(click["session"], []).append(click)
    return sessions


def long_enough(sessions):
    return {s: clicks for s, clicks in sessions.items() if len(clicks) >= 2}


def frequent(sessions, least=5):
    count = Counter(c["item"] for clicks in sessions.values() for c in clicks)
    return {s: [c for c in clicks if count[c["item"]] >= least] for s, clicks in sessions.items()}


def finish(train, test, number_first):
    """Unknown items and short sessions leave test; ids from 1 by appearance; lists of items in time order."""
    seen = {c["item"] for clicks in train.values() for c in clicks}
    test = long_enough({s: [c for c in clicks if c["item"] in seen] for s, clicks in test.items()})
    numbers = {}
    if not number_first:
        train, test = by_key(train), by_key(test)
    for clicks in train.values():
        for click in clicks:
            numbers.setdefault(click["item"], len(numbers) + 1)
    if number_first:
        train, test = by_key(train), by_key(test)
    return [[[numbers[c["item"]] for c in clicks] for clicks in part.values()] for part in (train, test)]


def by_key(sessions):
    return dict(sorted(sessions.items(), key=lambda pair: max(c["key"] for c in pair[1])))


def lessr_diginetica(rows):
    clicks = [{**r, "time": r["day"] * 86_400_000 + r["frame"]} for r in rows]
    clicks = [{**c, "key": c["time"]} for c in sorted(clicks, key=lambda c: (c["session"], c["time"]))]
    sessions = {s: c[:20] for s, c in long_enough(grouped(clicks)).items()}
    sessions = long_enough(frequent(sessions))
    if not sessions:
        return [[], []]
    end = {s: max(c["time"] for c in clicks) for s, clicks in sessions.items()}
    split = max(end.values()) - 7 * 86_400_000
    train = {s: c for s, c in sessions.items() if end[s] < split}
    return finish(train, {s: c for s, c in sessions.items() if s not in train}, number_first=True)


def srgnn_diginetica(rows):
    sessions = grouped(rows)
    date = {s: clicks[-1]["day"] for s, clicks in sessions.items()}
    sessions = {
        s: [{**c, "key": date[s]} for c in sorted(clicks, key=lambda c: c["frame"])] for s, clicks in sessions.items()
    }
    sessions = long_enough(frequent(long_enough(sessions)))
    if not sessions:
        return [[], []]
    split = max(date[s] for s in sessions) - 7
    train = {s: c for s, c in sessions.items() if date[s] < split}
    return finish(train, {s: c for s, c in sessions.items() if date[s] > split}, number_first=False)


def lessr_plays(rows, gap, top):
    clicks = [r for r in rows if r["item"] is not None]
    users = {}
    for click in clicks:
        users.setdefault(click["user"], []).append(click)
    sessions, number = {}, -1
    for plays in users.values():
        before = None
        for play in sorted(plays, key=lambda c: c["time"]):
            if before is None or play["time"] - before["time"] > gap:
                number += 1
            if not (number in sessions and sessions[number][-1]["item"] == play["item"]):
                sessions.setdefault(number, []).append({**play, "key": play["time"]})
            before = play
    sessions = {s: c[:20] for s, c in sessions.items()}
    count = Counter(c["item"] for clicks in sessions.values() for c in clicks)
    best = sorted(count, key=lambda item: (-count[item], item))[:top]
    sessions = {s: [c for c in clicks if c["item"] in best] for s, clicks in sessions.items()}
    while True:
        before = sum(map(len, sessions.values()))
        sessions = frequent(long_enough(sessions))
        if sum(map(len, sessions.values())) == before:
            break
    sessions = {s: c for s, c in sessions.items() if c}
    ends = sorted(sessions, key=lambda s: max(c["time"] for c in sessions[s]))
    last = set(ends[len(ends) - int(len(ends) * 0.2) :])
    train = {s: c for s, c in sessions.items() if s not in last}
    return finish(train, {s: c for s, c in sessions.items() if s in last}, number_first=True)


# --- logs -----------------------------------------------------------------------------------------------------

EPOCH = datetime.date(2016, 3, 1)
# Few items, days and times, so that ties, equal times and items at the threshold are common.
diginetica_rows = st.lists(
    st.fixed_dictionaries(
        {
            "session": st.integers(1, 30),
            "item": st.integers(1, 9),
            "frame": st.sampled_from([0, 5, 5, 70, 900, 86_400_001]),
            "day": st.integers(0, 20),
        }
    ),
    max_size=160,
)
play_rows = st.lists(
    st.fixed_dictionaries(
        {
            "user": st.sampled_from(["b", "a", "c"]),
            "time": st.integers(0, 60).map(lambda n: n * 3600),
            "item": st.sampled_from([None, "x", "y", "z", "u", "v", "w", "q"]),
        }
    ),
    max_size=160,
)


def write_diginetica(path, rows, session="sessionId"):
    names = f"{session};userId;itemId;timeframe;eventdate"
    days = [(EPOCH + datetime.timedelta(days=r["day"])).isoformat() for r in rows]
    path.write_text(
        "\n".join([names, *(f"{r['session']};NA;{r['item']};{r['frame']};{d}" for r, d in zip(rows, days))])
    )
    return path


def write_plays(path, rows):
    stamps = [datetime.datetime.fromtimestamp(r["time"], datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for r in rows]
    path.write_text("".join(f'{r["user"]}\t{t}\t{r["item"] or ""}\tA "b\tt\tT\n' for r, t in zip(rows, stamps)))
    return path


def listed(sessions):
    return [sessions[i].tolist() for i in range(len(sessions))]


def made(name, path, recipe):
    """[train, test] as lists; [[], []] where nothing is left for one of them."""
    try:
        data = prepare(name, path, recipe)
    except DataError as error:
        assert " left after " in error.message or "no clicks" in error.message or "empty" in error.message
        return None
    assert (np.diff(data.train.times) >= 0).all() and (np.diff(data.test.times) >= 0).all()
    assert len(data.train.click_times) == data.train.n_clicks
    assert data.n_items == len(np.unique(data.train.items))
    return [listed(data.train), listed(data.test)]


def expected(parts):
    return parts if all(parts) else None


def diginetica_like(seed):
    """A log in which something is left: more sessions, sorted by session as the real one is, days at random."""
    rng = np.random.default_rng(seed)
    rows = []
    for session in range(150):
        day = int(rng.integers(0, 20))
        for _ in range(int(rng.integers(1, 26))):
            rows.append(
                {
                    "session": session,
                    "item": int(rng.zipf(1.3) % 40),
                    "frame": int(rng.choice([0, 5, 5, 70, 900, 40_000])),
                    "day": day + int(rng.random() < 0.05),
                }
            )
    return rows


@settings(max_examples=40, deadline=None)
@given(rows=diginetica_rows)
def test_lessr_rules_on_any_diginetica_log(tmp_path_factory, rows):
    path = write_diginetica(tmp_path_factory.mktemp("d") / "log.csv", rows)
    assert made("x", path, RECIPES["diginetica"]) == expected(lessr_diginetica(rows))


@settings(max_examples=40, deadline=None)
@given(rows=diginetica_rows)
def test_srgnn_rules_on_any_diginetica_log(tmp_path_factory, rows):
    path = write_diginetica(tmp_path_factory.mktemp("d") / "log.csv", rows, "session_id")
    assert made("x", path, RECIPES["diginetica-srgnn"]) == expected(srgnn_diginetica(rows))


@pytest.mark.parametrize("seed", range(5))
def test_both_rule_sets_on_logs_of_which_much_is_left(tmp_path, seed):
    rows = diginetica_like(seed)
    path = write_diginetica(tmp_path / "log.csv", rows)
    lessr, srgnn = lessr_diginetica(rows), srgnn_diginetica(rows)
    assert all(len(part) > 5 for part in (*lessr, *srgnn))
    assert made("x", path, RECIPES["diginetica"]) == lessr
    assert made("x", path, RECIPES["diginetica-srgnn"]) == srgnn


def plays_recipe(top):
    recipe = RECIPES["lastfm"]
    rules = tuple((rule, {"most": top}) if rule == "keep_top_items" else (rule, s) for rule, s in recipe.rules)
    return Recipe(recipe.log, rules, recipe.split, recipe.after)


@settings(max_examples=40, deadline=None)
@given(rows=play_rows, top=st.integers(1, 7))
def test_lessr_rules_on_any_log_of_plays(tmp_path_factory, rows, top):
    path = write_plays(tmp_path_factory.mktemp("p") / "log.tsv", rows)
    assert made("x", path, plays_recipe(top)) == expected(lessr_plays(rows, 8 * 3600, top))


@pytest.mark.parametrize("seed", range(5))
def test_plays_of_which_much_is_left(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows = [
        {"user": f"u{rng.integers(4)}", "time": int(rng.integers(0, 9000)) * 1800, "item": f"i{rng.zipf(1.4) % 30}"}
        for _ in range(1200)
    ]
    twin = lessr_plays(rows, 8 * 3600, 20)
    assert min(map(len, twin)) > 5
    assert made("x", write_plays(tmp_path / "log.tsv", rows), plays_recipe(20)) == twin


def test_gowalla_has_its_columns_and_gap(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"user": int(rng.integers(9)), "time": int(rng.integers(0, 9000)) * 3600, "item": int(rng.integers(12))}
        for _ in range(600)
    ]
    stamps = [datetime.datetime.fromtimestamp(r["time"], datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for r in rows]
    path = tmp_path / "log.txt"
    path.write_text("".join(f"{r['user']}\t{t}\t30.2\t-97.7\t{r['item']}\n" for r, t in zip(rows, stamps)))
    assert made("x", path, RECIPES["gowalla"]) == lessr_plays(rows, 86_400, 30_000)


def srgnn_yoochoose(rows, one_in):
    """The training samples and the test sessions, as SR-GNN's script lists them."""
    sessions = grouped(rows)
    date = {s: clicks[-1]["time"] // 1000 for s, clicks in sessions.items()}
    sessions = {s: [{**c, "key": date[s]} for c in clicks] for s, clicks in sessions.items()}
    sessions = long_enough(frequent(long_enough(sessions)))
    split = max(date[s] for s in sessions) - 86_400
    train = {s: c for s, c in sessions.items() if date[s] < split}
    train, test = finish(train, {s: c for s, c in sessions.items() if date[s] > split}, number_first=False)
    samples = [(s[:-i], s[-i]) for s in train for i in range(1, len(s))]
    return samples[len(samples) - len(samples) // one_in :], test, max(map(max, train))


@pytest.mark.parametrize("one_in", [4, 64])
@pytest.mark.parametrize("seed", range(4))
def test_the_last_part_of_yoochoose_is_cut_at_a_sample(tmp_path, one_in, seed):
    rng = np.random.default_rng(seed)
    rows = [
        {"session": int(s), "time": 1000 * int(s * 900 + rng.integers(0, 2000)), "item": int(rng.zipf(1.3) % 40)}
        for s in range(400)
        for _ in range(rng.integers(1, 7))
    ]
    path = tmp_path / "clicks.dat"
    stamps = [datetime.datetime.fromtimestamp(r["time"] / 1000, datetime.UTC) for r in rows]
    path.write_text("".join(f"{r['session']},{t:%Y-%m-%dT%H:%M:%S}.277Z,{r['item']},0\n" for r, t in zip(rows, stamps)))
    data = prepare("x", path, RECIPES[f"yoochoose-1-{one_in}"])
    samples, test, n_items = srgnn_yoochoose(rows, one_in)
    kept = [(s[:-i], s[-i]) for s in listed(data.train) for i in range(1, len(s))]
    assert kept == samples and listed(data.test) == test and data.n_items == n_items


# --- single rules ---------------------------------------------------------------------------------------------


def table(session, item, time=None):
    return pd.DataFrame(
        {"session": np.array(session), "item": np.array(item), "time": np.array(time or range(len(item))) * 1000}
    )


def test_ties_for_the_last_place_among_top_items_go_to_the_smallest_id():
    log = table([0] * 6, [4, 2, 2, 3, 1, 4])
    assert preprocess.keep_top_items(log, 3)["item"].tolist() == [4, 2, 2, 1, 4]


def test_a_gap_is_longer_than_its_limit_and_not_as_long():
    log = pd.DataFrame({"user": [0, 0, 0, 1], "time": np.array([0, 60, 121, 121]) * 1000, "item": 0})
    assert preprocess.split_at_gaps(log, "1m")["session"].tolist() == [0, 0, 1, 2]


def test_a_session_number_that_users_share_is_a_session_of_each():
    log = pd.DataFrame({"session": [3, 3, 1, 3, 1, 0, 0, 0], "user": [5, 7, 5, 5, -1, 2, -1, 4], "item": 0})
    # Session 3 is of two users; in session 1 one click lacks the user; session 0 has two and a click of neither.
    assert preprocess.part_users(log)["session"].tolist() == [0, 1, 2, 0, 2, 3, 4, 5]


def test_session_numbers_that_begin_anew_for_each_user(tmp_path):
    rng = np.random.default_rng(0)
    visits = [(user, number) for user in range(60) for number in range(1, 13)]
    rows = [
        f"{user},{number},{rng.integers(20)},{1_600_000_000 + 100_000 * user + 4000 * number + k}"
        for user, number in visits
        for k in range(3)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["who,visit,what,when", *rows]))
    data = prepare("x", tmp_path / "log.csv", own_log(session="visit", user="who", item="what", time="when"))
    assert len(data.train) + len(data.test) == 720 and set(data.train.lengths) == {3}
    assert data.provenance["rules"][0]["sessions"] == [12, 720]
    assert sorted({*data.train.users, *data.test.users}) == list(range(60))


def test_users_change_nothing_where_no_session_is_shared(tmp_path):
    rows = [f"{'' if i % 2 else i // 30},{i // 5},{i % 7},{1_600_000_000 + i}" for i in range(300)]
    (tmp_path / "log.csv").write_text("\n".join(["who,visit,what,when", *rows]))
    how = {"session": "visit", "item": "what", "time": "when"}
    plain, with_users = (prepare("x", tmp_path / "log.csv", own_log(**how, user=user)) for user in (None, "who"))
    assert plain.split_hash == with_users.split_hash


def test_what_each_rule_dropped_adds_up(tmp_path):
    data = prepare("x", write_diginetica(tmp_path / "log.csv", diginetica_like(0)), RECIPES["diginetica"])
    dropped = data.provenance["dropped"]
    left = data.train.n_clicks + data.test.n_clicks
    assert sum(row["clicks"] for row in dropped) == len(diginetica_like(0)) - left
    sessions = len({row["session"] for row in diginetica_like(0)})
    assert sum(row["sessions"] for row in dropped) == sessions - len(data.train) - len(data.test)


def test_clicks_at_the_same_time_stay_in_the_order_of_the_file():
    log = table([1, 0, 1, 0, 1], [5, 6, 7, 8, 9], [3, 1, 3, 1, 2])
    assert preprocess.sort_clicks(log, ["session", "time"])["item"].tolist() == [6, 8, 9, 5, 7]


def test_an_item_that_falls_under_the_threshold_after_another_filter_stays_once_and_goes_when_repeated():
    # Item 2 has five clicks, one of them in a session that falls to one click when item 9 goes.
    log = table([0, 0, 0, 0, 1, 1, 1, 2, 2], [2, 2, 2, 2, 1, 1, 1, 9, 2])
    steps = [("drop_rare_items", {"least": 3}), ("drop_short_sessions", {"least": 2})]
    once = log
    for rule, values in steps:
        once = preprocess.RULES[rule](once, **values)
    assert Counter(once["item"]) == {2: 4, 1: 3}
    harder = [("drop_rare_items", {"least": 5}), ("drop_short_sessions", {"least": 2})]
    assert len(preprocess.until_stable(log, harder)) == 0  # 2 falls to four clicks, and then goes itself
    assert log["item"].tolist() == [2, 2, 2, 2, 1, 1, 1, 9, 2]  # rules change nothing in place


@pytest.mark.parametrize(("span", "value"), [("30m", 1_800_000), ("8h", 28_800_000), ("1.5d", 129_600_000), ("0s", 0)])
def test_spans_of_time(span, value):
    assert milliseconds(span) == value


@pytest.mark.parametrize("span", ["", "30", "m", "-1h", "3w", "infd"])
def test_other_spans_are_refused(span):
    with pytest.raises(ValueError, match="30m"):
        milliseconds(span)


# --- a log of one's own, and the record ------------------------------------------------------------------------


def test_ones_own_log_by_sessions_or_by_gaps_gives_the_same(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for user in range(60):
        time = 1_600_000_000 + int(rng.integers(0, 10**6))
        for visit in range(4):
            time += 90_000
            for _ in range(int(rng.integers(1, 6))):
                time += int(rng.integers(1, 1700))
                rows.append((f"{user}-{visit}", user, f'"item, {rng.integers(20)}"', time))
    path = tmp_path / "log.csv"
    path.write_text("Visit,who,What,when\n" + "".join(f"{s},{u},{i},{t}\n" for s, u, i, t in rows))
    common = {"item": "what", "time": "when"}
    by_session = prepare("x", path, own_log(session="visit", **common))
    by_gap = prepare("x", path, own_log(user="who", gap="30m", **common))
    assert by_session.n_items == 20 and len(by_session.test) == len(by_session.train) // 4
    assert listed(by_session.test) == listed(by_gap.test) and listed(by_session.train) == listed(by_gap.train)
    assert by_session.train.times.tolist() == by_gap.train.times.tolist()
    assert by_gap.train.users is not None and by_session.train.users is None
    assert by_gap.train.click_times.min() >= 1_600_000_000
    steps = [step["rule"] for step in by_gap.provenance["rules"]]
    assert steps[:3] == ["number_by_appearance", "sort_clicks", "split_at_gaps"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({}, "the one or the other"),
        ({"session": "s", "gap": "1h"}, "the one or the other"),
        ({"gap": "1h"}, "--user-col"),
        ({"session": "s", "test_share": 1.0}, "--test-share"),
        ({"session": "s", "test_share": 0.0}, "--test-share"),
        ({"session": "s", "test_last": "week"}, "--test-last"),
    ],
)
def test_settings_that_do_not_fit_together(words, says):
    with pytest.raises(UsageError) as error:
        choose("x", item="i", time="t", **words)
    assert says in error.value.message


def test_rules_are_chosen_by_a_name_as_papers_write_it_or_by_columns(tmp_path):
    assert choose("yoochoose-1/64", encoding="latin-1").log.encoding == "iso8859-1"
    assert choose("x", item="i", time="t", session="s", separator="\\t", gap="").log.separator == "\t"
    assert catalog.check_name("yoochoose-1/64", tmp_path) == "yoochoose-1-64"


def test_the_record_has_every_rule_and_every_difference(tmp_path):
    data = prepare("x", write_diginetica(tmp_path / "log.csv", diginetica_like(0)), RECIPES["diginetica"])
    record = data.provenance
    assert record["source"]["rows"] == len(diginetica_like(0)) and len(record["source"]["sha256"]) == 64
    assert [step["rule"] for step in record["rules"]][:4] == [
        "sort_clicks",
        "drop_short_sessions",
        "first_clicks",
        "drop_rare_items",
    ]
    assert record["rules"][2]["most"] == 20
    assert record["rules"][-1]["clicks"] == [data.train.n_clicks, data.test.n_clicks]
    assert record["differences"]["items"] == {"expected": 42_596, "found": data.n_items}
    counts = {
        "clicks": data.train.n_clicks + data.test.n_clicks,
        "items": data.n_items,
        "prefixes": data.train.n_prefixes + data.test.n_prefixes,
        "train_prefixes": data.train.n_prefixes,
        "test_prefixes": data.test.n_prefixes,
    }
    assert differences(data, counts) == {}


def test_expected_counts_agree_with_one_another():
    """A session of k clicks has k - 1 prefixes, so clicks - prefixes is the number of sessions."""
    counts = RECIPES["diginetica"].expected
    assert counts["clicks"] - counts["train_prefixes"] - counts["test_prefixes"] == 204_591
    assert RECIPES["gowalla"].expected["clicks"] - RECIPES["gowalla"].expected["prefixes"] == 291_895
    assert RECIPES["lastfm"].expected["clicks"] - RECIPES["lastfm"].expected["prefixes"] == 325_543

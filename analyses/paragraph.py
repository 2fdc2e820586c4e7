"""A verdict as a paragraph that a reader can quote."""

from __future__ import annotations

from typing import Any

from analyses.answers import ALIVE, NOT_APPLICABLE, UNDECIDED, WITHERED
from dissect.text import decimal, percent, plural

SAYS = {"O1": "The paper's first observation, that propagation withers,", "O2": "Its second, that the readout holds,"}
BOTH = "The paper's observations, that propagation withers and that the readout holds, are undecided"


def paragraph(verdict: dict[str, Any]) -> str:
    """The answers of a verdict in sentences, with the numbers behind them."""
    seeds = verdict["seeds"]
    if not seeds:
        return f"No seed of {verdict['model']} on {verdict['dataset']} is finished."
    how = f"{verdict['steps']:,} steps, {_seeds(seeds)}"
    if verdict["where"] == "none":
        return f"{verdict['model']} on {verdict['dataset']} was trained dense ({how})."
    test = verdict["accuracy"]["test"]
    accuracy = f"HR@20 {test['hr@20']:.2f} %, MRR@20 {test['mrr@20']:.2f} %"
    matched = verdict.get("matched") or {}
    if (dense := matched.get("mrr@20")) and (of := matched["seeds"]) != seeds:
        named = f"seed{'s' * (len(of) != 1)} {', '.join(map(str, of))}"
        accuracy += f"; {named}: {dense:.2f} % without SparseVD, {matched['mrr@20_dissected']:.2f} % with it"
    elif dense:
        accuracy += f"; trained without SparseVD: {dense:.2f} %"
    found = [
        f"{verdict['model']} on {verdict['dataset']} was dissected with KL weight {verdict['kl_weight']:g} "
        f"({how}; {accuracy}; 95 % intervals in brackets)."
    ]
    asked = {role: given for role, given in verdict.get("roles", {}).items() if role in ("propagation", "attention")}
    is_asked = verdict["O2"]["answer"] != NOT_APPLICABLE  # then the doubts stand beside the questions
    found += [_role(role, given, "" if is_asked else _why(given)) for role, given in asked.items()]
    found += _observations({name: verdict[name] for name in SAYS if verdict[name]["answer"] != NOT_APPLICABLE})
    found += [_need(role, given) for role, given in verdict["need"].items()]
    return " ".join(found)


def _seeds(seeds: list[int]) -> str:
    """3 seeds; seeds 2, 3 where they are not the first ones."""
    if seeds == [*range(1, len(seeds) + 1)]:
        return plural(len(seeds), "seed")
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def _why(given: dict[str, Any]) -> str:
    """The first doubt about an answer, without what to do; empty if there is none."""
    return given["doubts"][0].split(": ")[0] if given["doubts"] else ""


def _role(role: str, given: dict[str, Any], why: str) -> str:
    """Propagation is alive: it keeps 0.436 of its weights, 0.434 more than its shadows (0.426 to 0.442), and ..."""
    state = {ALIVE: "is alive", WITHERED: "has withered"}.get(given["answer"], "is undecided")
    state += f" ({why})" if why else ""
    is_more = given["excess"] >= 0
    interval = "" if given["low"] is None else f" ({directed(given['low'], given['high'], is_more, 3)})"
    more = f"{abs(given['excess']):.3f} {'more' if is_more else 'less'} than its shadows"
    says = f"{role.capitalize()} {state}: it keeps {given['density']:.3f} of its weights, {more}{interval}"
    if given.get("swapped") is None:
        return f"{says}."
    return f"{says}, and swapping its inputs changes MRR@20 by {percent(-given['swapped'], 1, '+')}."


def _observations(given: dict[str, dict[str, Any]]) -> list[str]:
    """Their answers, and of one that is undecided the first doubt, without what to do."""
    why = {name: f": {_why(of)}" if of["doubts"] else "" for name, of in given.items()}
    if len(given) > 1 and {of["answer"] for of in given.values()} == {UNDECIDED} and len({*why.values()}) == 1:
        return [f"{BOTH}{why['O1']}."]
    return [
        f"{SAYS[name]} is undecided{why[name]}." if of["answer"] == UNDECIDED else f"{SAYS[name]} {of['answer']}."
        for name, of in given.items()
    ]


def _need(role: str, given: dict[str, Any]) -> str:
    """Propagation is needed: retrained without it, MRR@20 is 76.5 % lower (76.3 to 76.6)."""
    state = f"{role} is {given['answer']}".capitalize()
    if given["answer"] == UNDECIDED:
        state = f"Whether {role} is needed is undecided"
    if given["loss"] is None:
        return f"{state}."
    is_lower = given["loss"] >= 0
    judged, of = given["judged_prefixes"], given.get("prefixes")  # which earlier records lack
    where = f" on the {judged:,} prefixes that can be judged" if of not in (None, judged) else ""
    loss = f"MRR@20{where} is {abs(100 * given['loss']):.1f} % {'lower' if is_lower else 'higher'}"
    span = "" if given["low"] is None else directed(100 * given["low"], 100 * given["high"], is_lower, 1)
    interval = f" ({span})" if span else ""
    return f"{state}: retrained without it, {loss}{interval}."


def directed(low: float, high: float, is_up: bool, digits: int) -> str:
    """An interval in the direction of the word before it: what is called less is turned round."""
    ends = (low, high) if is_up else (-high, -low)
    return " to ".join(decimal(end, digits) for end in ends)

"""Studies as tables: which there are, what one trains, and how far it is."""

from __future__ import annotations

import pandas as pd

from analyses.claims import CLAIMS
from analyses.studies import STUDIES, Arm, Study
from dissect.tables.cells import number, time
from dissect.tables.text import Table, by_rows
from dissect.text import plural


def studies() -> Table:
    """The studies, with their questions."""
    rows = [(name, str(len(each.arms) or ""), each.question) for name, each in STUDIES.items()]
    return by_rows("", ("study", "arms", "question"), rows)


def arms(found: Study) -> Table:
    """What is trained for each arm of a study, or the claims, with the studies that answer them."""
    if found.shows == "claims":
        rows = [
            (each.name, each.where, each.says + ("" if len(each.logs) == 3 else f" ({', '.join(each.logs)})"),
             each.study or "the data")
            for each in CLAIMS
        ]  # fmt: skip
        return by_rows("", ("claim", "where", "says", "study"), rows)
    printed = [arm.printed.get("diginetica") for arm in found.arms]
    says = [f"{paper.hr:.2f} / {paper.mrr:.2f}" if paper else "" for paper in printed]
    rows = [(arm.label, arm.model, how(arm), paper) for arm, paper in zip(found.arms, says)]
    return by_rows(f"{found.name}: {found.question}", ("arm", "model", "how", "paper, Diginetica"), rows)


def how(arm: Arm) -> str:
    """How an arm differs from the defaults of its model, in words."""
    words = [arm.preset or "", *(f"{key}={value}" for key, value in {**arm.options, **arm.settings}.items())]
    words += [f"without {', '.join(arm.without)}" if arm.without else "", "" if arm.verb == "train" else arm.verb]
    return ", ".join(filter(None, words))


def status(rows: pd.DataFrame, name: str, data: str) -> Table:
    """How far each arm of a study is (analyses/study.py: status)."""
    seeds = rows["done"].map(str) + " of " + rows["wanted"].map(str)
    cells = zip(rows["label"], seeds, rows["seconds"].map(time), rows["hr@20"].map(number), rows["mrr@20"].map(number))
    title = f"{name} on {data}: {rows['done'].sum()} of {plural(rows['wanted'].sum(), 'training')} finished"
    return by_rows(title, ("arm", "seeds", "each", "HR@20", "MRR@20"), cells)

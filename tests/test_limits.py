"""What constructors refuse: a number that an argument cannot have is refused in words, by the name of the argument."""

import inspect
import math
import typing

import pytest
import torch

from dissect.data.sessions import Sessions
from models import MODELS, Batch, check
from models.limits import require_choice, require_positive, require_rates, require_readout, require_whole
from models.released import ReleasedReadout

V = 6
TRAIN = Sessions.from_lists([[1, 2, 3], [4, 5, 6, 4], [2, 1]])
SMALL = {"dim": 8, "heads": 2, "levels": 3, "padded_length": 7}
# Each model by its defaults, with Atten-Mixer's readout, and with that of the released code.
CASES = [
    *((name, None) for name in MODELS),
    *((name, "attenmixer") for name, cls in MODELS.items() if "attenmixer" in cls.presets),
    ("attenmixer", "official"),
    ("attenmixer", "fixed"),
]
VALUES = (0, -1, 1.5, -0.5, math.nan, math.inf, -math.inf, "two", True)


def numbers_of(cls):
    """Names of the arguments that are numbers, those which a model hands on to Atten-Mixer's readout too."""
    found = set()
    for each in (cls, *([ReleasedReadout] if cls.more_options else [])):
        hints = typing.get_type_hints(each.__init__)
        takes = inspect.signature(each).parameters.keys() - {"switches", "attend"}
        found |= {n for n in takes if {int, float} & {hints.get(n), *typing.get_args(hints.get(n))}}
    return sorted(found)


def options_of(name, preset):
    """The arguments of a preset, in small."""
    cls, options = MODELS[name], dict(MODELS[name].presets[preset] if preset else {})
    if cls.learns:
        mixes = name == "attenmixer" or options.get("readout") == "attenmixer"
        small = {"dim", *(("heads", "levels") if mixes and "heads" in cls.more_options else ()), *options}
        options |= {option: SMALL[option] for option in small & SMALL.keys()}
    return options | ({"heads": 2} if name == "attenmixer" else {})


@pytest.mark.parametrize(("name", "preset"), CASES, ids=str)
def test_a_number_works_or_is_refused_by_the_name_of_its_argument(name, preset):
    cls, faults = MODELS[name], []
    for argument in numbers_of(cls):
        for value in VALUES:
            try:
                model = cls(**{"n_items": V, **options_of(name, preset), argument: value})
            except ValueError as error:
                said = str(error)
                faults += [] if argument in said else [f"{argument}={value}: {said}"]
                continue
            except Exception as error:
                faults.append(f"{argument}={value}: {type(error).__name__}: {error}")
                continue
            try:
                model.prepare(TRAIN)
                check.check(model, V)
                assert torch.isfinite(model.eval().scores(Batch.of([[1, 2, 3], [4]]))).all()
            except Exception as error:
                faults.append(f"{argument}={value} is taken, then {type(error).__name__}: {error}")
    assert faults == []


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: require_whole(1, steps=0), "steps is at least 1, not 0"),
        (lambda: require_whole(1, steps=2, layers=1.5), "layers is a whole number, not 1.5"),
        (lambda: require_whole(0, 20, layers=21), "layers is at most 20, not 21"),
        (lambda: require_rates(dropout=0, session_dropout=1.0), "session_dropout is from 0 to below 1, not 1.0"),
        (lambda: require_rates(dropout=math.nan), "dropout is from 0 to below 1, not nan"),
        (lambda: require_positive(scale=math.inf), "scale is above 0 and finite, not inf"),
        (lambda: require_choice(("trm", "ave"), encoder="gru"), "encoder is one of trm, ave, not 'gru'"),
        (lambda: require_readout("own", "own", {"levels": 3}), "levels=3: only with readout='attenmixer'"),
    ],
)
def test_a_refusal_names_the_argument_and_what_was_given(call, says):
    with pytest.raises(ValueError) as refused:
        call()
    assert str(refused.value) == says


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("narm", {"dropout": 1.5}, "dropout is from 0 to below 1, not 1.5"),
        ("core", {"session_dropout": 1.0}, "session_dropout is from 0 to below 1, not 1.0"),
        ("sgnnhn", {"scale": math.inf}, "scale is above 0 and finite, not inf"),
        ("attenmixer", {"heads": 0, "head_layout": "split"}, "heads is at least 1, not 0"),
        ("srgnn", {"levels": 3}, "levels=3: only with readout='attenmixer'"),
    ],
    ids=str,
)
def test_a_model_says_which_of_its_arguments_is_wrong(name, options, says):
    with pytest.raises(ValueError) as refused:
        MODELS[name](n_items=V, **{"dim": 8, **options})
    assert str(refused.value) == says

"""A run folder executes nothing; a model file that the user names is executed once, and is what its SHA-256 says."""

import hashlib
import importlib.util
import json
import py_compile
import shutil
import stat
import sys
import tomllib
import types
from dataclasses import fields

import pytest

from dissect.errors import UsageError
from dissect.experiment import own_models, subject
from dissect.runs import files, folders
from dissect.runs.config import Config
from models import SRGNN

OWN = """\
from pathlib import Path
with open(Path(__file__).with_name("executed"), "a") as file:
    file.write("x")
from models import SRGNN


class Own(SRGNN):
    pass
"""
WORDS = ["--dataset", "demo", "--dim", "4", "--max-steps", "2", "--device", "cpu", "--quiet"]


@pytest.fixture
def trained(typed, tmp_path, monkeypatch):
    """A finished run of a user's own model, the verbs that open it, and how often the file was executed."""
    monkeypatch.setenv("DISSECT_STATE", str(tmp_path / "state"))
    (tmp_path / "own.py").write_text(OWN)
    words = ["train", "own.py:Own", *WORDS]
    monkeypatch.setattr(sys, "argv", ["dissect", *words])  # goes on record
    assert typed(*words)[0] == 0
    return typed, folders.newest_group("runs") / "s1", tmp_path / "executed"


def test_a_model_file_is_executed_once_a_command(trained):
    _, _, executed = trained
    assert executed.read_text() == "x"


def as_sent(tmp_path):
    """The state of a user who never named the model file."""
    own_models._executed.clear()
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "executed").unlink()


def test_what_a_record_names_is_executed_only_after_the_user_has_named_it(trained, tmp_path):
    typed, run, executed = trained
    opened = [["evaluate", str(run)], ["recommend", str(run), "--session", "1"], ["resume", str(run)]]
    as_sent(tmp_path)
    done = run / "DONE"
    for words in opened:
        if words[0] == "resume":
            done.rename(run / "kept")
        code, out, err = typed(*words)
        assert (code, out) == (3, "") and "--model own.py:Own" in err and not executed.exists(), err
    (run / "kept").rename(done)
    assert not (tmp_path / "state").exists()
    for words in ([*opened[0], "--model", "own.py:Own"], opened[0], opened[1]):  # named once, and known from then on
        assert typed(*words)[0] == 0
    own_models._executed.clear()
    (tmp_path / "own.py").write_text(OWN + "# another\n")
    executed.unlink()
    for words in (opened[0], [*opened[0], "--model", "own.py:Own"]):
        code, _, err = typed(*words)
        assert code == 3 and "SHA-256" in err and not executed.exists()


def test_the_record_of_named_files_is_the_users_alone(trained, tmp_path):
    folder = tmp_path / "state" / "model-files"
    (file,) = folder.iterdir()
    assert file.name == own_models.read("own.py:Own").sha256
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 and stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def test_a_state_folder_that_cannot_be_written_to_stops_no_training(typed, tmp_path, monkeypatch):
    (tmp_path / "state").write_text("")
    monkeypatch.setenv("DISSECT_STATE", str(tmp_path / "state"))
    (tmp_path / "own.py").write_text(OWN)
    assert typed("train", "own.py:Own", *WORDS)[0] == 0
    assert not own_models.was_named(own_models.read("own.py:Own"))


def test_cached_bytecode_is_not_what_is_executed(tmp_path):
    file, other = tmp_path / "own.py", tmp_path / "other.py"
    other.write_text("raise SystemError('not the file')")
    file.write_text("class Own:\n    pass\n")
    cached = importlib.util.cache_from_source(str(file))
    py_compile.compile(str(other), cached, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert own_models.load(own_models.read(f"{file}:Own")).__name__ == "Own"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import sys\nsys.exit(0)\n", ["own.py, line 2, calls sys.exit", "__main__"]),
        ("def f():\n    raise SystemExit('bye')\nf()\n", ["own.py, line 2, calls sys.exit"]),
        ("import beside\n", ["line 1, imports beside, which lies beside it", "PYTHONPATH="]),
        ("from beside.inner import x\n", ["imports beside, which lies beside it"]),
        ("import not_anywhere.inner\n", ["imports not_anywhere, and there is no such module"]),
        ("class Own(:\n", ["own.py cannot be imported: SyntaxError"]),
        ("\nx = 1 / 0\n", ["own.py, line 2, cannot be imported: ZeroDivisionError"]),
        ("b\0", ["own.py cannot be imported"]),
        ("class Owm:\n    pass\n", ["no class in own.py named 'Own'", "Did you mean Owm?"]),
        ("from models import SRGNN\n", ["no class in own.py named 'Own'", "Known: none"]),
    ],
)
def test_what_keeps_a_file_from_being_executed_is_said_in_words(typed, tmp_path, text, says):
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "own.py").write_text(text)
    code, out, err = typed("run", "--seed", "1", "--model", "own.py:Own", *WORDS)
    assert (code, out) == (2, "") and all(each in err for each in says), err


def test_a_module_beside_the_file_is_found_where_python_is_told(tmp_path, monkeypatch):
    (tmp_path / "beside_own.py").write_text("x = 1\n")
    (tmp_path / "own.py").write_text("import beside_own\n\n\nclass Own:\n    x = beside_own.x\n")
    with pytest.raises(UsageError, match="lies beside it"):
        own_models.load(own_models.read(f"{tmp_path}/own.py:Own"))
    monkeypatch.syspath_prepend(tmp_path)
    assert own_models.load(own_models.read(f"{tmp_path}/own.py:Own")).x == 1


def test_a_file_without_a_class_is_answered_with_its_classes(typed, tmp_path):
    (tmp_path / "bare.py").write_text("import sys\nclass A:\n    pass\nclass B:\n    pass\nsys.exit()\n")
    for words in (["run", "--model", "bare.py"], ["train", "bare.py"], ["run", "--model", "bare.py:"]):
        code, _, err = typed(*words)
        assert code == 2 and "--model bare.py:A or --model bare.py:B?" in err, err
    (tmp_path / "empty.py").write_text("x = (")
    for name, says in (("empty.py", "path/to/file.py:ClassName"), ("gone.py", "no file gone.py"), (".py:X", "no file")):
        code, _, err = typed("run", "--model", name)
        assert code == 2 and says in err


def test_groups_are_named_after_the_class_and_older_ones_go_on(typed, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    assert typed("train", "own.py:Own", *WORDS)[0] == 0
    group = folders.newest_group("runs")
    assert group.name.startswith("Own-demo-")
    older = group.rename(group.with_name(group.name.replace("Own-", "own-")))  # as it was called before
    code, _, err = typed("train", "own.py:Own", *WORDS)
    assert code == 2 and "Finished already" in err and str(older) in err
    assert typed("evaluate", "own-demo", "--quiet")[0] == 0


def test_a_file_without_its_hash_on_record_is_never_executed(typed, tmp_path, monkeypatch):
    """A record that names a file as if it were a registered model, its hash left out, in a folder named to fit."""
    monkeypatch.setenv("DISSECT_STATE", str(tmp_path / "state"))
    assert typed("train", "srgnn", *WORDS)[0] == 0
    group = folders.newest_group("runs")
    (tmp_path / "own.py").write_text(OWN)
    name = f"{tmp_path}/own.py:Own"
    settings = {**tomllib.loads((group / "config.toml").read_text()), "model": name}
    usual = {f.name: f.default for f in fields(Config) if f.name != "model_options"}
    special = {key: value for key, value in settings.items() if usual.get(key, {}) != value}
    fits = hashlib.sha256(json.dumps(special, sort_keys=True).encode()).hexdigest()[:8]
    files.write_toml(group / "config.toml", settings)
    run = group.rename(group.with_name(f"own-demo-{fits}")) / "s1"
    for words in (["evaluate", str(run)], ["recommend", str(run), "--session", "1"], ["resume", str(run)]):
        if words[0] == "resume":
            (run / "DONE").unlink()
        code, _, err = typed(*words)
        assert code in (2, 3) and "SHA-256" in err and not (tmp_path / "executed").exists(), err
    assert not (tmp_path / "state").exists()


def test_settings_of_somebody_else_execute_nothing(typed, tmp_path, monkeypatch):
    """A file like config.toml that names a model file, with its hash left out or not, and the user never did."""
    monkeypatch.setenv("DISSECT_STATE", str(tmp_path / "state"))
    (tmp_path / "own.py").write_text(OWN)
    for more in ("", f'model_source = "{hashlib.sha256(OWN.encode()).hexdigest()}"\n'):
        (tmp_path / "theirs.toml").write_text(f'model = "own.py:Own"\n{more}')
        for verb in ("run", "train"):
            code, _, err = typed(verb, "--config", "theirs.toml", *WORDS)
            assert code == 3 and "name it: --model own.py:Own" in err, err
    assert not (tmp_path / "executed").exists() and not (tmp_path / "state").exists()
    assert typed("run", "--config", "theirs.toml", "--model", "own.py:Own", *WORDS)[0] == 0


def test_a_study_executes_only_what_the_user_has_named(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("DISSECT_STATE", str(tmp_path / "state"))
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "theirs.toml").write_text('[[arm]]\nmodel = "own.py:Own"\n[[arm]]\nmodel = "pop"\n')
    for verb in ("run", "status", "table", "figure", "tune"):
        code, _, err = typed("study", verb, "theirs.toml", "--dataset", "demo", "--dim", "4")
        assert code == 3 and "name it: dissect models own.py:Own" in err, err
    assert typed("report", "theirs.toml", "--dataset", "demo")[0] == 3
    assert not (tmp_path / "executed").exists() and not (tmp_path / "state").exists()
    assert typed("models", "own.py:Own")[0] == 0
    assert typed("study", "status", "theirs.toml", "--dataset", "demo", "--dim", "4")[0] == 0
    (tmp_path / "own.py").write_text(OWN + "# another\n")
    assert typed("study", "status", "theirs.toml", "--dataset", "demo", "--dim", "4")[0] == 3


def executed(text, **names):
    """The class X of a text that no file holds, as exec leaves it."""
    names = {**names}
    exec(text, names)
    return names["X"]


X = "from models import SRGNN\nclass X(SRGNN):\n    def encode(self, S, batch):\n        return {}\n"


@pytest.mark.parametrize("module", ["builtins", "abc", "typing", "torch.nn", "models.srgnn"])
def test_a_class_without_a_text_has_no_identity_whatever_its_module_is_called(module):
    with pytest.raises(UsageError, match="source text of the class X cannot be read"):
        subject.find_model(executed(X.format(1), __name__=module))
    assert executed(X.format(1)).__module__ == "builtins"
    with pytest.raises(UsageError, match="source text of the class X cannot be read"):
        subject.find_model(executed(X.format(1)))


@pytest.mark.parametrize("name", ["models.mine", "typing", "torch.mine"])
def test_a_users_package_may_be_called_like_one_of_ours(tmp_path, monkeypatch, name):
    """The class is a base, so that its file alone does not identify the model."""
    hashes = []
    for number in (1, 2):
        file = tmp_path / f"mine{number}.py"
        file.write_text(X.format(number))
        module = types.ModuleType(name)
        module.__file__ = str(file)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, module)
            exec(compile(file.read_text(), str(file), "exec"), vars(module))
            hashes.append(own_models.sha256_of(module.X))
    assert hashes[0] != hashes[1] and own_models.sha256_of(SRGNN) == hashlib.sha256(b"").hexdigest()

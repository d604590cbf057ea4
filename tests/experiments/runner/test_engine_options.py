"""The engines on the command line: each has its own options; an engine that cannot be used is refused."""

from __future__ import annotations

import builtins
import importlib.util

import pytest
from laboratory import Lab

from ovis.experiments.cli.engine_arguments import add_engine_options, read_engine_options
from ovis.experiments.cli.options import OneLineParser
from ovis.experiments.runner.engines import create
from ovis.experiments.runner.engines.engine_options import OPTIONS, LocalOptions, RayOptions, SlurmOptions


def read(*words: str) -> object:
    parser = OneLineParser(prog="manager.py")
    add_engine_options(parser)
    return read_engine_options(parser, parser.read(words))


def test_each_engine_has_its_own_options() -> None:
    assert read() == LocalOptions()
    assert read("--max_gpus", "3", "--max_load", "0.25") == LocalOptions(max_gpus=3, max_load=0.25)
    assert read("--engine", "ray") == RayOptions(address="auto")
    assert read("--engine", "ray", "--address", "head:6379") == RayOptions("head:6379")
    assert read("--engine", "slurm", "--partition", "gpu") == SlurmOptions(partition="gpu")


@pytest.mark.parametrize(
    ("words", "option", "owner", "chosen"),
    [
        (["--address", "auto"], "address", "ray", "local"),
        (["--engine", "ray", "--max_gpus", "2"], "max_gpus", "local", "ray"),
        (["--engine", "ray", "--max_load", "0.5"], "max_load", "local", "ray"),  # be it the default
        (["--engine", "slurm", "--address", "auto"], "address", "ray", "slurm"),
        (["--engine", "ray", "--partition", "gpu"], "partition", "slurm", "ray"),
    ],
)
def test_an_option_of_another_engine_is_refused(
    words: list[str], option: str, owner: str, chosen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read(*words)
    errors = capsys.readouterr().err
    assert errors == f"manager.py: --{option}: an option of --engine {owner}, not of --engine {chosen}\n"
    assert caught.value.code == 2


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(create, "find_spec", lambda name: None if name == "ray" else there(name))
    lab.write(args=[""])
    assert lab.run("--engine", "ray") == 2
    assert capsys.readouterr().err == "manager.py: --engine ray needs ray: pip install 'ovis[ray]'\n"
    assert not lab.paths.folder.exists()


def test_reading_the_options_imports_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def load(name: str, *rest: object, **more: object) -> object:
        assert name.split(".")[0] != "ray", name
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", load)
    assert {*OPTIONS} == {"local", "ray", "slurm"}
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0

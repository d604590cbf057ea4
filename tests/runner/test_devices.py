"""Which devices there are, given what the machine and CUDA_VISIBLE_DEVICES say."""

from __future__ import annotations

import pytest

from ovis.runner import devices as module
from ovis.runner.devices import DeviceError, default_processes, list_devices


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_count_cuda_devices", lambda: 4)


@pytest.fixture
def none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_count_cuda_devices", lambda: 0)


def visible(request: str, inherited: str | None) -> list[str]:
    environment = {} if inherited is None else {"CUDA_VISIBLE_DEVICES": inherited}
    return [device.environment["CUDA_VISIBLE_DEVICES"] for device in list_devices(request, environment)]


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("request_", "inherited", "expected"),
    [
        ("auto", None, ["0", "1", "2", "3"]),
        ("cuda", None, ["0", "1", "2", "3"]),
        ("cuda:2", None, ["2"]),
        ("cuda", "3,1", ["3", "1"]),
        ("cuda:1", "3,1", ["1"]),
        ("auto", "GPU-8932f937", ["GPU-8932f937"]),
        ("auto", "2, -1, 3", ["2"]),
        ("auto", "", [""]),  # the CPU
        ("auto", "-1", [""]),
        ("cpu", None, [""]),
    ],
)
def test_devices(request_: str, inherited: str | None, expected: list[str]) -> None:
    assert visible(request_, inherited) == expected


@pytest.mark.usefixtures("four")
def test_only_our_own_numbers_are_given_an_order() -> None:
    assert list_devices("cuda", {})[0].environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_DEVICE_ORDER" not in list_devices("cuda", {"CUDA_VISIBLE_DEVICES": "0"})[0].environment


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("request_", "message"),
    [("gpu", "unknown device 'gpu'"), ("cuda:x", "unknown"), ("cpu:1", "unknown"), ("cuda:4", "are 0 to 3")],
)
def test_what_is_not_there_is_refused(request_: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        list_devices(request_, {})


@pytest.mark.usefixtures("none")
def test_without_cuda() -> None:
    assert [device.label for device in list_devices("auto", {"CUDA_VISIBLE_DEVICES": "0"})] == ["cpu"]
    for request_ in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match="no CUDA device"):
            list_devices(request_, {})


@pytest.mark.usefixtures("four")
def test_default_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 12)
    assert default_processes(list_devices("cpu", {})) == 12
    assert default_processes(list_devices("cuda", {})) == 1

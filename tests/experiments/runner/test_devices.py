"""Which devices there are, given what the machine and CUDA_VISIBLE_DEVICES say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fake_nvml import FakeGpu, FakeNvml, install

from ovis.experiments.runner.gpus import devices as module
from ovis.experiments.runner.gpus.devices import DeviceError, default_processes, list_devices

UUIDS = ("GPU-8932f937-d72c", "GPU-8932aaaa-0001", "GPU-77777777-0002", "GPU-01234567-0003")
MIG = "MIG-5c89852c-d268"


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    return install(monkeypatch, tmp_path, *map(FakeGpu, UUIDS))


@pytest.fixture
def none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    monkeypatch.setattr(module, "_count_device_files", lambda: 0)
    return install(monkeypatch, tmp_path)


def mask(value: str | None, **more: str) -> dict[str, str]:
    return more if value is None else {"CUDA_VISIBLE_DEVICES": value, **more}


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("request_", "inherited", "expected"),
    [
        ("auto", None, ["0", "1", "2", "3"]),
        ("cuda", None, ["0", "1", "2", "3"]),
        ("cuda:2", None, ["2"]),
        ("cuda", "3,1", ["3", "1"]),
        ("cuda:1", "3,1", ["1"]),
        ("auto", "GPU-8932f9", ["GPU-8932f9"]),
        ("auto", f"{UUIDS[3]}, 0", [UUIDS[3], "0"]),
        ("auto", "2, -1, 3", ["2"]),
        ("auto", "2,7,3", ["2"]),
        ("auto", "2,GPU-8932,3", ["2"]),  # two GPUs begin so
        ("auto", "2,", ["2"]),
        ("auto", "MIG-GPU-8932f937-d72c/1/0", ["MIG-GPU-8932f937-d72c/1/0"]),
        ("auto", "", [""]),  # the CPU
        ("auto", "-1", [""]),
        ("auto", "NoDevFiles", [""]),
        ("cpu", None, [""]),
        ("cpu", "9", [""]),
    ],
)
def test_devices(request_: str, inherited: str | None, expected: list[str]) -> None:
    devices = list_devices(request_, mask(inherited))
    assert [device.environment["CUDA_VISIBLE_DEVICES"] for device in devices] == expected
    assert {device.kind for device in devices} == {"cpu" if expected == [""] else "cuda"}


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("inherited", "gpus"),
    [
        (None, UUIDS),
        ("3,1", (UUIDS[3], UUIDS[1])),
        ("GPU-7,GPU-8932f9", (UUIDS[2], UUIDS[0])),
        ("MIG-GPU-8932f937-d72c/1/0", ("",)),  # its load can't be read
    ],
)
def test_the_gpu_that_is_looked_at_is_the_one_the_child_gets(inherited: str | None, gpus: tuple[str, ...]) -> None:
    assert tuple(device.gpu for device in list_devices("cuda", mask(inherited))) == gpus


def test_a_mig_instance_is_looked_at_itself(four: FakeNvml) -> None:
    four.gpus.append(FakeGpu(MIG, load=None))
    four.nvmlDeviceGetCount = lambda: 4  # type: ignore[method-assign]
    (device,) = list_devices("cuda", mask(MIG))
    assert (device.gpu, dict(device.environment)) == (MIG, {"CUDA_VISIBLE_DEVICES": MIG})


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("environment", "order", "gpu"),
    [
        (mask(None), "PCI_BUS_ID", UUIDS[0]),
        (mask(None, CUDA_DEVICE_ORDER="FASTEST_FIRST"), "PCI_BUS_ID", UUIDS[0]),  # our own numbers
        (mask("0"), "PCI_BUS_ID", UUIDS[0]),
        (mask("0", CUDA_DEVICE_ORDER="PCI_BUS_ID"), None, UUIDS[0]),  # inherited by the child anyway
        (mask("0", CUDA_DEVICE_ORDER="FASTEST_FIRST"), None, ""),  # CUDA alone knows which
        (mask("GPU-8932f9"), None, UUIDS[0]),
    ],
)
def test_integers_mean_what_nvml_means(environment: dict[str, str], order: str | None, gpu: str) -> None:
    device = list_devices("cuda", environment)[0]
    assert (device.environment.get("CUDA_DEVICE_ORDER"), device.gpu) == (order, gpu)


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("request_", "message"),
    [("gpu", "unknown device 'gpu'"), ("cuda:x", "unknown"), ("cpu:1", "unknown"), ("cuda:4", "are 0 to 3")],
)
def test_what_is_not_there_is_refused(request_: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        list_devices(request_, {})


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("inherited", ["4", "GPU-8932", "GPU-8932f937-d72c-x", "7,0", "first"])
def test_a_slip_in_the_variable_is_no_reason_for_the_cpu(inherited: str) -> None:
    message = f"CUDA_VISIBLE_DEVICES: there is no GPU '{inherited.split(',')[0]}' here; valid: 0 to 3, {UUIDS[0]}"
    with pytest.raises(DeviceError, match=message):
        list_devices("auto", mask(inherited))


@pytest.mark.parametrize("broken", ["", "DriverNotLoaded", "LibraryNotFound"])
def test_without_cuda(none: FakeNvml, broken: str) -> None:
    none.broken = broken
    assert [device.label for device in list_devices("auto", mask("0"))] == ["cpu"]
    for request_ in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match="no CUDA device"):
            list_devices(request_, {})


@pytest.mark.parametrize("why", ["package", "library"])
def test_without_nvml_the_devices_are_used_blindly(none: FakeNvml, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """A container may have CUDA and no NVML."""
    monkeypatch.setattr(module, "_count_device_files", lambda: 2)
    if why == "package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    none.broken = "LibraryNotFound"
    assert [device.gpu for device in list_devices("auto", {})] == ["", ""]
    assert [device.label for device in list_devices("auto", mask("GPU-1,1"))] == ["cuda:0", "cuda:1"]


def test_a_driver_that_does_not_work_is_reported(none: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_count_device_files", lambda: 2)
    none.broken = "DriverNotLoaded"
    with pytest.raises(DeviceError, match=r"^the GPUs here can't be read: broken; --device cpu does without them$"):
        list_devices("auto", {})
    assert list_devices("cpu", {})[0].label == "cpu"


@pytest.mark.usefixtures("four")
def test_default_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 12)
    assert default_processes(list_devices("cpu", {})) == 12
    assert default_processes(list_devices("cuda", {})) == 1

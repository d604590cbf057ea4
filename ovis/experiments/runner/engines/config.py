"""Every engine there is, and how one is made. What an engine needs is imported only when it is the one."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from ovis.experiments.runner.engines.base import Engine, EngineError, Request
from ovis.experiments.runner.engines.local import LocalEngine
from ovis.experiments.runner.engines.options import EngineOptions, LocalOptions, RayOptions, SlurmOptions
from ovis.experiments.runner.gpus.availability import DeviceSource, GpuLimits
from ovis.experiments.runner.gpus.devices import default_processes, list_devices

__all__ = ["make_engine"]


def make_engine(options: EngineOptions, request: Request) -> Engine:
    """The engine whose options these are.

    Raises:
        EngineError: a package that it needs is missing, there is no such cluster, or it has no place for a job.
        DeviceError: this machine has not the device that was asked for.
    """
    if isinstance(options, LocalOptions):
        return _make_local(options, request)
    kind, package, name = _CLUSTERS[type(options)]
    if find_spec(package) is None:
        raise EngineError(f"--engine {kind} needs {package}: pip install 'ovis[{kind}]'")
    engine: Engine = getattr(import_module(f"ovis.experiments.runner.engines.{kind}"), name)(options, request)
    return engine


#: Its name, the package it needs, its class in the module of its name: ``Class(options, request)``.
_CLUSTERS = {RayOptions: ("ray", "ray", "RayEngine"), SlurmOptions: ("slurm", "submitit", "SlurmEngine")}


def _make_local(options: LocalOptions, request: Request) -> LocalEngine:
    devices = list_devices(request.device)
    source = DeviceSource(devices, GpuLimits(options.max_gpus, options.max_load, options.max_memory))
    return LocalEngine(source, request.processes or default_processes(devices))

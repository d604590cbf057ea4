"""Create the engine that the user's options ask for. Only what this engine needs is imported."""

from __future__ import annotations

from importlib.util import find_spec

from ovis.experiments.runner.engines.engine_options import EngineOptions, LocalOptions, RayOptions
from ovis.experiments.runner.engines.interface import Engine, EngineError, EngineRequest
from ovis.experiments.runner.engines.local import LocalEngine
from ovis.experiments.runner.gpus.device_choice import DeviceSource, GpuLimits
from ovis.experiments.runner.gpus.devices import default_processes, list_devices

__all__ = ["create_engine"]


def create_engine(options: EngineOptions, request: EngineRequest) -> Engine:
    """Create the engine to which ``options`` belong.

    Raises:
        EngineError: a package that it needs is missing, there is no such cluster, or it has no resources for a job.
        DeviceError: this machine does not have the requested device.
    """
    if isinstance(options, LocalOptions):
        devices = list_devices(request.device)
        source = DeviceSource(devices, GpuLimits(options.max_gpus, options.max_load, options.max_memory))
        return LocalEngine(source, request.processes or default_processes(devices))
    if isinstance(options, RayOptions):
        if find_spec("ray") is None:
            raise EngineError("--engine ray needs ray: pip install 'ovis[ray]'")
        from ovis.experiments.runner.engines.ray import RayEngine

        return RayEngine(options, request)
    from ovis.experiments.runner.engines.slurm import SlurmEngine

    return SlurmEngine(options, request)

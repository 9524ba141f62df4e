"""Builders of engines: TensorRT for this machine's GPU, TensorRT-RTX for any GPU that it supports.

Networks are strongly typed and static, so precision and shapes are set by the graph, not here.
TensorRT-RTX compiles ahead of time without a GPU, and once more for the actual device when the plan
is loaded. TensorRT times kernels on the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from venhancer.contract import NetworkSpec
from venhancer.errors import DeviceError, OptionError
from venhancer.files import written_whole
from venhancer_export.engines.job import Job
from venhancer_export.engines.targets import Target, this_machine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options for building a plan."""

    workspace_gib: float | None = None  # None: the package's default
    timing_cache: Path | None = None  # read and rewritten by TensorRT; TensorRT-RTX has none
    is_weightless: bool = False  # leave the weights in their file; TensorRT only


class EngineBuilder(Protocol):
    """Interface of a builder, which makes plans from ONNX graphs."""

    @property
    def name(self) -> str:
        """Name of the builder for `--builder`."""

    @property
    def version(self) -> str:
        """Version of the package; a plan of TensorRT is for this version only."""

    def build(
        self,
        graph: Path,
        spec: NetworkSpec,
        sizes: Mapping[str, int],
        plan: Path,
        options: EngineOptions,
    ) -> None:
        """Build `graph` for every target, and write `plan`.

        The graph's tensors are those of `spec` at `sizes`; others raise ContractError, a bug.
        BundleError where `graph` cannot be read, EngineBuildError where it cannot be built,
        OptionError where this builder does not support `options`, OutputError where `plan`
        cannot be written.
        """


def open_builder(name: str, targets: Sequence[Target]) -> EngineBuilder:
    """Open the builder `name`; `auto` is the first that is installed and supports `targets`.

    OptionError where it does not support them; DeviceError, with a command, where it is missing.
    """
    if name == "auto":
        return _first(targets)
    if name not in BUILDERS:
        raise OptionError(f"--builder {name!r} is unknown: take auto, {', '.join(BUILDERS)}")
    return BUILDERS[name](targets)


def _first(targets: Sequence[Target]) -> EngineBuilder:
    reasons = []
    for builder in BUILDERS.values():
        try:
            return builder(targets)
        except (DeviceError, OptionError) as error:
            reasons.append(str(error))
    raise DeviceError(f"no builder for {_names(targets)}: {'; '.join(reasons)}")


class TensorRT:
    """TensorRT, from 10.14: the first that imports ONNX attention as a fused layer."""

    name = "tensorrt"

    def __init__(self, targets: Sequence[Target]) -> None:
        _refuse_elsewhere(targets)
        self._trt = load("tensorrt", self.name, (10, 14))
        self.version: str = self._trt.__version__

    def build(
        self,
        graph: Path,
        spec: NetworkSpec,
        sizes: Mapping[str, int],
        plan: Path,
        options: EngineOptions,
    ) -> None:
        job = Job(self._trt, graph, spec, sizes)
        job.limit_workspace(options.workspace_gib)
        if options.is_weightless:
            # REFIT alone prevents fusions, and 11.3 may lose a bias with it
            job.config.set_flag(self._trt.BuilderFlag.STRIP_PLAN)
            job.config.set_flag(self._trt.BuilderFlag.REFIT_IDENTICAL)
        timings = _load_timings(job.config, options.timing_cache)
        job.write(plan, is_loadable=True)
        _save_timings(timings, options.timing_cache)


class TensorRTRTX:
    """TensorRT-RTX, from 1.4: the first that pip installs. It builds without a GPU.

    One plan serves several compute capabilities, in the time and nearly the size of one. It holds
    the weights once, and kernels are compiled for the actual device when it is loaded.
    """

    name = "tensorrt-rtx"

    def __init__(self, targets: Sequence[Target]) -> None:
        self._trt = load("tensorrt_rtx", self.name, (1, 4))
        self.version: str = self._trt.__version__
        self._targets = targets
        self._capabilities = list(dict.fromkeys(self._capability(t) for t in targets))

    def build(
        self,
        graph: Path,
        spec: NetworkSpec,
        sizes: Mapping[str, int],
        plan: Path,
        options: EngineOptions,
    ) -> None:
        if options.is_weightless:  # its compiler refuses this without a GPU
            raise OptionError(
                "tensorrt-rtx cannot leave the weights out: take --builder tensorrt, "
                "or let the plan hold them"
            )
        job = Job(self._trt, graph, spec, sizes)
        job.limit_workspace(options.workspace_gib)
        # otherwise kernels may allocate while they run, which a CUDA graph does not allow
        job.config.set_flag(self._trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        job.config.num_compute_capabilities = len(self._capabilities)
        for i, capability in enumerate(self._capabilities):
            job.config.set_compute_capability(capability, i)
        job.write(plan, is_loadable=this_machine() in self._targets)

    def _capability(self, target: Target) -> Any:
        """Find the package's constant for a target; OptionError lists those that exist."""
        members = self._trt.ComputeCapability.__members__
        if target.sm in members:
            return members[target.sm]
        known = ", ".join(name for name in members if name.startswith("SM"))
        raise OptionError(
            f"tensorrt-rtx {self.version} builds for {known}, not for {target.sm} "
            f"({target.name}): take --builder tensorrt on a machine with that GPU"
        )


BUILDERS: Mapping[str, type[TensorRT] | type[TensorRTRTX]] = {
    builder.name: builder for builder in (TensorRT, TensorRTRTX)
}


def load(module: str, extra: str, floor: tuple[int, int]) -> Any:
    """Import an NVIDIA package; DeviceError, with a command, where it is missing or too old."""
    command = f"run `pip install 'venhancer[{extra}]'`"
    try:
        trt = import_module(module)
    except ModuleNotFoundError as error:
        raise DeviceError(f"{extra} is not installed: {command}") from error
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"{extra} cannot be loaded ({reason}): {command} anew") from error
    if tuple(int(part) for part in trt.__version__.split(".")[:2]) < floor:
        raise DeviceError(
            f"{extra} {trt.__version__} is too old, {floor[0]}.{floor[1]} is the first "
            f"supported: {command.replace('install', 'install --upgrade')}"
        )
    return trt


def _names(targets: Sequence[Target]) -> str:
    return ", ".join(target.name for target in targets)


def _refuse_elsewhere(targets: Sequence[Target]) -> None:
    """Raise OptionError unless every target is the GPU of this machine."""
    here = this_machine()
    if any(target != here for target in targets):
        found = f"which is {here.name}" if here else "and PyTorch finds none"
        raise OptionError(
            f"tensorrt builds for the GPU of this machine only, {found}, not for "
            f"{_names(targets)}: build where that GPU is, or take --builder tensorrt-rtx"
        )


def _load_timings(config: Any, path: Path | None) -> Any:
    """Load earlier timings of this GPU and version; keep the result until the plan is built."""
    if path is None:
        return None
    for known in (path.read_bytes() if path.is_file() else b"", b""):
        timings = config.create_timing_cache(known)
        if config.set_timing_cache(timings, ignore_mismatch=False):
            break
    return timings


def _save_timings(timings: Any, path: Path | None) -> None:
    if path is None:
        return
    with suppress(OSError), written_whole(path) as temporary:  # losing timings only costs time
        temporary.write_bytes(timings.serialize())

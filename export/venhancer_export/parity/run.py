"""`venhancer-export verify`: PyTorch in float32 compared with every other way to run a bundle.

It measures the error of one call of a network on equal inputs (teacher-forced), the error of the
frames of a whole sampling run, and the size of the products in attention.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from venhancer.bundle.manifest import Manifest, check_files, read_manifest
from venhancer.bundle.static_networks import StaticDenoiser
from venhancer.config import Preset
from venhancer.contract import Precision, sizes
from venhancer.diffusion.schedule import plan_steps
from venhancer.errors import BundleError, OutputError
from venhancer.files import hash_file
from venhancer.weights.checkpoint import find_weights
from venhancer_export.engines.versions import versions
from venhancer_export.onnx_graph.attention_range import Logits, watch_attention
from venhancer_export.parity import cases, metrics
from venhancer_export.parity.candidates import (
    Candidate,
    PyTorch,
    Subject,
    candidates,
    find_companions,
    find_engines,
    in_pytorch,
)
from venhancer_export.parity.cases import Case, all_cases
from venhancer_export.parity.graphs import compare_graphs
from venhancer_export.parity.oracle import (
    Decode,
    Expected,
    Sample,
    decoder,
    expect,
    pictures_of,
    sample_run,
)
from venhancer_export.parity.report import (
    Gates,
    Report,
    Row,
    Verdict,
    held_to,
    judge_call,
    judge_logits,
    judge_run,
)
from venhancer_export.parity.runners import Runs

Say = Callable[[str], None]
AFFORDABLE_FLOP = {"cpu": 1e11, "cuda": 1e15}  # one evaluation
AFFORDABLE_RUN = {"cpu": 2e12, "cuda": 3e16}
ETAS = (0.0, 1.0)  # the ODE, which amplifies errors least, and the SDE


def verify(folder: Path, weights: Path | None, *, is_full: bool, say: Say) -> Report:
    """Verify the bundle in `folder`; writes `parity.json` and `parity.md` into it.

    weights: the checkpoint it was made from, default its preset's; is_full: without a limit on
    time. BundleError for a bundle that was changed, or made from another checkpoint.
    """
    begun = time.monotonic()
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    checkpoint = find_checkpoint(manifest, weights)
    with _place(folder) as place, _exact_arithmetic():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        has_all, no_companions = find_companions(manifest)
        target, no_engines = find_engines(manifest)
        subject = Subject(
            folder=folder,
            manifest=manifest,
            weights=checkpoint,
            place=place,
            device=device,
            has_companions=has_all,
            target=target,
        )
        notes = [note for note in (no_companions, no_engines) if note]
        budget = Budget(manifest.preset, is_full, notes)
        say("the bundle's graphs")
        work = Work(subject=subject, budget=budget, say=say, rows=list(compare_graphs(subject)))
        work.compare()
    report = Report(
        bundle=_bundle(manifest),
        rows=work.rows,
        layers=work.layers,
        notes=notes,
        versions=versions(),
        seconds=round(time.monotonic() - begun, 1),
    )
    report.write(folder)
    return report


def find_checkpoint(manifest: Manifest, weights: Path | None) -> Path:
    """Find the checkpoint that the bundle was made from; BundleError for another one."""
    path = find_weights(manifest.preset, weights)
    found = hash_file(path)
    if found != manifest.checkpoint_sha256:
        raise BundleError(
            f"the bundle was made from {manifest.checkpoint} (SHA-256 "
            f"{manifest.checkpoint_sha256[:16]}...), {path} has {found[:16]}...: "
            "pass --weights FILE, or build the bundle again"
        )
    return path


@dataclass(frozen=True, slots=True)
class Budget:
    """Limit of the work that this machine can do; work above it is noted in `notes`."""

    preset: Preset
    is_full: bool
    notes: list[str]

    def call(self, who: str, case: Case, device: str) -> bool:
        flop = cases.evaluation_flop(self.preset.model, case.shape)
        return self._allows(f"{who} at {case}", flop, AFFORDABLE_FLOP[device])

    def run(self, who: str, case: Case, device: str) -> bool:
        flop = cases.run_flop(self.preset, case.shape)
        return self._allows(f"{who}, whole run at {case}", flop, AFFORDABLE_RUN[device])

    def _allows(self, what: str, flop: float, limit: float) -> bool:
        if self.is_full or flop <= limit:
            return True
        told = f"{flop / 1e12:.3g} TFLOP, here at most {limit / 1e12:g}"
        self.notes.append(f"left out: {what}: {told}; --full includes it")
        return False


@dataclass(slots=True, kw_only=True)
class Work:
    """The comparisons of one bundle, and their results so far."""

    subject: Subject
    budget: Budget
    say: Say
    gates: Gates = field(default_factory=Gates)
    rows: list[Row] = field(default_factory=list)
    layers: dict[str, Logits] = field(default_factory=dict)

    def compare(self) -> None:
        """Compare one candidate after the other; the first case regardless of its cost."""
        oracle = in_pytorch(self.subject, "float32")
        chosen = list(self._chosen())
        with watch_attention(nn.ModuleDict(dict(oracle.modules))) as self.layers:
            known = [self._expected(oracle, case, is_whole) for case, is_whole in chosen]
        self._judge_attention()
        decode = decoder(self.subject.preset, oracle.runs)
        if decode is None:
            self.budget.notes.append("no decoder is available: frames are latents, scaled to 0..1")
        del oracle
        for candidate in candidates(self.subject):
            for expected in known:
                if self._takes(candidate, expected.case, is_first=expected is known[0]):
                    self._compare(candidate, expected, decode or pictures_of(expected))

    def _chosen(self) -> Iterator[tuple[Case, bool]]:
        """List the affordable cases, and whether each has a whole run too."""
        manifest, device = self.subject.manifest, self.subject.device
        for i, case in enumerate(all_cases(manifest.preset.model, manifest.shapes)):
            if i == 0 or self.budget.call("everything", case, device):
                is_wanted = i == 0 or (case.is_own and self.subject.target is not None)
                yield case, is_wanted and self.budget.run("everything", case, device)

    def _expected(self, oracle: PyTorch, case: Case, is_whole: bool) -> Expected:
        self.say(f"PyTorch float32 at {case}")
        preset, device = self.subject.preset, self.subject.device
        return expect(oracle, preset, case, etas_of(preset) if is_whole else (), device)

    def _takes(self, candidate: Candidate, case: Case, is_first: bool) -> bool:
        if candidate.is_for_own_shapes and not case.is_own:
            return False
        return is_first or self.budget.call(candidate.name, case, candidate.device)

    def _compare(self, candidate: Candidate, expected: Expected, decode: Decode) -> None:
        case, preset = expected.case, self.subject.preset
        self.say(f"{candidate.name} at {case}")
        with candidate.open(case) as runs:
            for sample in expected.samples:
                self.rows.append(self._call_row(candidate, case, sample, runs))
            if not expected.latents or not self.budget.run(candidate.name, case, candidate.device):
                return
            model = StaticDenoiser(preset.model, sizes(preset.model, case.shape), runs)
            for eta, latents in expected.latents.items():
                if candidate.is_yardstick and eta:  # slow on a CPU, and one run is enough
                    continue
                made = sample_run(model, preset, case, eta, "cpu")
                self.rows.append(self._run_row(candidate, case, eta, (made, latents), decode))

    def _call_row(self, candidate: Candidate, case: Case, sample: Sample, runs: Runs) -> Row:
        made = runs[sample.network](sample.inputs)
        found = differences(made, sample.outputs)
        limit = self.gates.l2(candidate.precision, candidate.is_yardstick)
        return Row(
            stage="one call",
            network=sample.network,
            shape=str(case),
            at=sample.at,
            run_by=candidate.name,
            precision=candidate.precision,
            found=found,
            limit={"relative_l2": limit},
            verdict=self._held_to(judge_call(found, limit), candidate.precision),
        )

    def _run_row(
        self,
        candidate: Candidate,
        case: Case,
        eta: float,
        latents: tuple[Tensor, Tensor],
        decode: Decode,
    ) -> Row:
        found = {**differences_of(*latents), **pictures_differ(*map(decode, latents))}
        return Row(
            stage="whole run",
            network="denoiser",
            shape=str(case),
            at=f"eta {eta:g}",
            run_by=candidate.name,
            precision=candidate.precision,
            found=found,
            limit={"psnr_min": self.gates.psnr, "ssim_min": self.gates.ssim},
            verdict=self._held_to(judge_run(found, self.gates), candidate.precision),
        )

    def _held_to(self, verdict: Verdict, precision: Precision) -> Verdict:
        return held_to(verdict, precision, self.subject.manifest.precision)

    def _judge_attention(self) -> None:
        """Add one row for the worst layer of each network."""
        for network in dict.fromkeys(name.partition(".")[0] for name in self.layers):
            layers = {k: v for k, v in self.layers.items() if k.startswith(f"{network}.")}
            name = max(layers, key=lambda k: layers[k].raw)
            logits = layers[name]
            self.rows.append(
                Row(
                    stage="attention",
                    network=network,
                    shape="all",
                    at=name.removeprefix(f"{network}."),
                    run_by="PyTorch float32",
                    precision="float32",
                    found={"raw": logits.raw, "scaled": logits.scaled},
                    limit={"scaled": self.gates.logit},
                    verdict=self._held_to(judge_logits(logits, self.gates), "float16"),
                )
            )


def etas_of(preset: Preset) -> tuple[float, ...]:
    """List the etas that matter; one step adds no noise, so it is the same for every eta."""
    steps = plan_steps(preset.defaults.solver, preset.defaults.steps)
    return ETAS[:1] if len(steps) == 1 else ETAS


def differences(made: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Measure the output with the largest error; NaN counts as the largest."""
    found = [differences_of(made[name], x) for name, x in expected.items()]
    return max(found, key=lambda f: (math.isnan(f["relative_l2"]), f["relative_l2"]))


def differences_of(made: Tensor, expected: Tensor) -> dict[str, float]:
    return {
        "relative_l2": metrics.relative_l2(made, expected),
        "max_error": metrics.largest_error(made, expected),
        "cosine": metrics.cosine(made, expected),
    }


def pictures_differ(made: Tensor, expected: Tensor) -> dict[str, float]:
    """Compute mean and least PSNR and SSIM over frames f c h w."""
    found = {}
    for name, metric in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
        values = [metric(*frames) for frames in zip(made, expected, strict=True)]
        found[f"{name}_mean"] = statistics.fmean(values)
        found[f"{name}_min"] = min(values)
    return found


@contextmanager
def _place(folder: Path) -> Iterator[Path]:
    """Make a temporary folder inside the bundle, where the disk has space for weights."""
    try:
        place = tempfile.TemporaryDirectory(prefix=".verify-", dir=folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error}") from error
    with place as name:
        yield Path(name)


@contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """Disable TF32, so that float32 is exact on a GPU too."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _bundle(manifest: Manifest) -> dict[str, Any]:
    return {
        "preset": manifest.preset.name,
        "precision": manifest.precision,
        "shapes": [str(shape) for shape in manifest.shapes],
        "builder": " ".join([manifest.builder, manifest.builder_version]).strip(),
        "checkpoint": manifest.checkpoint,
        "checkpoint_sha256": manifest.checkpoint_sha256,
    }

"""Comparison of the bundle's own graphs with graphs exported now, at all of its shapes.

A large shape may be too expensive to run here. Its graph is compared as written to the file, so
that the results of the small probes also hold for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from venhancer.contract import sizes
from venhancer_export.onnx_graph.onnx_file import write_onnx
from venhancer_export.onnx_graph.weights_file import lay_out
from venhancer_export.parity.candidates import Subject
from venhancer_export.parity.report import Row
from venhancer_export.sources import denoiser_source


def compare_graphs(subject: Subject) -> Iterator[Row]:
    """Compare every graph of the bundle whose network this machine has; one row each."""
    manifest, precision = subject.manifest, subject.manifest.precision
    sources = [
        denoiser_source(subject.preset, subject.weights, precision),
        *subject.companions(precision),
    ]
    folder = subject.place / "graphs"
    folder.mkdir()
    for source in sources:
        places = lay_out(source.module)
        for entry in manifest.entries:
            if entry.network not in source.networks:
                continue
            shape = entry.shape or manifest.shapes[0]
            graph = source.networks[entry.network].graph(sizes(subject.preset.model, shape))
            fresh = folder / Path(entry.file).name
            write_onnx(fresh, graph, f"{source.name}.weights", places)
            differs = is_different(subject.folder / entry.file, fresh)
            yield Row(
                stage="graph",
                network=entry.network,
                shape=str(entry.shape or ""),
                at="",
                run_by=f"ONNX {precision}",
                precision=precision,
                found={"different": float(differs)},
                limit={"different": 0.0},
                verdict="FAIL" if differs else "pass",
            )


def is_different(path: Path, other: Path) -> bool:
    """Tell whether two graphs differ in more than the last bits of their constants."""
    try:
        models = [onnx.load(str(p), load_external_data=False) for p in (path, other)]
    except DecodeError:
        return True
    constants = [[t for t in m.graph.initializer if not t.external_data] for m in models]
    if len(constants[0]) != len(constants[1]):
        return True
    for pair in zip(*constants, strict=True):
        if _is_other_constant(*pair):
            return True
        for tensor in pair:  # another CPU may round a cosine's last bit differently
            tensor.ClearField("raw_data")
    first, second = (model.graph.SerializeToString(deterministic=True) for model in models)
    return first != second


def _is_other_constant(a: TensorProto, b: TensorProto) -> bool:
    if (a.name, a.data_type, list(a.dims)) != (b.name, b.data_type, list(b.dims)):
        return True
    first, second = (numpy_helper.to_array(x).astype(np.float64) for x in (a, b))
    return not np.allclose(first, second, rtol=1e-5, atol=1e-7)

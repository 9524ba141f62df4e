"""How far exported networks are from PyTorch: a bundle is built and verified, its report kept."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import describe_run
from benchmarks.timing import parse_size
from venhancer_export.bundle_writer import build_bundle
from venhancer_export.parity.report import JSON
from venhancer_export.parity.run import verify
from venhancer_export.request import make_request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=parse_size, default=(64, 64))
    parser.add_argument("--window", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    request = make_request(
        preset=args.preset,
        weights=args.weights,
        sizes=[args.size],
        windows=[args.window],
        builder="onnx",
        precision="float16",
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        build_bundle(request, bundle)
        report = verify(bundle, request.weights, is_full=False, say=lambda line: None)
        found = json.loads((bundle / JSON).read_text())
    result = {**describe_run("benchmarks.parity"), **found}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(report.lines()), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

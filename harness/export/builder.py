"""The process that builds: its arguments are SOURCE OUT PRECISION PROVIDER TRUST_REMOTE_CODE.

The Model Builder of onnxruntime-genai puts top-level modules on ``sys.path`` when it is imported,
prints a lot, and its memory goes back only when its process ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..latency.machine import status
from ..orphans import end_with_parent
from .checkpoint import MAX_POSITIONS
from .process import PEAK, UNSUPPORTED


def main(source: str, out: str, precision: str, provider: str, trust_remote_code: str) -> int:
    """Write the graph to *out*, and the peak memory beside it. Returns the exit code."""
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    cache = str(Path(out).parent / "cache")  # beside the draft, so it goes with it
    target = ("local", source, out, precision, provider, cache)
    options = parse_extra_options(*target, ["hf_token=false", f"hf_remote={trust_remote_code}"])
    config = options["hf_details"]["hf_config"]
    if getattr(config, "max_position_embeddings", 0) > MAX_POSITIONS:
        config.max_position_embeddings = MAX_POSITIONS
    try:
        create_model(*target, **options)
    except NotImplementedError as error:
        sys.stderr.write(f"{error}\n")
        return UNSUPPORTED
    (Path(out).parent / PEAK).write_text(json.dumps(status("VmHWM")))
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*sys.argv[1:]))

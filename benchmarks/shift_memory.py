"""Measure how much memory an evaluation under shifts takes, for few images and for many.

    python benchmarks/shift_memory.py MODEL DATA [--samples 1000,50000] [--shifts gaussian_noise,contrast]

MODEL and DATA are what ``robustscope evaluate`` takes. Each number of samples has a process of its own, with one attack of
noise beside the shifts; printed is the largest resident set of the process when it has run and stored all shards, and when it
has written the report too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEGABYTE = 1024
"""Kilobytes, in which the system counts."""


def main() -> int:
    """Write one table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--samples", default="1000,50000")
    parser.add_argument("--shifts", default="gaussian_noise,impulse_noise,brightness,contrast,pixelate")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return one(given)
    rows = []
    for samples in given.samples.split(","):
        command = [sys.executable, __file__, given.model, given.data, "--samples", samples, "--shifts", given.shifts]
        done = subprocess.run([*command, "--one"], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    sys.stdout.write(
        "| images | rows of shifts | planned, MB | run, MB | with the report, MB | seconds |\n| --: |" + " --: |" * 5
    )
    for row in rows:
        planned, ran, reported = (f"{kilobytes / MEGABYTE:.0f}" for kilobytes in row["peaks"])
        sys.stdout.write(
            f"\n| {row['samples']:,} | {row['rows']:,} | {planned} | {ran} | {reported} | {row['seconds']:.0f} |"
        )
    sys.stdout.write("\n")
    return 0


def one(given: argparse.Namespace) -> int:
    """Evaluate once, and print the peaks of this process as JSON."""
    from robustscope.reports import write_report
    from robustscope.runs.config import config_from_dict
    from robustscope.runs.plan import load_subjects, make_plan
    from robustscope.runs.session import carry_out, start

    asked = {"models": [{"source": given.model}], "data": given.data, "threats": ["linf:0.1"]}
    asked |= {"attacks": [{"name": "noise_uniform"}], "curve": [], "trust": "off"}
    config = config_from_dict({**asked, "samples": given.samples, "shifts": given.shifts})
    began, peaks = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        subjects = load_subjects(config.models, config.data, config.settings)
        plan = make_plan(config, subjects)
        start(plan, folder)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        carry_out(folder, subjects=subjects)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        write_report(Path(folder))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    rows = sum(shift["samples"] * len(shift["parts"]) for shift in plan["shifts"])
    told = {"samples": plan["data"]["n"], "rows": rows, "peaks": peaks, "seconds": time.perf_counter() - began}
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())

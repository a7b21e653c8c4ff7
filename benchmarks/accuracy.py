"""An experiment's test error over that of each baseline, from one run.

    python benchmarks/accuracy.py +experiment=climate
    python benchmarks/accuracy.py +experiment=sst data.root=DIRECTORY
    python benchmarks/accuracy.py runs/climate/latest

Trains with the given overrides in a temporary directory, or reads a finished run, and prints for every lead
and baseline the median and the largest ratio over variables of the surrogate's error (RMSE, or relative L2
where that is scored) to the baseline's: below 1 is better. Ends with status 1 when a ratio is not below 1, then a line
of JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile


def ratios(summary: dict) -> dict[str, dict[str, list[float]]]:
    """lead → baseline → the ratio of every predicted variable."""
    result: dict[str, dict[str, list[float]]] = {}
    for variable, scores in summary["scores"]["test"].items():
        if variable not in summary["units"]:  # an index of the fields, not a field
            continue
        metric = "relative_l2" if "relative_l2" in scores else "rmse"
        for name, baseline in summary["baselines"].items():
            for lead, value in scores[metric].items():
                result.setdefault(lead, {}).setdefault(name, []).append(value / baseline[variable][metric][lead])
    return result


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if len(arguments) == 1 and Path(arguments[0], "summary.json").is_file():
        summary = json.loads(Path(arguments[0], "summary.json").read_text())
    else:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "surrogate.train", *arguments, f"run.dir={scratch}/run"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            summary = json.loads(Path(scratch, "run", "summary.json").read_text())
    found = ratios(summary)
    print(f"{'lead':8}{'baseline':24}{'median':>8}{'largest':>9}{'variables':>11}")
    table: dict[str, dict[str, dict[str, float]]] = {}
    for lead, baselines in found.items():
        for name, values in baselines.items():
            median, largest = statistics.median(values), max(values)
            table.setdefault(lead, {})[name] = {"median": median, "largest": largest}
            print(f"{lead:8}{name:24}{median:8.3f}{largest:9.3f}{len(values):11}")
    cost = {
        k: summary["throughput"][k]
        for k in ("cpu_seconds", "samples_per_s", "input_wait_fraction", "peak_memory_bytes")
    }
    print(json.dumps({"arguments": arguments, "steps": summary["steps"], "ratios": table, **cost}))
    sys.exit(any(b["largest"] >= 1 for t in table.values() for b in t.values()))


if __name__ == "__main__":
    main()

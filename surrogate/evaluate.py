"""``python -m surrogate.evaluate run=runs/climate/latest``: score a finished run again.

Usage: python -m surrogate.evaluate run=DIRECTORY [split=valid] [evaluate.key=value] [data.leads=[1D,3D,10D]]

The settings are those of the run's own config.yaml; what is given here replaces them for this scoring alone.
"""

from __future__ import annotations


def main() -> None:
    from surrogate.cli import run_on_directory

    def evaluate(directory, experiment, options):  # type: ignore[no-untyped-def]
        from surrogate.run.evaluate_run import evaluate_run

        evaluate_run(directory, experiment, split=options.get("split", "test"))
        return 0

    run_on_directory(evaluate, options=("split",), usage=__doc__ or "")


if __name__ == "__main__":
    main()

"""``python -m surrogate.evaluate run=runs/climate/latest``: score a finished run again.

Usage: python -m surrogate.evaluate run=DIRECTORY [split=valid] [on=[FILE,...]] [evaluate.key=value]

on= scores on other data of the same variables, on another grid too where the model allows it.

Scores, pictures and a report go into the run's directory: scores-test.json, plots-test/, report-test.html.

The settings are those of the run's own config.yaml; what is given here replaces them for this scoring alone.
"""

from __future__ import annotations


def main() -> None:
    from surrogate.cli import run_on_directory

    def evaluate(directory, experiment, options):
        from surrogate.run.evaluate_run import evaluate_run

        on = tuple(filter(None, options.get("on", "").strip("[]").split(",")))
        evaluate_run(directory, experiment, split=options.get("split", "test"), on=on)
        return 0

    run_on_directory(evaluate, options=("split", "on"), usage=__doc__ or "")


if __name__ == "__main__":
    main()

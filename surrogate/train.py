"""``python -m surrogate.train +experiment=climate``: train a surrogate and score it.

Usage: python -m surrogate.train [+experiment=NAME] [group=choice] [group.key=value] ...

For data of your own: python -m surrogate.train data.paths=[run.nc] data.variables=[tas,psl]
A run that was stopped goes on with the same command and run.dir=DIRECTORY.
"""

from __future__ import annotations


def main() -> None:
    from surrogate.cli import run_door

    def train(experiment, options):
        from surrogate.run.loop import run_training

        return run_training(experiment).exit_code

    run_door(train, usage=__doc__ or "")


if __name__ == "__main__":
    main()

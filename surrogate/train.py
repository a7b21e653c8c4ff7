"""``python -m surrogate.train +experiment=climate``: train a surrogate and score it.

Usage: python -m surrogate.train +experiment=NAME [group=choice] [group.key=value] ...
"""

from __future__ import annotations


def main() -> None:
    from surrogate.cli import run_door

    def train(experiment):  # type: ignore[no-untyped-def]
        from surrogate.run.loop import run_training

        return run_training(experiment).exit_code

    run_door(train)


if __name__ == "__main__":
    main()

"""``python -m surrogate.plan +experiment=climate plan.target=tpu:v5p:16x20x28``: a run on hardware that is not there.

Usage: python -m surrogate.plan [+experiment=NAME] plan.target=TARGET [group.key=value] ...

  plan.target=tpu:v5p:16x20x28   also gpu:h100:140x8 and cpu:512
  plan.sweep=true                search meshes, batch, remat and precision; write the winner's mesh YAML
  plan.scale=[8,64,512,8960]     memory, step time and communication over the number of devices
  plan.calibrate=true            predicted beside measured, on 1 and 2 devices of this machine's CPU

The training step is compiled, not run: no data are read but what fixes shapes. docs/plan.md says what the numbers mean.
"""

from __future__ import annotations


def main() -> None:
    from surrogate.cli import run_door

    def plan(experiment, options):
        from surrogate.planning.run import run_plan

        return run_plan(experiment)

    run_door(plan, usage=__doc__ or "")


if __name__ == "__main__":
    main()

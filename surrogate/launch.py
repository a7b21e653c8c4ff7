"""``python -m surrogate.launch --script SITE +experiment=climate``: print a batch script for a site.

Usage: python -m surrogate.launch --script SITE [site.key=value] ... [words of surrogate.train] ...

    python -m surrogate.launch --script perlmutter site.account=m1234 site.nodes=4 +experiment=climate mesh=data > job.sh
    sbatch job.sh

SITE is one of conf/site/, or a YAML file of your own. The words are checked now, not in the queue.
"""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> None:
    from surrogate.cli import _guarded, conf_directory, free_overrides, load_experiment, read_site
    from surrogate.core.types import UserError
    from surrogate.parallel.script import batch_script

    given = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in given if word.lstrip("+").partition("=")[0] != "traceback"]
    show = any(word.lstrip("+") == "traceback=true" for word in given)
    sites = sorted(path.stem for path in (conf_directory() / "site").glob("*.yaml"))
    if not words or {"-h", "--help"} & set(words):
        print((__doc__ or "").strip(), f"\n\nSites: {', '.join(sites)}; see docs/slurm.md")
        return

    def call() -> str:
        if words[0] != "--script" or len(words) < 2:
            raise UserError(f"which site? begin with --script and one of {', '.join(sites)}, or a file of your own")
        site, train = read_site(words[1], words[2:])
        name = next((w.partition("=")[2] for w in train if w.startswith("+experiment=")), "surrogate")
        if any(word.startswith("-") for word in train):  # options of Hydra's own are its affair
            return batch_script(site, train, name=name, preset=words[1])
        experiment = load_experiment("", free_overrides(train))
        return batch_script(site, train, name=experiment.name, preset=words[1], root=experiment.run.root)

    print(_guarded(call, show), end="")


if __name__ == "__main__":
    main()

"""The command line and notebooks' way to an experiment: Hydra's YAML in, a validated Experiment out.

Only this module and the doors know Hydra. Every ``group.key=value`` is added whether or not the YAML
lists it; what does not exist is refused by the dataclasses, which can say what was meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import difflib
import logging
import os
from pathlib import Path
import re
import sys
import traceback
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
import yaml

from surrogate.config import (
    EvaluateConfig,
    Experiment,
    LaunchConfig,
    MeshConfig,
    OptimConfig,
    PlanConfig,
    RunConfig,
    TrainConfig,
    build,
)
from surrogate.core.types import UserError
from surrogate.parallel.array import in_array, requeue
from surrogate.parallel.site import SiteConfig
from surrogate.run.signals import EXIT_STOPPED, EXIT_STOPPED_SLURM

_SECTIONS = ("name", "domain", "data", "model", "optim", "train", "evaluate", "run", "mesh", "launch", "plan")
_GROUPS = ("data", "model", "optim", "train", "mesh", "launch", "experiment")


def conf_directory() -> Path:
    """``conf/``: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    for directory in (package / "conf", package.parent / "conf"):
        if (directory / "config.yaml").is_file():
            return directory
    raise UserError(f"the configuration directory conf/ is missing beside {package}")


def free_overrides(overrides: Sequence[str]) -> list[str]:
    """Let ``a.b=c`` set keys that the YAML does not list (Hydra's ``++``); leave group choices alone."""
    result = []
    for text in overrides:
        key = text.partition("=")[0]
        plain = "=" in text and not text.startswith(("+", "~", "-")) and not key.startswith("hydra")
        is_group = key.split("@")[0] in _GROUPS or "/" in key
        result.append("++" + text if plain and not is_group else text)
    return result


def to_experiment(config: DictConfig) -> Experiment:
    """Validate a composed configuration.

    Raises:
        UserError: naming the key that is unknown, missing or of a wrong type.
    """
    from surrogate.domains.base import find_domain
    from surrogate.models.base import find_model

    try:
        values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    for key in values:
        if key not in _SECTIONS:
            close = difflib.get_close_matches(key, _SECTIONS, n=1)
            raise UserError(f"{key} is not a setting" + (f"; did you mean {close[0]}?" if close else ""))
    domain = str(values.get("domain", "fields"))
    model = dict(values.get("model") or {})
    model_name = str(model.pop("name", ""))
    if not model_name:
        raise UserError("model.name is missing; choose one with model=unet")
    model_class: Any = find_model(model_name)
    return Experiment(
        name=str(values.get("name", "custom")),
        domain=domain,
        data=build(find_domain(domain).Data, values.get("data"), "data"),
        model_name=model_name,
        model=build(model_class.Config, model, "model"),
        optim=build(OptimConfig, values.get("optim"), "optim"),
        train=build(TrainConfig, values.get("train"), "train"),
        evaluate=build(EvaluateConfig, values.get("evaluate"), "evaluate"),
        run=build(RunConfig, values.get("run"), "run"),
        mesh=build(MeshConfig, values.get("mesh"), "mesh"),
        launch=build(LaunchConfig, values.get("launch"), "launch"),
        plan=build(PlanConfig, values.get("plan"), "plan"),
        resolved=values,
    )


def load_experiment(
    name: str = "", overrides: Sequence[str] = (), *, config_dir: str | os.PathLike[str] | None = None
) -> Experiment:
    """Compose ``conf/experiment/<name>.yaml`` with ``overrides`` as the command line would.

    Args:
        name: an experiment, such as ``climate``; empty: the defaults alone.
        overrides: such as ``["train.steps=2000", "model=fno"]``.
        config_dir: a directory of your own that is searched as well (``experiment/<name>.yaml``).

    Raises:
        UserError: for an unknown experiment, group, key or value.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    words = free_overrides(overrides)
    if name:
        words.insert(0, f"+experiment={name}")
    if config_dir is not None:
        words.insert(0, f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_directory()), version_base="1.3"):
        try:
            config = compose("config", overrides=words)
        except Exception as error:  # Hydra raises many kinds; all of them mean the same to the person
            raise UserError(explain(error)) from error
    return to_experiment(config)


def read_site(name: str, words: Sequence[str]) -> tuple[SiteConfig, list[str]]:
    """The preset ``name`` of ``conf/site/``, or a YAML file, with the ``site.key=value`` among ``words``; and the others.

    Raises:
        UserError: for a site or a key that does not exist.
    """
    known = conf_directory() / "site" / f"{name}.yaml"
    file = Path(name) if name.endswith((".yaml", ".yml")) else known
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in known.parent.glob("*.yaml")))
        raise UserError(f"there is no site {name!r}; there are {names}, or give a YAML file of your own")
    own = [word.lstrip("+").removeprefix("site.") for word in words if word.lstrip("+").startswith("site.")]
    try:
        written = yaml.load(file.read_text(), Loader=yaml.BaseLoader)  # every value as its text
        config = OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_dotlist(own))
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    values: Any = OmegaConf.to_container(config, resolve=True)
    # What YAML takes for a number is text to the shell and to the scheduler; 1:00:00 is 3600 to it.
    for key in ("account", "partition", "qos", "constraint", "time"):
        given = [word.partition("=")[2] for word in own if word.partition("=")[0] == key]
        if given or key in written:
            values[key] = given[-1] if given else written[key]
    values["environment"] = {k: str(v) for k, v in (values.get("environment") or {}).items()}
    return build(SiteConfig, values, "site"), [w for w in words if not w.lstrip("+").startswith("site.")]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def explain(error: BaseException) -> str:
    """One sentence for what Hydra says in several."""
    text = str(error).strip()
    if "hydra/launcher" in text and "submitit" in text:
        return "launch=slurm needs an extra: pip install 'surrogate[slurm]'"
    if missing := re.search(r"Could not find '([^']+)'", text) or re.search(
        r"In '[^']*': Could not (?:load|find) '([^']+)'", text
    ):
        group, _, option = missing[1].partition("/")
        options = sorted(p.stem for p in (conf_directory() / group).glob("*.yaml"))
        if option and options:
            return f"{group}={option} does not exist; there are {', '.join(options)}"
        return f"{missing[1]} is not a group of settings; there are {', '.join(_GROUPS)}"
    return re.sub(r"\s+", " ", text.split("See https")[0].split("\nfull_key")[0]).strip()


def run_door(
    main: Callable[[Experiment, dict[str, str]], int],
    *,
    options: Sequence[str] = (),
    usage: str = "",
    argv: Sequence[str] | None = None,
) -> None:
    """Run a command line: compose, validate, call ``main(experiment, options)``, exit with its code.

    Args:
        options: words of the form ``name=value`` that belong to the command and not to the experiment.

    A :class:`UserError` is one line on stderr and exit code 2; ``traceback=true`` shows where it arose.
    """
    words, given, show = _prepare(sys.argv[1:] if argv is None else argv, options, usage)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    import hydra

    codes: list[int] = []
    errors: list[UserError] = []

    @hydra.main(config_path=str(conf_directory()), config_name="config", version_base="1.3")
    def job(config: DictConfig) -> None:
        remote = in_array()
        if remote:
            _log_to_stderr()
        try:
            codes.append(main(to_experiment(config), given))
        except UserError as error:
            if remote:
                raise  # back to the process that waits for the sweep
            errors.append(error)  # Hydra would print every override before it
        if remote and codes[-1] in (EXIT_STOPPED, EXIT_STOPPED_SLURM):
            requeue()

    def call() -> None:
        job()
        if errors:
            raise errors[0]

    if "launch=slurm" in words and not {"-m", "--multirun"} & set(words):
        _fail("launch=slurm submits a sweep: add -m; for one run, surrogate.launch prints a script", show)
    sys.argv = [sys.argv[0], *free_overrides(words)]
    _guarded(call, show)
    sys.exit(max(codes, default=0))


def run_on_directory(
    main: Callable[[Path, Experiment, dict[str, str]], int], *, options: Sequence[str] = (), usage: str = ""
) -> None:
    """Run a command line that begins from a finished run: ``run=DIRECTORY`` and changes to its settings."""
    words, given, show = _prepare(sys.argv[1:], ("run", *options), usage)

    def call() -> int:
        directory = Path(given.get("run", "")).expanduser()
        if not given.get("run"):
            raise UserError("which run? give run=runs/<experiment>/latest")
        file = directory / "config.yaml"
        if not file.is_file():
            raise UserError(f"{directory} is not a run directory: it has no config.yaml")
        # On what it runs is this command's own affair: by default one device, whatever the training had.
        config = OmegaConf.merge(OmegaConf.load(file), {"mesh": None, "launch": None})
        for word in (w for w in words if "=" in w):
            key, _, value = word.partition("=")
            config = OmegaConf.merge(
                config, {"mesh": _mesh(value)} if key == "mesh" else OmegaConf.from_dotlist([word])
            )
        experiment = to_experiment(config)  # type: ignore[arg-type]
        return main(directory, experiment, given)

    sys.exit(_guarded(call, show))


def _mesh(name: str) -> Any:
    file = conf_directory() / "mesh" / f"{name}.yaml"
    if not file.is_file():
        options = sorted(p.stem for p in file.parent.glob("*.yaml"))
        raise UserError(f"mesh={name} does not exist; there are {', '.join(options)}")
    return OmegaConf.load(file)


def _prepare(argv: Sequence[str], options: Sequence[str], usage: str) -> tuple[list[str], dict[str, str], bool]:
    """Words for Hydra, the command's own options, and whether tracebacks are wanted."""
    if any(a in ("-h", "--help") for a in argv):
        print(usage.strip())
        print("\nChoices (group=choice):")
        for group in _GROUPS:
            names = sorted(p.stem for p in (conf_directory() / group).glob("*.yaml"))
            print(f"  {'+' if group == 'experiment' else ''}{group}: {', '.join(names)}")
        print(
            "\nEvery key of a group can be set as group.key=value; --hydra-help tells more, traceback=true shows tracebacks."
        )
        sys.exit(0)
    _log_to_stderr()
    given = {a.partition("=")[0]: a.partition("=")[2] for a in argv if a.partition("=")[0] in options}
    show = any(a.lstrip("+") == "traceback=true" for a in argv)
    words = [a for a in argv if a.partition("=")[0] not in options and a.lstrip("+").partition("=")[0] != "traceback"]
    return words, given, show


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("absl", "orbax", "jax", "asyncio", "fsspec", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _guarded(call: Callable[[], Any], show: bool) -> Any:
    import hydra

    try:
        return call()
    except UserError as error:
        _fail(str(error), show)
    except (OmegaConfBaseException, hydra.errors.HydraException) as error:
        _fail(explain(error), show)
    except KeyboardInterrupt:
        _fail("interrupted", show, 130)


def _fail(message: str, show: bool, code: int = 2) -> None:
    if show:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)

"""Who trains the tasks of a sweep: this process, one by one, or workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from jaxrl_prefs.cli import commandline
from jaxrl_prefs.errors import ConfigError, NonFiniteError
from jaxrl_prefs.parallel import devices
from jaxrl_prefs.runs.config import Choice
from jaxrl_prefs.runs.workdir import CONFIG, RESULT, TIMINGS, Rows, read_json

GLANCE = 2.0  # seconds between looks at what the workers have written
RETRIES = 3  # of a task whose worker was killed or whose node is gone
PASSED_ON = ("MINARI_DATASETS_PATH", "XDG_CACHE_HOME")  # a node may have been started without


class Task(NamedTuple):
    """What one process trains into one folder."""

    name: str  # as the table of progress shows it
    choice: Choice
    path: Path  # absolute, for workers start elsewhere
    points: Sequence[Mapping[str, str]]  # of a sweep, trained together; none: the choice as it is


class Ended(NamedTuple):
    """A task that nobody works on any more."""

    task: Task
    error: str  # empty if it is finished


def attempt(task: Task, console: Console) -> str:
    """Trains a task from wherever its folder stands; returns what went wrong, empty if nothing."""
    devices.prepare()
    from jaxrl_prefs.runs import prepare  # after the devices are chosen

    try:
        job, about = prepare.prepare(task.choice, task.path, task.points)
        prepare.complete(job, about, console, overwrite=False)
    except (*commandline.USER_ERRORS, NonFiniteError, OSError) as error:
        return " ".join(str(error).split())
    return ""


def local(tasks: Sequence[Task], console: Console) -> Iterator[Ended]:
    """Trains the tasks here, one after the other."""
    for task in tasks:
        yield Ended(task, attempt(task, console))


def on_ray(
    tasks: Sequence[Task], console: Console, *, address: str, cpus: int, gpus: float
) -> Iterator[Ended]:
    """Trains every task on a Ray cluster, and shows how far each is.

    A task whose worker dies is given to another, which goes on from the last checkpoint. So all
    nodes must see this project and the tasks' folders under the same paths.

    Args:
        tasks: in the order in which they are to start; they end in any.
        console: where the table of progress goes.
        address: of the cluster; "local" starts one on this machine's cores.
        cpus: cores for each task, which are its devices where it has no accelerator.
        gpus: GPUs for each task.

    Raises:
        ConfigError: if Ray is missing, or no cluster answers.
    """
    ray = _connect(address)
    try:
        # A worker trains one task only: JAX fixes its devices once, and holds their memory.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1, "max_retries": RETRIES}
        remote = ray.remote(**options)(_work)
        waiting = {remote.remote(task, cpus): task for task in tasks}
        ended: list[Ended] = []
        with Live(_progress(tasks, ended), console=console, auto_refresh=False) as live:
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=GLANCE)
                for reference in done:
                    ended.append(Ended(waiting.pop(reference), _outcome(ray, reference)))
                    yield ended[-1]
                live.update(_progress(tasks, ended), refresh=True)
        if not console.is_terminal:  # there, the table's last line is not ended
            console.line()
    finally:
        ray.shutdown()


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError:
        need = "--launcher=ray needs Ray: pip install 'jaxrl_prefs[ray]'"
        raise ConfigError(need) from None
    project = str(Path(__file__).parents[2])  # a clone that is not installed: workers look there
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [project, os.getenv("PYTHONPATH")]))
    try:
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": variables})
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--ray_address={address}: {error}") from error
    return ray


def _work(task: Task, cpus: int) -> str:
    """A worker's whole life."""
    import jax

    jax.config.update("jax_num_cpu_devices", cpus)
    return attempt(task, Console(quiet=True))


def _outcome(ray: Any, reference: Any) -> str:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # killed more than RETRIES times, or a fault of ours
        return str(error).strip().splitlines()[-1]


def _progress(tasks: Sequence[Task], ended: Sequence[Ended]) -> Table:
    view = Table("task", "state")
    states = {each.task.path: each.error or "finished" for each in ended}
    for task in tasks:
        view.add_row(task.name, states.get(task.path) or progress(task.path))
    return view


def progress(path: Path) -> str:
    """How far the run in a folder is, as its rows tell: `1,200 of 4,000 updates`."""
    if (path / RESULT).exists():
        return "finished"
    if not (path / CONFIG).exists():
        return "waiting"
    step = max((row["step"] for row in Rows(path / TIMINGS)), default=0)
    return f"{step:,} of {read_json(path / CONFIG)['steps']:,} updates"

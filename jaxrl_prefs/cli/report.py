"""Writes a page about runs: one HTML file, to be opened in a browser.

    jaxrl-prefs report runs/bdpo-pendulum-mixed --html
    jaxrl-prefs report runs/compare --html=compare.html

Takes the folders of runs, comparisons and sweeps. The page says what was run and shows the scores
with their intervals, the curves of every seed, the warning signs of the method, and, where the data
are on this machine, what `data info` says of them. Files of a run's folder are shown too:
estimates.json, an estimate without playing; play.mp4, play.gif and play.png, of `jaxrl-prefs play`.
The page needs no network and can be sent to others. `pip install 'jaxrl_prefs[report]'` brings the
package that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console

from jaxrl_prefs.cli import commandline, shown
from jaxrl_prefs.errors import ConfigError
from jaxrl_prefs.page import document
from jaxrl_prefs.runs import tables
from jaxrl_prefs.runs.memory import amount
from jaxrl_prefs.runs.workdir import write_text

FILE = "report.html"

FLAGS = flags.FlagValues()
flags.DEFINE_flag(  # --html alone takes the usual file
    flags.Flag(
        flags.ArgumentParser(),
        flags.ArgumentSerializer(),
        "html",
        "",
        f"the file; without a name, {FILE} in the first folder",
        boolean=True,
    ),
    FLAGS,
)
commandline.define_flags(FLAGS, last=1, help=False)


@commandline.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 failed, 2 wrong use."""
    console = commandline.console()
    folders = commandline.words(FLAGS, argv)
    if FLAGS.help:
        tables.write(console, commandline.usage(__doc__, FLAGS, argv))
        return 0
    _execute([commandline.folder(each) for each in folders], console)
    return 0


def _execute(folders: Sequence[Path], console: Console) -> None:
    if not folders:
        raise ConfigError("report takes the folder of a run, a comparison or a sweep")
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder")
    is_named = FLAGS.html not in ("", "true", "false")
    target = commandline.folder(FLAGS.html) if is_named else folders[0] / FILE
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"--html={target}: there is no folder {target.absolute().parent}")
    runs = shown.found(folders, FLAGS.last)
    if not runs:
        raise ConfigError(f"no run below {' '.join(map(str, folders))}")
    page = document.document(shown.title(runs), shown.sections(folders, runs), shown.foot())
    write_text(target, page)
    count = f"{len(runs)} run{'s' * (len(runs) != 1)}"
    tables.write(console, f"{target}: {count}, {amount(len(page.encode()))}; open it in a browser")

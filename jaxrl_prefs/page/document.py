"""One HTML file from sections: style, script and plotting library inside, nothing from elsewhere.

A policy in the file's head lets the browser run only this page's script and Plotly's, and load
nothing from a network, whatever a dataset or a folder is called.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence

from jaxrl_prefs.page import plots
from jaxrl_prefs.page.parts import KINDS, Curves, Intervals, Media, Part, Rows, Section, Words

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #f3f5f7;
  --line: #d5dae0; --link: #0b5cad; --mark: #fff1d6; --faint: #59636e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --paper: #15181c; --soft: #1e2329;
  --line: #3a424b; --link: #79b8ff; --mark: #4a3716; --faint: #9aa5b1; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1rem clamp(0.75rem, 3vw, 2rem) 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2, summary { font-size: 1.2rem; font-weight: 600; margin: 2rem 0 0.5rem; }
summary { cursor: pointer; }
p, figcaption { max-width: 46rem; overflow-wrap: anywhere; }
.note, figcaption, footer { color: var(--faint); font-size: 0.9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: pre-line; min-width: 3rem; font-variant-numeric: tabular-nums; }
th { background: var(--soft); }
th.words, td.words { text-align: left; max-width: 36rem; overflow-wrap: break-word; }
td.long { min-width: min(60vw, 18rem); }
tr.look td { background: var(--mark); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 0.5rem; }
.plots > div { min-width: 0; } .plots > .large { grid-column: 1 / -1; }
h3 { font-size: 0.95rem; margin: 0.8rem 0 0; overflow-wrap: anywhere; }
.seeds { display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 0.5rem 0; }
.seeds button { font: inherit; font-size: 0.9rem; padding: 0.25rem 0.7rem; color: var(--ink);
  background: var(--soft); border: 1px solid var(--line); border-radius: 999px; cursor: pointer; }
.seeds button[aria-pressed="false"] { opacity: 0.45; text-decoration: line-through; }
figure { margin: 1rem 0; } img, video { max-width: 100%; height: auto; }
img.sheet { background: #fff; }
"""

SCRIPT = """
'use strict';
const drawn = new Map(), hidden = new Set();
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const theme = () => ({'font.color': style('--ink'), 'hoverlabel.bgcolor': style('--soft'),
  'hoverlabel.bordercolor': style('--line'), 'hoverlabel.font.color': style('--ink')});
function draw(place) {
  if (drawn.has(place)) return;
  const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
  drawn.set(place, figure);
  if (matchMedia('(pointer: coarse)').matches) figure.layout.dragmode = false;  // a finger scrolls
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displayModeBar: false})
    .then(() => {
      Plotly.relayout(place, theme());
      hide(place);
  });
}
function hide(place) {
  const data = drawn.get(place).data;
  const off = line => (line.meta || []).some(name => hidden.has(name));
  Plotly.restyle(place, {visible: data.map(line => off(line) ? 'legendonly' : true)});
}
const watcher = new IntersectionObserver(seen => seen.forEach(each => {
  if (each.isIntersecting) { watcher.unobserve(each.target); draw(each.target); }
}), {rootMargin: '400px'});
document.querySelectorAll('.plot').forEach(place => watcher.observe(place));
const switches = document.querySelectorAll('.seeds button');
switches.forEach(button => button.addEventListener('click', () => {
  const on = button.getAttribute('aria-pressed') === 'true';
  const name = JSON.parse(button.dataset.name);
  switches.forEach(other => {
    if (other.dataset.name === button.dataset.name) other.setAttribute('aria-pressed', String(!on));
  });
  if (on) hidden.add(name); else hidden.delete(name);
  drawn.forEach((_, place) => hide(place));
}));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () =>
  drawn.forEach((_, place) => Plotly.relayout(place, theme())));
"""


def document(title: str, sections: Sequence[Section], foot: str) -> str:
    """The file's content.

    Args:
        title: of the page.
        sections: in order; those without parts are left out.
        foot: a line below all.

    Raises:
        ConfigError: if there are plots, and the package plotly is missing.
    """
    writer = _Writer()
    body = [writer.section(each) for each in sections if each.parts]
    scripts = [_safe(plots.javascript()), SCRIPT] if writer.count else []
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; media-src data:; base-uri 'none'; form-action 'none'"
    )
    note = " Plots: Plotly.js (MIT licence), inside this file." if scripts else ""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{STYLE}</style></head><body><main>",
            f"<h1>{html.escape(title)}</h1>",
            *body,
            f"<footer><p>{html.escape(foot)}{note}</p></footer></main>",
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>",
            "",
        ]
    )


def _safe(script: str) -> str:
    """A script in which no text ends its element."""
    return re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


class _Writer:
    """Writes parts, and counts the plots."""

    def __init__(self) -> None:
        self.count = 0

    def section(self, section: Section) -> str:
        title = html.escape(section.title)
        body = "\n".join([*self._switches(section), *self._parts(section.parts)])
        if section.folded:
            return f"<details><summary>{title}</summary>\n{body}\n</details>"
        return f"<section><h2>{title}</h2>\n{body}\n</section>"

    def _switches(self, section: Section) -> list[str]:
        """A button for each group and each seed, where there are several."""
        lines = [line for part in section.parts if isinstance(part, Curves) for line in part.lines]
        groups = list(dict.fromkeys(line.group for line in lines))
        seeds = list(dict.fromkeys(line.name for line in lines))
        names = [name for several in (groups, seeds) if len(several) > 1 for name in several]
        if not names:
            return []
        buttons = [
            f'<button type="button" aria-pressed="true" '
            f'data-name="{html.escape(plots.in_html(plots.plain(name)))}">{html.escape(name)}'
            "</button>"
            for name in names
        ]
        return [f'<div class="seeds">{"".join(buttons)}</div>']

    def _parts(self, parts: Sequence[Part]) -> list[str]:
        """The parts; plots that follow one another share a grid."""
        found: list[str] = []
        for place, part in enumerate(parts):
            is_plot = isinstance(part, Curves | Intervals)
            before = place > 0 and isinstance(parts[place - 1], Curves | Intervals)
            after = place + 1 < len(parts) and isinstance(parts[place + 1], Curves | Intervals)
            found += ['<div class="plots">'] * (is_plot and not before)
            found.append(self._part(part))
            found += ["</div>"] * (is_plot and not after)
        return found

    def _part(self, part: Part) -> str:
        if isinstance(part, Words):
            return f"<p>{html.escape(part.text)}</p>"
        if isinstance(part, Rows):
            return _table(part)
        if isinstance(part, Media):
            return _media(part)
        self.count += 1
        name, large = f"figure-{self.count}", isinstance(part, Intervals) or part.large
        head = f"<h3>{html.escape(part.title)}</h3>"
        data = f'<script type="application/json" id="{name}">{plots.figure(part)}</script>'
        place = f'<div class="plot" data-figure="{name}"></div>'
        return f"<div{' class=large' * large}>{head}{data}{place}</div>"


def _table(part: Rows) -> str:
    lines = ['<div class="wide"><table>']
    for number, row in enumerate(part.rows):
        tag = "td" if number else "th"
        classes = [_css_class(cell, place < part.text_columns) for place, cell in enumerate(row)]
        cells = [
            f'<{tag} class="{name}">{html.escape(cell)}</{tag}>'
            for name, cell in zip(classes, row, strict=True)
        ]
        lines.append(f"<tr{' class=look' * (number in part.marked)}>{''.join(cells)}</tr>")
    notes = [f'<p class="note">{html.escape(note)}</p>' for note in part.notes]
    return "\n".join([*lines, "</table></div>", *notes])


def _css_class(cell: str, is_text: bool) -> str:
    return "words long" if is_text and len(cell) > 30 else "words" * is_text


def _media(part: Media) -> str:
    assert part.kind in KINDS.values()
    source = f"data:{part.kind};base64,{base64.b64encode(part.content).decode()}"
    caption = html.escape(part.caption)
    shown = f'<img class="sheet" alt="{caption}" src="{source}">'
    if part.kind.startswith("video"):
        shown = f'<video controls muted loop playsinline src="{source}"></video>'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"

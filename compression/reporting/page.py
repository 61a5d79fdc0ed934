"""The report as HTML. Every figure comes from the record, the manifests and the assessments of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from app.artifact import Manifest
from compression.reporting.record import LONGEST_TEXT, Disagreement, RunRecord, StageFigures
from compression.reporting.svg import Point, bar, bars, lines, scatter


@dataclass(frozen=True)
class Story:
    """All that a report tells."""

    record: RunRecord
    manifests: tuple[Manifest, ...]
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    assessments: tuple[Mapping[str, Any], ...]
    longest_text: int = LONGEST_TEXT


def html(story: Story) -> str:
    """One file, nothing of it loaded from elsewhere."""
    style = (resources.files("compression") / "reporting" / "style.css").read_text(encoding="utf-8")
    record = story.record
    sections = [
        _head(story),
        _pair(_frontier(story), _shapes(story)),
        _stages(record),
        _pair(_curves(story), _calibration(story)),
        _slices(story),
        _disagreements(story),
    ]
    title = escape(f"{record.recipe} on {record.data}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>bertpress: {title}</title><style>{style}</style></head><body><main>"
        f"{''.join(sections)}</main></body></html>\n"
    )


def _head(story: Story) -> str:
    record = story.record
    refused = "".join(f"<p>Refused: {escape(reason)}</p>" for reason in record.refused)
    rows = [
        [
            _cell(f"{each.name}/{each.version}"),
            _cell(quality.build),
            _number(f"{each.bytes / 1e6:.1f} MB"),
            _number(f"{quality.accuracy:.2%}"),
            _number(_interval(quality.accuracy_interval_95)),
            _number(_percent(quality.retention)),
            _number(_percent(quality.label_flip_rate)),
            _cell(f"{quality.dataset} {quality.split}, {quality.n:,} texts"),
        ]
        for each in story.manifests
        for quality in each.quality
    ]
    columns = ["version", "build", "size#", "accuracy#", "95 %#", "retained#", "labels changed#", "judged on"]
    return (
        f"<h1>{escape(record.recipe)} on {escape(record.data)}</h1>"
        '<p class="soft">A compression run of bertpress: what was published, and how it came about.</p>'
        f"{_section('Published', (_table(columns, rows) if rows else '<p>Nothing yet.</p>') + refused)}"
    )


def _frontier(story: Story) -> str:
    figures, record = story.record.figures, story.record
    if not figures:
        return ""
    kinds = {stage.name: stage for stage in record.stages}
    points = [
        Point(
            each.size_bytes / 1e6,
            each.accuracy,
            name,
            *each.interval_95,
            kind=0 if kinds[name].gives == "model" else 1,
        )
        for name, each in figures.items()
    ]
    chart = scatter(points, "size, MB", "accuracy", _as_percent)
    note = (
        f"{_measured(record)} Whiskers: 95 % intervals. <span class='tag'>Blue: PyTorch fp32;</span> "
        "<span class='tag'>orange: builds.</span>"
    )
    return _section("Frontier", chart + _soft(note))


def _stages(record: RunRecord) -> str:
    figures = record.figures
    if not figures:
        return ""
    largest = max(each.size_bytes for each in figures.values())
    slowest = max(each.latency_ms for each in figures.values())
    rows = [
        _stage_row(stage.name, stage.kind, stage.inputs, stage.seconds, figures[stage.name], largest, slowest)
        for stage in record.stages
        if stage.name in figures
    ]
    columns = ["stage", "kind", "from", "size#", "accuracy#", "labels changed#", "one text#", "took#"]
    return _section("What each stage did", _table(columns, rows) + _soft(_measured(record)))


def _stage_row(
    name: str,
    kind: str,
    inputs: Sequence[str],
    seconds: float | None,
    figures: StageFigures,
    largest: float,
    slowest: float,
) -> list[str]:
    return [
        _cell(name),
        _cell(kind),
        _cell(", ".join(inputs) or "-"),
        _number(f"{figures.size_bytes / 1e6:.1f} MB", bar(figures.size_bytes / largest)),
        _number(f"{figures.accuracy:.1%}", bar(figures.accuracy)),
        _number(f"{figures.flip_rate:.1%}"),
        _number(f"{figures.latency_ms:.2f} ms", bar(figures.latency_ms / slowest)),
        _number("-" if seconds is None else _duration(seconds)),
    ]


def _shapes(story: Story) -> str:
    shown = [each for each in story.manifests if each.architecture.layers]
    if not shown:
        return ""
    names = [f"{each.name}/{each.version}" for each in shown]
    heads = {name: each.architecture.attention_heads for name, each in zip(names, shown, strict=True)}
    widths = {name: each.architecture.ffn_width for name, each in zip(names, shown, strict=True)}
    labels = [f"layer {number + 1}" for number in range(max(len(kept) for kept in heads.values()))]
    charts = bars(heads, labels, "attention heads") + bars(widths, labels, "FFN neurons")
    return _section("Heads and neurons kept in each layer", charts)


def _curves(story: Story) -> str:
    series = {
        name: [
            (each["epoch"], each["validation_accuracy"]) for each in entries if "validation_accuracy" in each
        ]
        for name, entries in story.histories.items()
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    return _section("Training", lines(series, "epoch of the training", "validation accuracy", _as_percent))


def _calibration(story: Story) -> str:
    if not story.assessments:
        return ""
    series = {
        f"{each['name']} on {each['dataset']}": [
            (found["confidence"], found["accuracy"]) for found in each["calibration"]["bins"]
        ]
        for each in story.assessments
    }
    chart = lines(series, "probability given", "share that is right", _as_percent, diagonal=True)
    errors = "; ".join(
        f"{escape(each['name'])}: error {each['calibration']['error_before']:.2%} as it was, "
        f"{each['calibration']['error']:.2%} at temperature {each['calibration']['temperature']:.2f}"
        for each in story.assessments
    )
    return _section("Calibration", chart + _soft(f"Expected calibration error. {errors}."))


def _slices(story: Story) -> str:
    blocks = []
    for each in story.assessments:
        rows = [
            [
                _cell(found["name"]),
                _number(f"{found['n']:,}"),
                _number(f"{found['accuracy']:.2%}", bar(found["accuracy"])),
                _number(_interval(found["interval_95"])),
                _number(_percent(found["teacher_accuracy"])),
            ]
            for found in each["slices"]
        ]
        if rows:
            title = f"{each['name']} on {each['dataset']}, {each['n']:,} texts"
            columns = ["texts", "how many#", "accuracy#", "95 %#", "teacher#"]
            blocks.append(f"<p>{escape(title)}</p>{_table(columns, rows)}")
    return _section("Kinds of texts", "".join(blocks)) if blocks else ""


def _disagreements(story: Story) -> str:
    last: dict[str, tuple[Disagreement, ...]] = {
        stage.name: story.record.figures[stage.name].disagreements
        for stage in story.record.stages
        if stage.gives == "build" and stage.name in story.record.figures
    }
    rows = [
        [
            _cell(name),
            _number(str(each.row)),
            f'<td class="text">{escape(shortened(each.text, story.longest_text))}</td>',
            _cell(each.label),
            _cell(f"{each.teacher}, {each.teacher_score:.0%} sure"),
            _cell(f"{each.ours}, {each.score:.0%} sure"),
        ]
        for name, found in last.items()
        for each in found
    ]
    if not rows:
        return ""
    columns = ["build", "row#", "text", "true label", "teacher", "build says"]
    note = "Validation texts that a build labels otherwise than the teacher, the surest of each first."
    return _section("Where teacher and student disagree", _table(columns, rows) + _soft(note))


def _measured(record: RunRecord) -> str:
    found = record.measured
    if not found:
        return ""
    return escape(
        f"{found['rows']} validation texts; one text of {found['tokens']} tokens, median, all taking turns: "
        f"{found['cpu']}, {found['threads']} threads, {found['on']}."
    )


def shortened(text: str, longest: int) -> str:
    """At most so many characters of a text, with an ellipsis where that is not all of it."""
    return text if len(text) <= longest else text[: max(longest - 1, 0)].rstrip() + "…"


def _pair(*sections: str) -> str:
    return f'<div class="pair">{"".join(sections)}</div>' if any(sections) else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _soft(body: str) -> str:
    return f'<p class="soft">{body}</p>'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A column whose name ends in # holds numbers."""
    heads = "".join(
        f'<th class="n">{escape(name[:-1])}</th>' if name.endswith("#") else f"<th>{escape(name)}</th>"
        for name in columns
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _number(text: str, below: str = "") -> str:
    return f'<td class="n">{escape(text)}{below}</td>'


def _as_percent(value: float) -> str:
    return f"{value:.1%}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.2%} to {ends[1]:.2%}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

"""The model card: a version's manifest told to a person, in Hugging Face's form."""

from __future__ import annotations

from pathlib import Path

from app.artifact import CARD_FILE, Cost, Head, Manifest, Quality
from compression import baseline

# Bytes of BERT-base's 109,483,778 fp32 weights, what a checkpoint of it takes on disk.
_BASELINE_BYTES = 437_935_112


def write(manifest: Manifest, path: Path) -> Path:
    """Write the card and return its path."""
    path.write_text(text(manifest), encoding="utf-8")
    return path


def text(manifest: Manifest) -> str:
    """The card as Markdown."""
    parts = [_front(manifest), _quality(manifest), _cost(manifest), _builds(manifest), _origin(manifest)]
    return "\n\n".join(parts) + "\n"


def _front(manifest: Manifest) -> str:
    shape = manifest.architecture
    heads, widths = ", ".join(map(str, shape.attention_heads)), ", ".join(map(str, shape.ffn_width))
    described = f"{shape.layers} layers of hidden size {shape.hidden_size}, attention heads per layer {heads}"
    described = f"{described}, FFN widths {widths}" if shape.layers else "No layers: it counts n-grams"
    reads = f"{manifest.tokenizer.max_tokens} tokens ({manifest.tokenizer.truncation})"
    return "\n".join(
        [
            "---",
            "library_name: bertpress",
            "pipeline_tag: text-classification",
            "---",
            "",
            f"# {manifest.name}, version {manifest.version}",
            "",
            *([manifest.description, ""] if manifest.description else []),
            *(f"Labels{_named(head, manifest)}: {', '.join(head.labels)}." for head in manifest.heads),
            f"Reads at most {reads}.",
            f"{described}, {shape.parameters:,} parameters before quantization.",
        ]
    )


def _quality(manifest: Manifest) -> str:
    lines = [
        "## Quality",
        "",
        "| data | texts | build | accuracy | 95 % interval | fp32 teacher, same rows | retained "
        "| labels that differ from the teacher's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for quality in manifest.quality:
        low, high = quality.accuracy_interval_95
        judged = f"{quality.dataset} {quality.split}{_of_head(quality, manifest)}"
        lines.append(
            f"| {judged} | {quality.n:,} | {quality.build} | "
            f"{quality.accuracy:.2%} | {low:.2%} to {high:.2%} "
            f"| {_percent(quality.teacher_accuracy)} | {_percent(quality.retention)} "
            f"| {_percent(quality.label_flip_rate)} |"
        )
    return "\n".join(lines)


def _cost(manifest: Manifest) -> str:
    if not manifest.cost:
        return "## Cost\n\nNot measured."
    ours = manifest.cost[0]
    costs = [cost for cost in manifest.cost if (cost.cpu, cost.threads) == (ours.cpu, ours.threads)]
    # The card is a file of the version itself, and says nothing of its own size.
    size = sum({each.file: each.bytes for each in manifest.stored_files if each.file != CARD_FILE}.values())
    lengths = [point.tokens for point in ours.latency]
    head = "| model | size | " + " | ".join(f"{length} tokens" for length in lengths) + " | peak memory |"
    lines = ["## Cost", "", head, "|---" * (len(lengths) + 3) + "|"]
    lines += [_cost_row(cost, _BASELINE_BYTES if cost.build == baseline.NAME else size) for cost in costs]
    lines += [_ratio_row(ours, cost, size) for cost in costs if cost.build == baseline.NAME]
    runtimes = ", ".join(dict.fromkeys(cost.runtime for cost in costs))
    lines += [
        "",
        f"One text, median (and 90th percentile) ms on {ours.threads} threads, alternating in one run: "
        f"{ours.cpu} ({', '.join(ours.cpu_features)}), {runtimes}, {ours.measured_on}. Size: all files of "
        "the version. Peak memory: a fresh process that loads the model and answers once.",
    ]
    return "\n".join(lines)


def _ratio_row(ours: Cost, theirs: Cost, size: int) -> str:
    pairs = zip(ours.latency, theirs.latency, strict=True)
    ratios = " | ".join(f"{slow.median_ms / fast.median_ms:.1f}x" for fast, slow in pairs)
    return f"| ratio to {ours.build} | {_BASELINE_BYTES / size:.1f}x | {ratios} | |"


def _cost_row(cost: Cost, size: int) -> str:
    times = " | ".join(f"{point.median_ms:.2f} ({point.p90_ms:.2f})" for point in cost.latency)
    memory = "-" if cost.peak_resident_bytes is None else f"{cost.peak_resident_bytes / 1e6:.0f} MB"
    return f"| {cost.build} | {size / 1e6:.1f} MB | {times} | {memory} |"


def _builds(manifest: Manifest) -> str:
    lines = [
        "## Builds",
        "",
        "| build | file | size | needs | labels changed, PyTorch fp32 | answers move with batch-mates |",
        "|---|---|---|---|---|---|",
    ]
    for build in manifest.builds:
        flips = (
            "-" if build.parity is None else f"{build.parity.label_flip_rate:.2%} of {build.parity.texts:,}"
        )
        if build.parity is not None and build.parity.emulated:
            flips += " (emulated: made on a machine that lacks what the build needs)"
        variance = build.batch_variance
        moves = (
            "-"
            if variance is None
            else f"{variance.label_flip_rate:.2%} flips, up to {variance.max_probability_change:.3f}"
        )
        needs = ", ".join(build.needs) or "any CPU"
        lines.append(
            f"| {build.name} | {build.file} | {build.bytes / 1e6:.1f} MB | {needs} | {flips} | {moves} |"
        )
    lines += ["", "A build whose answers move with their batch-mates is served one unpadded text at a time."]
    return "\n".join(lines)


def _origin(manifest: Manifest) -> str:
    origin = manifest.provenance
    libraries = ", ".join(f"{name} {number}" for name, number in origin.libraries.items())
    return "\n".join(
        [
            "## Origin",
            "",
            f"Teacher `{origin.teacher}`, recipe `{origin.recipe}` ({origin.recipe_sha256[:12]}), "
            f"data `{origin.data}` ({origin.data_fingerprint[:12]}), seed {origin.seed}, "
            f"code {origin.code_revision or 'not from a checkout'}, {origin.created_at}.",
            f"Made with {libraries}.",
        ]
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _of_head(quality: Quality, manifest: Manifest) -> str:
    """Which head a figure is of, where there are several."""
    return f", {quality.head}" if len(manifest.heads) > 1 else ""


def _named(head: Head, manifest: Manifest) -> str:
    return f" of {head.name}" if len(manifest.heads) > 1 else ""

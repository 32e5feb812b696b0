"""report.html: the sections of the page, each from a RunRecord to a piece of HTML."""

from __future__ import annotations

from html import escape
from importlib.resources import files

import megafm
from megafm.config import from_dict
from megafm.model.config import ModelConfig
from megafm.model.count import num_parameters
from megafm.report.collect import RunRecord
from megafm.report.series import loss_ceiling, si, smooth
from megafm.report.svg import Series, bar_chart, legend, line_chart
from megafm.report.tables import checkpoint_table, data_tables, table, version_table

MAX_SAMPLES = 8


def page(record: RunRecord) -> str:
    """The whole document; nothing in it is fetched from anywhere."""
    sections = [
        header(record),
        section("Training", training(record)),
        section("Against the baselines", baselines(record)),
        section("Samples", samples(record)),
        section("Data", data_tables(record)),
        section("Checkpoints", checkpoint_table(record)),
        section("Config and versions", configuration(record)),
    ]
    return html(f"{record.name}: megafm run report", "".join(sections))


def html(title: str, body: str) -> str:
    """A page that loads nothing."""
    style = files("megafm.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n"
        f"</head>\n<body>\n<main>\n{body}"
        f"<footer>Written by megafm {megafm.__version__}. This page is complete: it loads nothing "
        "from elsewhere.</footer>\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>\n"


def header(record: RunRecord) -> str:
    corpus = record.manifest.corpus if record.manifest else "corpus not found"
    return (
        f'<header>\n<p class="kicker">megafm run report</p>\n<h1>{escape(record.name)}</h1>\n'
        f'<p class="verdict">{verdict(record)}</p>\n<p class="note">{escape(corpus)}</p>\n'
        f"{cards(record)}</header>\n"
    )


def verdict(record: RunRecord) -> str:
    """One sentence: bits per byte, and how far below or above each baseline."""
    if record.evaluation is None:
        return "Not evaluated yet: run <code>megafm evaluate</code>."
    ours = record.evaluation["model"]["bits_per_byte"]
    parts = []
    for name, baseline in record.evaluation["baselines"].items():
        margin = record.evaluation["margin_percent"][name]
        kind, word = ("good", "below") if margin > 0 else ("bad", "above")
        bits = f"{baseline['bits_per_byte']:.3f}"
        parts.append(
            f'<b class="{kind}">{abs(margin):.1f}% {word}</b> {escape(baseline["name"])} ({bits})'
        )
    return f"<b>{ours:.3f} bits per byte</b>: {', '.join(parts)}."


def cards(record: RunRecord) -> str:
    """The figures one looks for first."""
    found: list[tuple[str, str]] = []
    if record.evaluation:
        model = record.evaluation["model"]
        found.append(("bits per byte, validation", f"{model['bits_per_byte']:.4f}"))
        found.append(("perplexity per token", f"{model['perplexity']:.2f}"))
    elif record.validation:
        last = record.validation[-1]
        found.append(("bits per byte, while training", f"{last['bits_per_byte']:.4f}"))
    if "model" in record.config:
        shape = from_dict(ModelConfig, record.config["model"])
        found.append(("parameters", si(num_parameters(shape))))
    if record.training:
        last = record.training[-1]
        steps = record.config.get("train", {}).get("steps", last["step"])
        more = last["step"] < steps
        found.append(("training tokens", si(last["tokens"])))
        found.append(("steps", f"{last['step']:,}" + (f" of {steps:,}" if more else "")))
        found.append(("tokens/s, median", f"{record.median('tokens_per_s'):,.0f}"))
        found.append(("achieved FLOP/s, median", si(record.median("flops_per_s") or 0)))
        found.append(("time in training steps", duration(record.seconds)))
    if record.quickstart:
        found.append(("whole job", duration(record.quickstart["total_seconds"])))
        peak = record.quickstart["peak_memory_bytes"] / 2**30
        found.append(("peak memory, whole job", f"{peak:.1f} GiB"))
    boxes = "".join(
        f'<div class="card"><span>{escape(name)}</span><strong>{escape(value)}</strong></div>'
        for name, value in found
    )
    return f'<div class="cards">{boxes}</div>\n'


def training(record: RunRecord) -> str:
    """Loss, learning rate and throughput over the tokens seen."""
    lines = record.training
    if not lines:
        return not_yet("No training step yet: run", "megafm train")
    tokens = [line["tokens"] for line in lines]

    def points(name: str, smoothed: bool = False) -> list[tuple[float, float]]:
        values = [line[name] for line in lines]
        return list(zip(tokens, smooth(values) if smoothed else values, strict=True))

    loss = [
        Series("training loss, each step", "faint", points("loss")),
        Series("training loss, smoothed", "model", points("loss", smoothed=True)),
    ]
    validation = [(line["tokens"], line["val_loss"]) for line in record.validation]
    if validation:
        loss.append(Series("validation loss", "validation", validation, dots=True))
    bottom = min(y for series in loss for _, y in series.points)
    top = loss_ceiling([y for _, y in loss[1].points])
    rate = [Series("learning rate", "model", points("lr"))]
    speed = [
        Series("tokens/s, each step", "faint", points("tokens_per_s")),
        Series("tokens/s, smoothed", "model", points("tokens_per_s", smoothed=True)),
    ]
    fastest = max(y for _, y in speed[1].points)
    x_label = "training tokens"
    charts = [
        legend(loss)
        + line_chart(
            loss,
            label="loss in nats per token",
            x_label=x_label,
            height=320,
            y_range=(bottom, max(top, bottom + 1e-3)),
            y_text=lambda value: f"{value:g}",
        )
        + '<p class="note">Nats per token. The first steps may lie above the top of the chart.</p>',
        legend(rate)
        + line_chart(
            rate, label="learning rate", x_label=x_label, height=150, y_text=lambda v: f"{v:g}"
        ),
        legend(speed)
        + line_chart(
            speed,
            label="training throughput",
            x_label=x_label,
            height=190,
            y_range=(0, 1.15 * fastest or 1),
        ),
    ]
    return "\n".join(f'<div class="panel">{chart}</div>' for chart in charts)


def baselines(record: RunRecord) -> str:
    """Bars of bits per byte, and what each was."""
    if record.evaluation is None:
        return not_yet("Not evaluated yet: run", "megafm evaluate")
    model, others = record.evaluation["model"], record.evaluation["baselines"].values()
    rows = [("this model", model["bits_per_byte"], "model")]
    rows += [(other["name"], other["bits_per_byte"], "baseline") for other in others]
    chart = bar_chart(rows, label="bits per byte of the model and of the baselines")
    context = (
        f"{model['seq_len']} tokens of context, stride {model['stride']}, {model['precision']}"
    )
    facts = [
        [
            f"this model, step {model['step']:,}",
            f"loss {model['loss']:.4f} nats per token over {model['tokens']:,} tokens; {context}",
        ],
        *([other["name"], other["method"]] for other in others),
    ]
    return (
        f'<div class="panel">{chart}<p class="note">Bits per byte, lower is better: the code '
        f"length of the same {model['bytes']:,} bytes in {model['documents']:,} validation "
        "documents, each on its own.</p></div>"
        f'<div class="panel">{table(["", "how"], facts)}</div>'
    )


def samples(record: RunRecord) -> str:
    """Prompts and continuations of the latest step that has any; prompts are dimmed."""
    if not record.samples:
        return not_yet("No samples yet: run", "megafm generate save=true")
    last = max(sample["settings"].get("step", 0) for sample in record.samples)
    shown = [sample for sample in record.samples if sample["settings"].get("step", 0) == last]
    boxes = []
    for sample in shown[-MAX_SAMPLES:]:
        settings = ", ".join(f"{name} {value}" for name, value in sample["settings"].items())
        boxes.append(
            f'<div class="panel"><pre><b>{visible(sample["prompt"])}</b>{visible(sample["text"])}'
            f'</pre><p class="note">{escape(settings)}</p></div>'
        )
    return "\n".join(boxes)


def configuration(record: RunRecord) -> str:
    text = escape(record.config_text) or "no config.yaml in the run folder"
    return (
        f'<div class="panel">{version_table(record)}</div>'
        f"<details><summary>config.yaml, resolved</summary>"
        f'<div class="panel"><pre>{text}</pre></div></details>'
    )


def not_yet(text: str, command: str) -> str:
    return f'<p class="note">{escape(text)} <code>{escape(command)}</code>.</p>'


def visible(text: str) -> str:
    """Escaped for HTML; control characters, which HTML cannot hold, as U+FFFD."""
    return escape("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"

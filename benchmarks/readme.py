"""Write the README's figures from committed results; a test holds the two together.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.data.summary import table as data_table
from benchmarks.gpu.summary import tables

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def filled(text: str) -> str:
    """README `text` with its generated parts made anew."""
    parts = {
        "capture": capture(),
        "results": quickstart_table(),
        "data": data_table(RESULTS),
        "ops": ops_table(),
        "train": train_table(),
        "gpu": gpu_tables(),
        "scaling": scaling_table(),
        "plan": plan("llama3_70b"),
        "plans": "\n\n".join(plan(name, trimmed=True) for name in ("long_context", "experts")),
    }
    for name, content in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{content}\n{end}{after}"
    return text


def capture() -> str:
    """The trimmed output of the newest quickstart that was kept."""
    path = _newest("quickstart").with_suffix(".txt")
    return f"```\n{path.read_text(encoding='utf-8').rstrip()}\n```"


def quickstart_table() -> str:
    """A row for every quickstart that was kept."""
    rows = [
        "| command | machine | text | model | 5-gram | xz | below 5-gram | tokens | job | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted((RESULTS / "quickstart").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        rows.append(f"| {' | '.join(_cells(result))} |")
    names = ", ".join(f"`benchmarks/results/quickstart/{p.name}`" for p in _results("quickstart"))
    last = json.loads(_newest("quickstart").read_text(encoding="utf-8"))
    return (
        "\n".join(rows)
        + "\n\nBits per byte of the validation text, kept apart from training by file and "
        "near-duplicate cluster; text in MB for training and validation, which makes rows of one "
        "text alone comparable; tokens as the model saw them. The last run's corpus: "
        f"{last['corpus']}. From {names}."
    )


def _cells(result: dict[str, Any]) -> list[str]:
    evaluation, summary = result["evaluation"], result["quickstart"]
    return [
        f"`{result['command']}`",
        f"{result['hardware']['device']}, {evaluation['model']['precision']}",
        f"{result['train_bytes'] / 1e6:.1f} and {result['validation_bytes'] / 1e6:.2f}",
        f"{evaluation['model']['bits_per_byte']:.3f}",
        f"{evaluation['baselines']['ngram']['bits_per_byte']:.3f}",
        f"{evaluation['baselines']['xz']['bits_per_byte']:.3f}",
        f"{evaluation['margin_percent']['ngram']:.1f}%",
        f"{result['training']['tokens'] / 1e6:.1f} M",
        f"{summary['total_seconds'] / 60:.1f} min",
        f"{summary['peak_memory_bytes'] / 2**30:.1f} GiB",
    ]


def ops_table() -> str:
    """Per op, dtype and number of threads: the best peer's time over ours, against the bar."""
    rows = [
        "| op, both passes | threads | clock | best peer / ours: least, median, most | bar | met |",
        "|---|---|---|---|---|---|",
    ]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in _results("ops")]
    for result in results:
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for case in result["bars"]:
            if case["bar"] is not None:
                groups.setdefault((case["dtype"], case["threads"]), []).append(case)
        for (dtype, threads), cases in groups.items():
            ratios = [case["ratio"] for case in cases]
            middle = f"{min(ratios):.2f}, {statistics.median(ratios):.2f}, {max(ratios):.2f}"
            met = sum(case["ratio"] >= case["bar"] for case in cases)
            bar = f"{cases[0]['bar']:.2f}"
            name = f"`{result['op']}` {dtype}"
            met_of = f"{met} of {len(cases)} shapes"
            rows.append(f"| {name} | {threads} | {result['clock']} | {middle} | {bar} | {met_of} |")
    where = f"{results[0]['hardware']['device']}, torch {results[0]['versions']['torch']}"
    return (
        "\n".join(rows)
        + f"\n\nOn {where}. The best peer is the fastest of torch eager and torch.compile, under "
        "glibc's allocator as it comes and tuned to keep freed memory; ours is measured under the "
        "tuned one, which megafm's jobs set. The clock is the wall's, or, where others used the "
        "machine, the process's own CPU time. From `benchmarks/results/ops/*.json`, which hold "
        "every shape, provider and quantile."
    )


def train_table() -> str:
    """Tokens per second of whole training steps, ours and the peers'."""
    (path,) = _results("train")
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        "| a Llama of 10 M parameters | ours, tokens/s | best peer, tokens/s | ours / its | bar |",
        "|---|---|---|---|---|",
    ]
    for case in result["bars"]:
        cores = f"{case['cores']} core{'s' if case['cores'] > 1 else ''}"
        bar = f"{case['bar']:.2f}" if case["bar"] else ""
        peer = f"{case['peer']:,.0f} ({case['best']})"
        speeds = f"{case['ours']:,.0f} | {peer} | {case['ratio']:.2f}"
        rows.append(f"| {case['dtype']}, {cores} | {speeds} | {bar} |")
    peers = sorted({case["name"] for case in result["cases"]} - {"megafm"})
    return "\n".join(rows) + (
        f"\n\nEach at its better layout (threads or ranks). Peers: {', '.join(peers)}. "
        f"From `{path.relative_to(ROOT)}`."
    )


def gpu_tables() -> str:
    """What `make gpu` measured, a block for each GPU."""
    folders = sorted(path.parent for path in RESULTS.glob("*/parts.json"))
    if not folders:
        return (
            "Not yet measured on a GPU: `make gpu` measures, and this part then shows its tables."
        )
    shown = (f"{tables(folder)}\n\nFrom `{folder.relative_to(ROOT)}`." for folder in folders)
    return "\n\n".join(shown)


def scaling_table() -> str:
    """What two ranks of one core each make of every layout, against one rank."""
    (path,) = _results("parallel")
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        "| two ranks as | tokens/s | times one rank | communication |",
        "|---|---|---|---|",
    ]
    for case in result["cases"]:
        share = case["communication_share"]
        spent = "" if share is None else f"{share:.0%}"
        speed = f"{case['tokens_per_s']:,} | {case['times_one_rank']:.2f}"
        rows.append(f"| {case['variant']} | {speed} | {spent} |")
    return "\n".join(rows) + (
        "\n\n`one` is one rank, the other core idle; `apart` two that never talk. Data-parallel "
        "ranks take a batch each, the others share one; what is lost against `apart` is counted "
        "as communication, for tp with its narrower products, for pp with its bubble. "
        f"On {result['hardware']['device']}, from `{path.relative_to(ROOT)}`."
    )


def plan(name: str, *, trimmed: bool = False) -> str:
    """A plan's command and what it prints; trimmed: without its tables."""
    path = RESULTS / "plan" / f"{name}.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = result["output"]
    if trimmed:
        ends = next(n for n, line in enumerate(lines) if line.startswith(("routing:", "fits:")))
        lines = [lines[0], "...", *lines[ends:]]
    shown = "\n".join(["$ " + " \\\n    ".join(result["command"]), *lines])
    took = ", ".join(f"{s:.0f} s of rank {int(r):,}" for r, s in result["seconds"].items())
    where = f"From `{path.relative_to(ROOT)}`, at {result['commit'][:7]}: {took}."
    return f"```\n{shown}\n```\n\n{where}"


def _results(suite: str) -> list[Path]:
    return sorted((RESULTS / suite).glob("*.json"))


def _newest(suite: str) -> Path:
    dates = {p: json.loads(p.read_text(encoding="utf-8"))["date"] for p in _results(suite)}
    return max(dates, key=lambda path: (dates[path], path.name))


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")

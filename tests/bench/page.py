"""``docs/performance.md`` and its plots, made of ``build/bench/latest.json`` and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path("docs/performance.md")
PLOTS = Path("docs/performance")
PLOTTED = {
    "Speed against batch tokens": "batch_tokens.svg",
    "Speed against text length": "text_length.svg",
    "Speed against texts in flight": "in_flight.svg",
}


def write_page(document: dict[str, Any]) -> Path:
    """Write page and plots; returns the page's path. Without matplotlib the plots stay as they are."""
    plotted = _plot(document["tables"])
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(_lines(document, plotted)) + "\n", "utf-8")
    return PAGE


def _lines(document: dict[str, Any], plotted: bool) -> list[str]:
    machine, model = document["machine"], document["model"]
    lines = [
        "# Performance",
        "",
        "Written by `make bench`: every figure is from `build/bench/latest.json`. Compared rows ran in turn",
        "on the same texts, a figure is the median. The machine is shared: trust ratios before figures.",
        "",
        f"- when: {document['at'][:10]}; {document['items_per_round']} texts in each of "
        f"{document['rounds']} rounds ({document['texts']})",
        f"- machine: {machine['cpu']}, {machine['threads']} threads, Python {machine['python']}",
        f"- model: {model['id']}, {model['precision']}",
        f"- matmul peak: fp32 {machine['peak_fp32_gflops']:,.0f}, "
        f"bf16 {machine['peak_bf16_gflops']:,.0f} GFLOP/s",
        f"- floor: {machine['floor_tokens_per_s']:,.0f} tokens/s, the {machine['floor_precision']} peak over "
        f"two operations for each of {machine['body_parameters'] / 1e6:,.0f} M parameters; "
        f"{machine['floor_items_per_s']:,.1f} items/s at {machine['new_tokens_per_item']:.1f} tokens each",
        "",
        "## Sentiment",
        "",
        *table(
            ["", "items/s", "p50 ms", "accuracy", "of the floor"],
            [
                [
                    row["name"],
                    row["items_per_s"],
                    None if row["p50_s"] is None else round(row["p50_s"] * 1e3),
                    row["accuracy"],
                    f"{row['of_floor']:.1%}",
                ]
                for row in document["rows"]
            ],
        ),
        "",
        "Under load everything is sent at once, so a latency there is mostly waiting.",
        "",
    ]
    for each in document["tables"]:
        lines += [f"## {each['title']}", "", *table(each["columns"], each["rows"]), ""]
        if each["note"]:
            lines += [f"{each['note'][0].upper()}{each['note'][1:]}.", ""]
        if plotted and each["title"] in PLOTTED:
            lines += [f"![{each['title']}](performance/{PLOTTED[each['title']]})", ""]
    lines += ["## Ratios", "", *table(["", ""], list(document["ratios"].items())), ""]
    if document["left_out"]:
        lines += ["## Left out", "", *(f"- {line}" for line in document["left_out"]), ""]
    lines += ["## Again", "", "`make bench`, or `python -m tests.bench --help` for parts and other texts."]
    return lines


def table(columns: list[str], rows: list[Any]) -> list[str]:
    """A table of Markdown; an empty cell is a dash."""
    cells = ["–" if cell is None else str(cell) for row in rows for cell in row]
    width = len(columns)
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * width}",
        *(f"| {' | '.join(cells[start : start + width])} |" for start in range(0, len(cells), width)),
    ]


def _plot(tables: list[dict[str, Any]]) -> bool:
    try:
        import matplotlib as mpl
    except ImportError:
        return all((PLOTS / name).is_file() for name in PLOTTED.values())
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "moodq"
    from matplotlib import pyplot

    PLOTS.mkdir(parents=True, exist_ok=True)
    for each in tables:
        name = PLOTTED.get(each["title"])
        if name is None:
            continue
        figure, axes = pyplot.subplots(figsize=(6, 3.2))
        axes.plot([row[0] for row in each["rows"]], [row[1] for row in each["rows"]], marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks([row[0] for row in each["rows"]], [str(row[0]) for row in each["rows"]])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(each["columns"][0])
        axes.set_ylabel(each["columns"][1])
        axes.grid(alpha=0.3)
        figure.tight_layout()
        figure.savefig(PLOTS / name, metadata={"Date": None})
        pyplot.close(figure)
    return True

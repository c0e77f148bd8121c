"""What scorers.py has measured, as lines of a table and as a figure."""

from __future__ import annotations

from typing import Any

HEAD = "| scorer | whose | seconds | passes | times ours | MB read | MB added | picks as ours | note |"


def line(row: dict[str, Any], own: dict[str, Any]) -> str:
    """Return a row of the Markdown table."""
    cells = [row["name"], row["who"]]
    if "seconds" in row:
        times = "" if row is own or "seconds" not in own else f"{row['seconds'] / own['seconds']:.1f}"
        cells += [f"{row['seconds']:.4f}", f"{row['seconds'] / row['read']:.1f}" if row["read"] > 1e-6 else "", times]
        cells += [f"{row['mb']:.1f}", f"{row['added']:.1f}", row.get("same", "")]
    else:
        cells += [""] * 6
    return "| " + " | ".join([*cells, row["why"].replace("|", "/")]) + " |"


def figure(growth: dict[str, dict[int, dict[str, Any]]], path: str) -> None:
    """Draw seconds and added memory over the number of candidates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for ax, measured, label in zip(axes, ("seconds", "added"), ("seconds", "MB added to the peak"), strict=True):
        for place, (name, found) in enumerate(growth.items()):
            style = {"color": f"C{place % 10}", "linestyle": ("-", "--", ":")[place // 10 % 3], "marker": "o"}
            ax.plot(list(found), [max(row[measured], 1e-4) for row in found.values()], label=name, **style)
        ax.set(xscale="log", yscale="log", xlabel="candidates", ylabel=label)
        ax.grid(alpha=0.3)
    axes[1].legend(frameon=False, fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)

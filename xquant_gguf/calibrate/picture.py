"""A plan as a picture: one row a layer in the terminal, or a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .._measuring import load_pyplot, save_plot

_BAR = 8  # characters
_MOST_BITS = 4.5
_BLOCKS = " ▏▎▍▌▋▊▉█"


def bar(part: float, width: int = _BAR) -> str:
    """A bar of ``part`` (0 to 1) of ``width`` characters, in eighths of one."""
    eighths = round(min(max(part, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_BLOCKS[rest] if rest else "")


def print_picture(plan: Mapping[str, Any]) -> None:
    """Bits and sensitivity of every layer, agreement of the pairs, and the plan's figures."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{plan['model']['name']}: bits by layer", title_justify="left")
    table.add_column("layer", justify="right")
    for side in ("key", "value"):
        table.add_column(f"{side} bits", no_wrap=True)
        table.add_column(f"KL of 1-bit {side}s", no_wrap=True)
    layers = plan["layers"]
    most = {side: max(_sensitivity(layer, side) for layer in layers) for side in "kv"}
    for layer in layers:
        cells = [str(layer["il"])]
        for side in "kv":
            bits, kl = layer[f"{side}_bits"], _sensitivity(layer, side)
            part = math.sqrt(kl / most[side]) if most[side] else 0.0
            cells += [f"{bits:<3g} {bar(bits / _MOST_BITS)}", f"{kl:.4f} {bar(part)}"]
        table.add_row(*cells)
    console.print(table)
    for line in figures(plan):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def figures(plan: Mapping[str, Any]) -> list[str]:
    """The plan's figures in words."""
    lines = []
    if plan["pairs"]:
        lines.append(
            "codes that agree within a pair of layers, above chance: "
            f"keys {_range(plan['pairs'], 'k')}, values {_range(plan['pairs'], 'v')}"
        )
    for row in plan["sharing"]:
        side = "keys" if row["side"] == "k" else "values"
        lines.append(f"sharing {side} from {row['share_from']:g} of the depth: {row['decided_by']}")
    lines.append(
        f"{plan['chosen']}: {plan['true_bits']:.3f} true bits, KL {plan['kl_measured']:.4f} nats "
        f"on {plan['tokens']} tokens that chose nothing, {plan['kl_predicted']:.4f} predicted"
    )
    return [*lines, plan["why"]]


def layers_plot(plan: Mapping[str, Any], path: str) -> None:
    """Bits by layer above, KL of one bit by layer (log scale) below.

    Raises:
        LibraryError: matplotlib is not installed.
    """
    pyplot = load_pyplot()
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(9, 6), sharex=True, layout="constrained"
    )
    layers = plan["layers"]
    for side, name, shift, colour in (
        ("k", "keys", -0.2, "tab:blue"), ("v", "values", 0.2, "tab:orange")
    ):  # fmt: skip
        at = [layer["il"] + shift for layer in layers]
        above.bar(at, [layer[f"{side}_bits"] for layer in layers], 0.4, label=name, color=colour)
        below.bar(at, [_sensitivity(layer, side) for layer in layers], 0.4, color=colour)
    above.set_ylabel("code bits")
    above.legend()
    below.set_yscale("log")
    below.set_ylabel("KL of this layer at 1 bit (nats)")
    below.set_xlabel("layer")
    figure.suptitle(
        f"{plan['model']['name']}: {plan['true_bits']:.2f} true bits, KL {plan['kl_measured']:.4f}"
    )
    save_plot(figure, path)
    pyplot.close(figure)


def _sensitivity(layer: Mapping[str, Any], side: str) -> float:
    return float(next(iter(layer[f"{side}_kl"]["predicted"].values())))


def _range(pairs: Sequence[Mapping[str, Any]], side: str) -> str:
    found = [pair[side]["above_chance"] for pair in pairs]
    return f"{100 * min(found):.0f} to {100 * max(found):.0f} %"

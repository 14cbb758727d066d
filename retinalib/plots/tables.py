"""Tables of the report: CSV for machines, Markdown for pages, LaTeX for papers, each with its protocol as caption."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from retinalib.files import write_text

_LATEX = {"_": " ", "<": "$<$", "≥": r"$\ge$", "≤": r"$\le$", "×": r"$\times$", "±": r"$\pm$", "−": "$-$", "°": r"$^\circ$"}
_LATEX |= {"ρ": r"$\rho$", "\u00a0": "~", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {sign: "\\" + sign for sign in "%&#${}"}


def paper_form(differences: pd.DataFrame) -> pd.DataFrame:
    """A table of :func:`retinalib.ablation.compare` as a paper prints it, a row per arm and measure: the difference with its
    interval in one cell, the corrected p-value, and the effect that would have been found. The caption has to say of what the
    percentages are."""
    return pd.DataFrame(
        {
            "arm": differences["arm"],
            "measure": [f"{r.measure} ({r.unit.split()[0]})" if r.unit else r.measure for r in differences.itertuples()],
            "difference [95\u00a0%]": [_with_interval(r.estimate, r.low, r.high) for r in differences.itertuples()],
            "p (Holm)": ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in differences["p_holm"]],
            "detectable": differences["detectable"],
        }
    ).set_index(["arm", "measure"])


def with_intervals(table: pd.DataFrame, intervals: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """A table as a paper prints it: each of some columns with its 95 % interval in one cell. intervals: the column's name ->
    the names of those with the interval's ends, which fall away."""
    printed = table.drop(columns=[name for ends in intervals.values() for name in ends])
    for name, (low, high) in intervals.items():
        printed[name] = [_with_interval(*values) for values in zip(table[name], table[low], table[high], strict=True)]
    return printed.rename(columns={name: f"{name} [95\u00a0%]" for name in intervals})


def write_table(table: pd.DataFrame, path: Path, caption: str, printed: pd.DataFrame | None = None) -> None:
    """``path`` with .csv (full precision), .md and .tex (booktabs), the protocol as caption; ``printed``: what the last two
    show instead. The .tex asks for nothing but ``\\usepackage{booktabs}``; its label is ``tab:<folder>-<name>``."""
    write_text(path.with_suffix(".csv"), table.to_csv())
    printed = table if printed is None else printed
    several = isinstance(printed.index, pd.MultiIndex)
    page = printed.astype(object).where(printed.notna(), None)  # whole numbers stay whole
    page = page.reset_index() if several else page
    markdown = page.to_markdown(floatfmt=".4g", index=not several, missingval="–")
    write_text(path.with_suffix(".md"), f"{markdown}\n\n{caption}\n")
    cells = printed.rename(columns=_heading, index=_latex).map(_latex)
    cells.index.names = [_latex(name) for name in cells.index.names]
    latex = cells.style.to_latex(
        hrules=True,
        caption=_latex(caption),
        label=f"tab:{path.parent.name}-{path.name}",
        position="htbp",
        column_format="l" * cells.index.nlevels + "r" * cells.shape[1],
        multirow_align="naive",
    )
    small = "\\footnotesize\\centering\\setlength{\\tabcolsep}{3pt}\n"
    write_text(path.with_suffix(".tex"), latex.replace("\\caption", small + "\\caption", 1))


def _latex(value: object) -> object:
    """A cell or a caption as LaTeX writes it; numbers with three digits."""
    if isinstance(value, str):
        return value.translate(str.maketrans(_LATEX))
    if isinstance(value, float | np.floating):
        return "--" if np.isnan(value) else f"${_number(value)}$"
    return value


def _heading(name: str) -> str:
    """A column's name in several lines, so that columns stay as narrow as their numbers."""
    return (
        r"\shortstack[r]{"
        + r"\\{}".join(_latex(line) for line in textwrap.wrap(name.replace("_", " "), 8, break_long_words=False))
        + "}"
    )


def _with_interval(middle: float, low: float, high: float) -> str:
    if np.isnan(middle):
        return "–"
    return f"{_number(middle)} [{_number(low)}, {_number(high)}]".replace("-", "−")


def _number(value: float) -> str:
    """Three digits, but all of a whole number and none of a rounding error."""
    if np.isnan(value):
        return "–"
    value = round(float(value), 6) + 0.0
    return f"{value:.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.3g}"

"""Tables and sentences of the report. A table is CSV for machines, Markdown for pages, LaTeX for papers."""

import re
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from pandas.io.formats.style import Styler

from retinalib.datasets.table import BOX
from retinalib.faces import Faces
from retinalib.files import write_text
from retinalib.pupils import pupil_table

_SIGNS = {"≥": r"$\ge$", "≤": r"$\le$", "−": "$-$", "ρ": r"$\rho$", "\u00a0": "~"}  # those that LaTeX does not know
_ESCAPED = {sign: "\\" + sign for sign in "%&#$_{}"} | {"^": r"\^{}", "~": r"\~{}", "\\": r"\textbackslash{}"}
_FITTING = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{\begin{tabular}"  # no wider than the text


def say(*lines: str) -> None:
    """Shows Markdown in a notebook, a line below the other."""
    display(Markdown(re.sub(r"(?<=\d)%(?!\w)", "\u00a0%", "\n".join(lines))))


def show_table(
    table: pd.DataFrame,
    caption: str = "",
    path: Path | None = None,
    digits: int = 3,
    counts: Sequence[str] = ("faces",),
    printed: pd.DataFrame | None = None,
) -> Styler:
    """A table as a notebook shows it, columns named in ``counts`` whole; with ``path``, :func:`write_table` writes it."""
    if path is not None:
        write_table(table, path, caption, printed)
    whole = [name for name in counts if name in table]
    shown = table.style.format(precision=digits, na_rep="").format("{:,.0f}", subset=whole)
    return shown.set_caption(caption) if caption else shown


def paper_form(differences: pd.DataFrame) -> pd.DataFrame:
    """A table of :func:`retinalib.ablation.compare` as a paper prints it, a row per arm and measure."""
    table = differences.rename(columns={"estimate": "difference", "p_holm": "p (Holm)"})
    table["measure"] += [f" ({unit.split()[0]})" if unit else "" for unit in table["unit"]]
    table["p (Holm)"] = ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in table["p (Holm)"]]
    table = with_intervals(table.set_index(["arm", "measure"]), {"difference": ("low", "high")})
    return table[["difference [95\u00a0%]", "p (Holm)", "detectable"]]


def with_intervals(table: pd.DataFrame, intervals: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """A table as a paper prints it, columns with their 95 % intervals in one cell. intervals: column -> those of its ends."""
    printed = table.drop(columns=[name for ends in intervals.values() for name in ends])
    for name, (low, high) in intervals.items():
        cells = table[[name, low, high]].map(_number).astype(str)
        printed[name] = (cells[name] + " [" + cells[low] + ", " + cells[high] + "]").where(table[name].notna(), "–")
    return printed.rename(columns={name: f"{name} [95\u00a0%]" for name in intervals})


def write_table(table: pd.DataFrame, path: Path, caption: str, printed: pd.DataFrame | None = None) -> None:
    """``path`` with .csv (all digits), .md and .tex (label ``tab:<folder>-<name>``; a paper needs the packages booktabs and
    graphicx); ``printed``: for these two."""
    write_text(path.with_suffix(".csv"), table.to_csv())
    printed = table if printed is None else printed
    several = isinstance(printed.index, pd.MultiIndex)
    page = printed.astype(object).where(printed.notna(), None)  # whole numbers stay whole
    page = page.reset_index() if several else page
    markdown = page.to_markdown(floatfmt=".4g", index=not several, missingval="–")
    write_text(path.with_suffix(".md"), f"{markdown}\n\n{caption}\n")
    cells = printed.rename_axis(index=lambda name: name and name.replace("_", " "))
    cells.columns = [name.replace("_", " ") for name in cells]
    styled = cells.style.format(lambda v: _number(v) if isinstance(v, float) else v, escape="latex")
    styled.format_index(lambda name: f"{name:g}" if isinstance(name, float) else name, axis=0, escape="latex")
    lines = partial(textwrap.wrap, width=10, break_long_words=False)
    styled.format_index(lambda name: r"\shortstack[r]{" + r"\\{}".join(lines(name)) + "}", axis=1, escape="latex")
    latex = styled.to_latex(
        hrules=True,
        caption=caption.replace(" %", "\u00a0%").translate(str.maketrans(_ESCAPED)),
        label=f"tab:{path.parent.name}-{path.name}",
        position="htbp",
        column_format="l" * cells.index.nlevels + "r" * cells.shape[1],
        multirow_align="naive",
    ).translate(str.maketrans(_SIGNS))
    latex = latex.replace(r"\begin{tabular}", _FITTING).replace(r"\end{tabular}", r"\end{tabular}}")
    small = "\\footnotesize\\centering\\setlength{\\tabcolsep}{3pt}\\setlength{\\belowcaptionskip}{4pt}\n"
    write_text(path.with_suffix(".tex"), latex.replace("\\caption", small + "\\caption", 1))


def _number(value: float) -> str:
    """Three digits, but all of a whole number and none of a rounding error; – for NaN."""
    if np.isnan(value):
        return "–"
    value = round(float(value), 6) + 0.0
    return (f"{value:.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")


def face_table(faces: Faces) -> pd.DataFrame:
    """A row per face: number, box and score, and the columns of :func:`retinalib.pupils.pupil_table` where there are pupils."""
    table = pd.DataFrame(faces.boxes, columns=BOX).assign(score=faces.scores)
    table.insert(0, "face", np.arange(len(faces)))
    return table.join(pupil_table(faces).drop(columns="score")) if faces.schema.has_pupils else table


def face_records(faces: Faces) -> list[dict]:
    """Plain values for JSON: box, score, landmarks and whether they lie in the photo, in pixels to the hundredth."""
    rows = zip(faces.boxes, faces.scores, faces.landmarks, faces.visible, strict=True)
    return [
        {
            "box": np.round(box.astype(float), 2).tolist(),
            "score": round(float(score), 4),
            "landmarks": np.round(points.astype(float), 2).tolist(),
            "visible": visible.tolist(),
        }
        for box, score, points, visible in rows
    ]

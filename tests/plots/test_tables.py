import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from retinalib.plots.tables import paper_form, show_table, with_intervals, write_table
from retinalib.workspace import PROJECT


def differences():
    columns = "arm measure unit better estimate low high p_value p_holm detectable seeds photos".split()
    rows = [
        ("se_16", "mean NME", "% of inter-ocular", "lower", -0.5123, -1.0, -7e-17, 0.01, 0.04, 1.25, 3, 488),
        ("se_16", "AP", "", "higher", 0.00337, -0.002, 0.009, 1e-9, 3e-9, 0.0123456, 3, 488),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_tables_are_written_for_paper_page_and_machine(tmp_path):
    table = pd.DataFrame({"median_nme": [0.0512345, np.nan], "faces": [100300, 7]}, index=pd.Index(["no_se", "b"], name="arm"))
    write_table(table, tmp_path / "tables" / "t", "50 % of 3 photos, IoU ≥ 0.5")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables/t.csv", index_col=0), table)
    page = (tmp_path / "tables/t.md").read_text()
    assert "50 % of 3 photos" in page and "| no_se" in page and "0.05123" in page and "100300" in page
    assert "–" in page and "nan" not in page
    latex = (tmp_path / "tables/t.tex").read_text()
    assert r"\toprule" in latex and r"50~\% of 3 photos, IoU $\ge$ 0.5" in latex and r"\shortstack[r]{median nme}" in latex
    assert r"no\_se & 0.0512 & 100300" in latex and "b & – & 7" in latex and r"\label{tab:tables-t}" in latex


def test_a_paper_prints_differences_with_their_intervals(tmp_path):
    printed = paper_form(differences())
    assert printed.iloc[:, 0].tolist() == ["−0.512 [−1, 0]", "0.00337 [−0.002, 0.009]"]
    assert printed["p (Holm)"].tolist() == ["0.040", "< 0.001"] and printed.index[0] == ("se_16", "mean NME (%)")
    write_table(differences(), tmp_path / "d", "x", printed)
    assert "photos" in (tmp_path / "d.csv").read_text() and "photos" not in (tmp_path / "d.md").read_text()
    assert "| se_16 | mean NME (%) | −0.512" in " ".join((tmp_path / "d.md").read_text().split())
    assert r"$-$0.512 [$-$1, 0] & 0.040 & 1.25" in (tmp_path / "d.tex").read_text()
    assert r"\shortstack[r]{difference\\{}[95~\%]}" in (tmp_path / "d.tex").read_text()
    assert len(paper_form(differences()[:0])) == 0


def test_intervals_share_their_number_s_cell():
    table = pd.DataFrame({"faces": [3, 4], "median": [2.5, np.nan], "low": [-1.0, np.nan], "high": [4.25, np.nan]})
    printed = with_intervals(table, {"median": ("low", "high")})
    assert printed.to_dict("list") == {"faces": [3, 4], "median [95\u00a0%]": ["2.5 [−1, 4.25]", "–"]}
    assert "low" in table and with_intervals(table[:0], {"median": ("low", "high")}).empty


def test_a_notebook_shows_counts_whole_and_writes_what_it_shows(tmp_path):
    table = pd.DataFrame({"faces": [1234.0], "nme": [0.05123], "auc": [np.nan]}, index=["a"])
    page = show_table(table, "50 photos", tmp_path / "t").to_html()
    assert all(part in page for part in ("1,234", "0.051", "50 photos")) and "nan" not in page
    assert "50 photos" in (tmp_path / "t.md").read_text()


def test_the_reports_labels_differ():
    labels = [
        part.split("}")[0]
        for path in (PROJECT / "figures/tables").rglob("*.tex")
        for part in path.read_text().split(r"\label{")[1:]
    ]
    assert len(labels) > 5 and len(set(labels)) == len(labels)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_tables_compile_in_an_article(tmp_path):
    """Those of the report, and one with every sign that LaTeX wants for itself."""
    signs = "a_b 5 % & # $ {} ~ ^ \\ ≥ ≤ × ± − ° – < é ρ"
    write_table(pd.DataFrame({signs: [signs], "v": [1.5]}, index=[signs]), tmp_path / "signs", signs)
    write_table(differences(), tmp_path / "differences", "the protocol", paper_form(differences()))
    write_table(pd.DataFrame(np.ones((1, 40)), pd.Index([0.01])).add_prefix("measure "), tmp_path / "wide", "40 measures")
    shutil.copytree(PROJECT / "figures/tables", tmp_path / "report")
    inputs = [rf"\input{{{path.relative_to(tmp_path).as_posix()}}}" for path in sorted(tmp_path.rglob("*.tex"))]
    article = "\n".join(
        [r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}", *inputs, r"\end{document}"]
    )
    (tmp_path / "article.tex").write_text(article)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "article.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if line.startswith(("!", "l.")))
    assert (tmp_path / "article.pdf").stat().st_size > 10_000
    assert "Overfull" not in done.stdout.split("wide.tex")[1].split(")")[0]

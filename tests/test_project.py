"""What the project says of itself agrees with itself."""

import re
import tomllib

import nbformat
import pytest
import yaml

from retinalib.workspace import PROJECT

CONDA_NAMES = {"pytorch": "torch"}


def test_environment_has_the_packages_of_pyproject():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *(p for extra in project["optional-dependencies"].values() for p in extra)}
    wanted = {package for package in wanted if not package.startswith("retinalib[")}  # one extra includes another
    listed = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    from_pip = next(item["pip"] for item in listed if isinstance(item, dict))
    listed = {item for item in [*listed, *from_pip] if isinstance(item, str)} - {"pip", "-e ."}
    assert f"python{project['requires-python']}" in listed
    listed.remove(f"python{project['requires-python']}")
    renamed = {re.sub(r"^[a-z]+", lambda m: CONDA_NAMES.get(m[0], m[0]), item) for item in listed}
    assert renamed == wanted


def test_imports_run_downwards():
    """A module imports only from floors below its own; plots need no torch."""
    floors = {
        **dict.fromkeys(("landmarks", "files", "memory", "precision", "distributed"), 0),
        "faces": 0.5,
        **dict.fromkeys(("datasets", "anchors", "eyes", "shapes", "statistics", "tables"), 1),
        **dict.fromkeys(("augment", "model", "reach", "wider_protocol"), 2),
        **dict.fromkeys(("loss", "checkpoint"), 3),
        "plain": 4,
        **dict.fromkeys(("batches", "runs"), 4),
        **dict.fromkeys(("evaluate", "pupils"), 3),
        "gaze": 4,
        "detect": 4,
        "anatomy": 4.5,
        **dict.fromkeys(("train", "consistency", "excitation", "export"), 5),
        "ablation": 6,
        **dict.fromkeys(("plots", "workspace"), 7),
        **dict.fromkeys(("widgets", "workbook", "cli", "benchmark"), 8),
    }
    pattern = re.compile(r"^(?:from retinalib\.(\w+)|import retinalib\.(\w+))", re.MULTILINE)
    found = 0
    for path in (PROJECT / "retinalib").rglob("*.py"):
        own = path.relative_to(PROJECT / "retinalib").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        text = path.read_text()
        for match in pattern.finditer(text):
            used = match[1] or match[2]
            found += 1
            assert used == own or floors[used] < floors[own], f"{path.name} ({own}) imports {used}"
        if own == "plots":
            assert not re.search(r"^(import torch|from torch)", text, re.MULTILINE), f"{path} imports torch"
    assert found > 20


def test_the_lab_listens_on_this_machine_only_and_keeps_its_token():
    recipe = (PROJECT / "Makefile").read_text().split("\nlab:")[1].split("\n\n")[0]
    assert "--ip=127.0.0.1" in recipe and not re.search("token|password|allow_origin|allow_remote", recipe, re.IGNORECASE)


PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "data/checkpoints/README.md")]
PAGES += sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_links(page):
    """What a page points to in the project is there, headings too; a picture has a text for those who don't see it."""
    broken = [target for _, target in _links(_text(page)) if not re.match(r"https?:", target) and not _there(page, target)]
    assert not broken
    assert all(words.strip() for words, target in _links(_text(page)) if target.endswith((".png", ".jpg", ".svg")))


def test_pages_link_to_something():
    assert sum(len(_links(_text(page))) for page in PAGES) > 20


def _text(page):
    if page.suffix == ".md":
        return page.read_text()
    return "\n".join(cell.source for cell in nbformat.read(page, 4).cells if cell.cell_type == "markdown")


def _links(text):
    """(words, target) of links and pictures, in Markdown or as an HTML image."""
    text = re.sub(r"(?s)```.*?```", "", text)
    tags = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<img [^>]*>", text)]
    images = [(tag.get("alt", ""), tag["src"]) for tag in tags]
    return re.findall(r"\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)", text) + images


def _there(page, target):
    path, _, heading = target.partition("#")
    file = page.parent / path if path else page
    if not heading or not file.exists():
        return file.exists()
    titles = re.findall(r"(?m)^#+ (.+)$", _text(file))
    return heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_citation():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] and citation["license"] == "MIT"
    assert citation["title"] in (PROJECT / "README.md").read_text()

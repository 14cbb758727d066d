"""What the project says of itself agrees with itself."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml

from retinalib.workspace import PROJECT

CONDA_NAMES = {"pytorch": "torch"}
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md")]
PAGES += [PROJECT / folder / "README.md" for folder in ("benchmarks", "data", "data/checkpoints")]
PAGES += sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def pyproject():
    """The table ``project``, and all packages that it asks for."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    packages = {*project["dependencies"], *(p for extra in project["optional-dependencies"].values() for p in extra)}
    return project, {package for package in packages if not package.startswith("retinalib[")}  # one extra includes another


def test_environment_has_the_packages_of_pyproject():
    project, wanted = pyproject()
    listed = yaml.safe_load((PROJECT / "environment.yml").read_text())["dependencies"]
    from_pip = next(item["pip"] for item in listed if isinstance(item, dict))
    listed = {item for item in [*listed, *from_pip] if isinstance(item, str)} - {"pip", "-e ."}
    renamed = {re.sub(r"^[a-z]+", lambda m: CONDA_NAMES.get(m[0], m[0]), item) for item in listed}
    assert renamed == wanted | {f"python{project['requires-python']}"}


def test_every_imported_package_is_declared():
    declared = {re.match(r"[\w-]+", package)[0] for package in pyproject()[1]}
    sources = {
        path: path.read_text() for folder in ("retinalib", "benchmarks", "tests") for path in (PROJECT / folder).rglob("*.py")
    }
    sources |= {path: _cells(path, "code") for path in PAGES if path.suffix == ".ipynb"}
    imported = {}
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported[node.module.split(".")[0]] = path
    foreign = imported.keys() - sys.stdlib_module_names - {"retinalib", "benchmarks", "tests"}
    known = packages_distributions()
    undeclared = {name: imported[name] for name in foreign if not declared & {n.lower() for n in known.get(name, [name])}}
    assert len(foreign) > 20 and not undeclared


def test_imports_run_one_way():
    """The layers and contracts in pyproject.toml, imports inside functions among them."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[done.stdout.find("Contracts") :]


def test_the_lab_listens_on_this_machine_only_and_keeps_its_token():
    recipe = (PROJECT / "Makefile").read_text().split("\nlab:")[1].split("\n\n")[0]
    assert "--ip=127.0.0.1" in recipe and not re.search("token|password|allow_origin|allow_remote", recipe, re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_links(page):
    """What a page points to in the project is there, headings too; a picture has a text for those who don't see it."""
    links = _links(_text(page))
    assert not [target for _, target in links if not re.match(r"https?:", target) and not _there(page, target)]
    assert all(words.strip() for words, target in links if target.endswith((".png", ".jpg", ".svg")))


def test_pages_link_to_something():
    assert sum(len(_links(_text(page))) for page in PAGES) > 20


def _cells(notebook, kind):
    return "\n".join(cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == kind)


def _text(page):
    return page.read_text() if page.suffix == ".md" else _cells(page, "markdown")


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
    assert citation["version"] == pyproject()[0]["version"] and citation["license"] == "MIT"
    assert citation["title"] in (PROJECT / "README.md").read_text()

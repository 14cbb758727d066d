"""What the project says of itself agrees with itself."""

import re
import tomllib

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
        **dict.fromkeys(("landmarks", "files", "distributed"), 0),
        "faces": 0.5,
        **dict.fromkeys(("datasets", "anchors", "eyes", "shapes", "statistics", "tables"), 1),
        **dict.fromkeys(("augment", "model", "reach", "wider_protocol"), 2),
        **dict.fromkeys(("loss", "checkpoint", "anatomy"), 3),
        **dict.fromkeys(("batches", "runs"), 4),
        **dict.fromkeys(("evaluate", "pupils"), 3),
        "gaze": 4,
        "detect": 4,
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

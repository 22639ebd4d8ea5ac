"""Properties of the repository itself: what imports what, what lies where, and what no file may say."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import archgen
from archgen.space import load_space
from archgen.text import ArchBERT

ROOT = Path(__file__).parents[1]
LAYERS = (  # a module imports only from layers before its own
    {"graph", "hub", "synchronize", "checks", "language", "meaning", "processes"},
    {"space", "images", "results", "plot", "pareto", "calibrate", "gaussian", "unpickle"},
    {"build", "features", "ensemble", "evidence"},
    {"spaces"},
    {"constraint", "denoiser", "scheduler", "predictor", "benchmark", "draw", "export", "classifier"},
    {
        "gradient",
        "guidance",
        "latency",
        "trainer",
        "descent",
        "convert",
        "task",
        "taskset",
        "pool",
        "goal",
        "show",
        "numerals",
        "vocabulary",
        "adapt",
    },
    {"wishes", "steering", "study", "slots", "spelling"},
    {"counts", "mixes", "traits", "wholes"},
    {"phrases"},
    {"sampler", "curves", "explore", "baselines", "caption"},
    {"reading"},
    {"beams", "describe"},
    {"corpus"},
    {"text"},
    {"understanding", "train_text"},
    {"pipeline"},
    {"evaluate", "fit", "ask", "train_told"},
    {"train", "search"},
    {"finetune"},
    {"cli"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(path for path in ROOT.glob("archgen/**/*.py") if path.name != "__init__.py")
CHECKPOINTS = sorted(path.parent.name for path in ROOT.glob("checkpoints/*/model_index.json"))
SHIPPED = {"nasbench201", "nasbench101", "mnasnet", "mobilenetv3"}
MACHINE = re.compile(r"(?<![\w.])/(work|farm|tmp|root|opt)/")
INDEX = re.compile(r"\b(index[-_]url|find[-_]links)\b|(download\.pytorch|pythonhosted|/pypi)[\w.]*/(whl|simple)")


def layer_of(dotted: str) -> str:
    """`archgen.spaces.nasbench201` belongs to `spaces`; a public name of the package to the module it comes from."""
    words = archgen._HOME.get(dotted.removeprefix("archgen."), dotted).split(".")
    return words[1] if len(words) > 1 else ""


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Layers of archgen that a module imports at any depth, other than for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for branch in node.orelse:
                yield from imports(ast.Module([branch], []), package)
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        yield from (layer_of(name) for name in names if name.split(".")[0] == "archgen")
        yield from imports(node, package)


def tracked_files() -> list[Path]:
    """Files that git tracks or, unless they are ignored, would add."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    package = ".".join(path.parent.relative_to(ROOT).parts)
    own = layer_of(f"{package}.{path.stem}")
    assert own in RANK, f"give {own} a place in LAYERS"
    names = set(imports(ast.parse(path.read_text(encoding="utf-8")), package)) & RANK.keys()
    assert {name for name in names if RANK[name] >= RANK[own]} == set()


def test_the_walk_sees_every_form_of_import():
    """Inside functions, relative, through the package's public names; not under TYPE_CHECKING."""
    source = """
        import archgen.graph
        from archgen.spaces.nasbench201 import SPACE
        from .. import hub
        from ..build import Builder
        from archgen import ArchitecturePipeline, __version__
        def function():
            try:
                from archgen import cli
            finally:
                import torch
        if TYPE_CHECKING:
            from archgen.train import train
        else:
            import archgen.draw as draw
    """
    found = set(imports(ast.parse(re.sub("^ {8}", "", source, flags=re.MULTILINE)), "archgen.spaces"))
    assert found & RANK.keys() == {"graph", "spaces", "hub", "build", "pipeline", "cli", "draw"}


@pytest.mark.parametrize("folder", ["datasets", "training", "sampling", "checkpoints"])
def test_folders_of_data_are_no_packages(folder):
    """A package called `datasets` would shadow Hugging Face's."""
    assert list((ROOT / folder).glob("**/__init__.py")) == []


@pytest.mark.parametrize("key", CHECKPOINTS)
def test_one_key_in_five_places(key):
    """The checkpoint `<space>` or `<space>-suffix`, its recipes, the space and its card."""
    declared = json.loads((ROOT / "checkpoints" / key / "model_index.json").read_text(encoding="utf-8"))["space"]
    space = load_space(declared).name
    assert key == space or key.startswith(f"{space}-")
    for place in (f"training/{key}.yaml", f"sampling/{key}.yaml", f"datasets/{space}/README.md"):
        assert (ROOT / place).is_file(), place
    recipe = yaml.safe_load((ROOT / "training" / f"{key}.yaml").read_text(encoding="utf-8"))
    assert load_space(recipe["space"]).name == space
    assert recipe["out"] == f"checkpoints/{key}"


def test_four_checkpoints_are_shipped():
    assert set(CHECKPOINTS) >= SHIPPED


@pytest.mark.parametrize("key", CHECKPOINTS)
def test_generators_hear_the_text_model_that_is_shipped(key):
    """What steers by the tokens of a text model knows no other's."""
    folder = ROOT / "checkpoints" / key
    told = json.loads((folder / "training.json").read_text(encoding="utf-8")).get("told")
    assert (told is not None) == (folder / "text_denoiser").is_dir()
    if told is not None:
        settings = json.loads((folder / "text_denoiser" / "config.json").read_text(encoding="utf-8"))
        assert settings["hears"] == ArchBERT.load("archbert").heard_sha256()


def test_checkpoints_are_small():
    files = [path for path in ROOT.glob("checkpoints/**/*") if path.is_file() and "state" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 60e6


@pytest.mark.parametrize("action", ["import archgen", "import archgen.cli; archgen.cli.main(['--help'])"])
def test_starting_is_instant(action):
    """Each of these takes seconds to import, so they wait until they are needed."""
    program = f"import sys; {action}; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"torch", "torch_geometric", "diffusers", "transformers", "accelerate", "wandb", "matplotlib", "pyarrow"}
    assert heavy & set(done.stderr.split()) == set()


def test_no_file_names_a_machine():
    """Neither a path of the machine it was written on, nor the index that pip read there."""
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            lines = enumerate(content.decode(errors="replace").splitlines(), 1)
            found += [
                f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
                for number, line in lines
                if MACHINE.search(line) or INDEX.search(line)
            ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("open('{}tmp/x')", True),
        ("{}work/main", True),
        ("https://example.org{}opt/", False),
        ("self.root{}work", False),
        ("--extra-index{}url", True),
        ("https://pypi.org{}simple", True),
        ("https://pypi.org/project{}archgen", False),
    ],
)
def test_machine_names_are_told_from_others(text, named):
    text = text.format("-" if "index" in text else "/")
    assert bool(MACHINE.search(text) or INDEX.search(text)) == named


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert archgen.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

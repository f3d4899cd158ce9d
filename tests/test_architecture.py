"""The walls of the house, checked: one loop, layers, sizes, no heavy import where it is not needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import expunge
from expunge import catalog
from studies import docs

ROOT = Path(expunge.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LARGEST = 280  # code lines of a file; past that, look for the missing abstraction
LARGER = {"benchmarks/people.py": 300}  # tables of words
CORE = 1_000  # lines of `core/` altogether

# Rooms, lowest first: a room imports only rooms above it in this list. `__init__` and `__main__` open the house and import anything.
ROOMS = (
    "core",
    "functional",
    "catalog",
    "engine",
    "report",
    "modalities",
    "methods",
    "io",
    "benchmarks",
    "parallel",
    "evaluation",
    "workflows",
    "service",
    "cli",
)
DOORS = {"__init__", "__main__"}
VAGUE = {"found", "seen", "there", "made", "said", "told", "mine"}  # they say that something was done, and not what it is
OPTIONAL = ("datasets", "peft", "pyarrow", "diffusers", "ray", "kronfluence", "lm_eval", "plotly", "vllm")


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports."""
    package = ("expunge", *path.relative_to(ROOT).parent.parts)
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            yield from (f"{base}{node.module or ''}.{a.name}".replace("..", ".") for a in node.names)


def code(path: Path) -> str:
    """The source without docstrings and comments."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def code_lines(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring."""
    text = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [n.body[0] for n in ast.walk(ast.parse(text)) if isinstance(n, documented) and ast.get_docstring(n)]
    skipped = {line for d in docs for line in range(d.lineno, (d.end_lineno or d.lineno) + 1)}
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(s.strip()) and not s.lstrip().startswith("#") and i not in skipped for i, s in lines)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_gradients_are_taken_in_one_place(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    if place != "engine/gradient.py" and not place.startswith("engine/estimators/"):
        assert not re.search(r"backward\(|autograd\.grad\(", code(path))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_every_file_and_folder_has_a_room() -> None:
    assert {room_of(p) for p in FILES} - DOORS <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_rooms_above_them(path: Path) -> None:
    room = room_of(path)
    if room in DOORS:
        return
    used = {m[1] for name in imports(path) if (m := re.match(r"expunge\.(\w+)", name))}
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert used <= allowed, f"{path} reaches for {used - allowed}"


def test_there_are_no_circles() -> None:
    """All imports count: those under TYPE_CHECKING and inside functions too."""
    modules = {".".join(("expunge", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        if room_of(path) not in DOORS:
            names = set(imports(path))
            graph[module] = {n if n in modules else n.rpartition(".")[0] for n in names} & modules.keys() - {module, "expunge"}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_core_is_small_and_imports_torch_alone() -> None:
    """And pydantic, which validates hyperparameters."""
    files = sorted((ROOT / "core").rglob("*.py"))
    assert sum(len(p.read_text().splitlines()) for p in files) <= CORE
    for path in files:
        used = {n.split(".")[0] for n in imports(path)} - {"expunge"} - sys.stdlib_module_names
        assert used <= ({"torch", "pydantic"} if path.name == "hyperparameters.py" else {"torch"}), path


def test_no_private_name_crosses_folders() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not [a.name for a in node.names if a.name.startswith("_") and not a.name.startswith("__")], (
                    f"{path} imports a private name"
                )


def test_public_class_names_are_unique() -> None:
    homes: dict[str, Path] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in homes, f"{node.name}: {homes[node.name]} and {path}"
                homes[node.name] = path


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """Every name that a file defines or uses, with its line."""
    spelled = {ast.Name: "id", ast.arg: "arg", ast.keyword: "arg", ast.Attribute: "attr", ast.alias: "asname"}
    spelled |= dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar), "name")
    for node in ast.walk(ast.parse(path.read_text())):
        if name := getattr(node, spelled.get(type(node), ""), None):
            yield name, node.lineno  # type: ignore[attr-defined]


def test_names_say_what_a_thing_is() -> None:
    files = [*FILES, *sorted(Path(__file__).parent.rglob("*.py"))]
    vague = [f"{p.name}:{line}: {name}" for p in files for name, line in identifiers(p) if name.strip("_").lower() in VAGUE]
    assert not vague, "name the thing that it holds"


@pytest.mark.parametrize("path", sorted((ROOT / "core").rglob("*.py")), ids=lambda p: p.name)
def test_core_knows_no_name_of_the_catalogue_and_no_tokens(path: Path) -> None:
    words = set(re.findall(r"[a-z_]+", code(path).lower()))
    everything = {n for kind in ("methods", "metrics", "benchmarks") for n in catalog.names(kind)}
    everything -= {"finetune", "relearn", "fisher", "pop", "people"}  # words of statistics, of mappings and of English, too
    assert not words & everything
    assert not words & {"tokenizer", "input_ids", "attention_mask", "pixel_values"}


def test_a_short_repr_names_what_the_object_has() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            calls = [d for d in getattr(node, "decorator_list", ()) if isinstance(d, ast.Call) and ast.unparse(d.func) == "brief"]
            if not calls:
                continue
            shown = {ast.literal_eval(a) for call in calls for a in call.args}
            fields = {n.target.id for n in ast.walk(node) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
            fields |= {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef)}
            fields |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
            assert shown <= fields, f"{path.name}: {ast.unparse(node)[:60]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert code_lines(path) <= LARGER.get(str(path.relative_to(ROOT)), LARGEST)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_optional_import_at_the_top(path: Path) -> None:
    top = {name.split(".")[0] for name in imports(path, top_only=True)}
    assert not top & set(OPTIONAL)


@pytest.mark.parametrize("command", [["--help"], ["list"], ["show", "npo"]], ids=" ".join)
def test_help_and_lists_import_no_torch(command: list[str]) -> None:
    script = (
        f"import sys; sys.argv = ['expunge', *{command}]\nfrom expunge.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


SERVICE = (
    "sqlalchemy",
    "cryptography",
    "rfc8785",
    "psycopg",
    "securesystemslib",
    "starlette",
    "uvicorn",
    "argon2",
    "httpx2",
)  # of its extra


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) != "service"], ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_service_needs_its_extra_and_nothing_needs_the_service(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & set(SERVICE)
    assert not [name for name in imports(path, top_only=True) if name.startswith("expunge.service")]


@pytest.mark.parametrize("words", [["--help"], ["request", "--help"], ["request", "add", "--help"], ["list"]], ids=" ".join)
def test_importing_the_package_and_help_import_nothing_of_the_service(words: list[str]) -> None:
    script = (
        f"import sys; sys.argv = ['expunge', *{words}]\nimport expunge\nfrom expunge.cli.app import main\n"
        f"try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"assert not {{*{SERVICE}, 'expunge.service'}} & sys.modules.keys(), {{*{SERVICE}}} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_no_method_inherits_from_a_method() -> None:
    """Abstract or final: parts of methods derive from abstract classes alone: the core's, and those of shared terms and of rewards."""
    abstract = {"Part", "Objective", "Update", "Selector", "Stop", "Edit", "Guard", "ByDesign", "SetTerm", "Reward"}
    for path in sorted((ROOT / "methods").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(isinstance(d, ast.Name) and d.id == "part" for d in node.decorator_list):
                assert {ast.unparse(b) for b in node.bases} <= abstract, f"{path.name}: {node.name}"


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in catalog.kinds() for n in catalog.names(k)])
def test_every_card_is_complete(kind: str, name: str) -> None:
    card = catalog.card(name, kind)
    wanted = {"methods": ("Equation", "Source", "Needs", "Cost", "Differs", "Status")}.get(kind, ("Source", "Status"))
    assert card.summary
    assert all(card.fields.get(f) for f in wanted), f"{name} lacks {[f for f in wanted if not card.fields.get(f)]}"
    assert docs.status(card) in docs.STATUS


FREE = ("modalities/", "evaluation/profiles/", "report/panels/")  # may say the name of a modality


def strings(path: Path) -> set[str]:
    """String constants of a file, docstrings left out."""
    return {n.value for n in ast.walk(ast.parse(code(path))) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_modality_is_asked_for_by_name(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    if place.startswith(FREE):
        return
    source = code(path)
    assert not re.search(r"(hasattr|getattr)\((\w+\.)*modality,", source), "ask for a capability"
    known = {*catalog.names("modalities"), *catalog.names("profiles")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = any(isinstance(s, ast.Attribute) and s.attr in ("modality", "name") for s in sides)
            constants = {c.value for s in sides for c in ast.walk(s) if isinstance(c, ast.Constant)}
            assert not (named and constants & known), ast.unparse(node)


def test_scores_are_named_where_they_are_defined_alone() -> None:
    """In the files of metrics and attacks, and where a profile or a panel speaks of them."""
    from expunge.evaluation.scoring import families

    homes = {Path(str(family.__file__)): family.SCORES.keys() for family in families()}
    for path in FILES:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(("evaluation/profiles/", "report/panels/")):
            continue
        texts = strings(path)
        for home, scores in homes.items():
            assert home == path or not (texts & scores) - homes.get(path, set()), place


def test_a_metric_says_what_its_scores_are() -> None:
    from expunge.evaluation.scoring import families

    for family in families():
        for name, spec in family.SCORES.items():
            assert spec.meaning, name
            assert spec.meaning[0].islower(), "one line that goes on from the name"
            assert not spec.meaning.endswith("."), name


def test_no_two_test_files_share_a_name() -> None:
    """They would be one module to Python, and the second one would not be collected."""
    files = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "__init__.py"]
    assert sorted({name for name in files if files.count(name) > 1}) == []

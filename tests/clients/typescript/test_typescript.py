"""The TypeScript packages: both module systems, packed and installed as a stranger would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.clients.conftest import API_KEY
from tests.clients.typescript.npm import WORKSPACE, run
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from tests.integration.stack import RunningStack

HERE: Final = Path(__file__).parent
GENERATED: Final = ("types/src/openapi.ts", "types/src/zod.ts")
PACKAGES: Final = ("types", "client")
ESBUILD: Final = "0.28.2"
"""Only a consumer's: the packages themselves are built by TypeScript alone."""
BUNDLE: Final = """
const [esbuild, source, outfile] = process.argv.slice(1);
const options = { bundle: true, platform: "browser", format: "esm", minify: true };
require(esbuild).buildSync({ ...options, entryPoints: [source], outfile });
"""

both_module_systems = pytest.mark.parametrize("system", ["esm", "cjs"])


@pytest.mark.usefixtures("built")
@both_module_systems
@pytest.mark.parametrize("file", ["vectors", "zod"])
def test_against_scripted_replies(file: str, system: str) -> None:
    """What clients/vectors.json says, and what the schemas refuse."""
    run("--node", "--test", str(HERE / f"{file}.test.mjs"), MODULE_SYSTEM=system)


@pytest.mark.usefixtures("built")
@both_module_systems
def test_against_the_running_service(service: RunningStack, system: str) -> None:
    """Scores, rankings, errors, aborted calls."""
    environment = {"AESTHETIC_URL": service.url, "AESTHETIC_API_KEY": API_KEY, "MODULE_SYSTEM": system}
    run("--node", "--test", str(HERE / "service.test.mjs"), **environment)


@pytest.mark.usefixtures("built")
def test_generated_files_are_not_stale(tmp_path: Path) -> None:
    """They are what the generators make of clients/openapi.json."""
    for name in GENERATED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    openapi, zod = (str(tmp_path / name) for name in GENERATED)
    document = str(CHECKOUT / "clients/openapi.json")
    run("--node", "node_modules/openapi-typescript/bin/cli.js", document, "--output", openapi)
    run("--node", "types/scripts/zod.mjs", document, zod)
    for name in GENERATED:
        assert (tmp_path / name).read_text() == (WORKSPACE / name).read_text(), f"{name}: npm.sh run generate"


def test_the_lockfile_names_no_registry() -> None:
    """Whoever installs takes the packages from where they take packages."""
    packages = json.loads((WORKSPACE / "package-lock.json").read_text())["packages"].values()
    assert {package["resolved"] for package in packages if "resolved" in package} == set(PACKAGES)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project with the packed packages, Zod, TypeScript and a bundler installed."""
    directory = tmp_path_factory.mktemp("consumer")
    for package in PACKAGES:
        run("pack", f"./{package}", "--pack-destination", str(directory))
    project = directory / "project"
    project.mkdir()
    (project / "package.json").write_text('{"private": true}')
    names = json.loads((WORKSPACE / "package-lock.json").read_text())["packages"]
    others = [f"{name}@{names[f'node_modules/{name}']['version']}" for name in ("zod", "typescript")]
    others.append(f"esbuild@{ESBUILD}")
    archives = [str(path) for path in sorted(directory.glob("*.tgz"))]
    assert len(archives) == 2
    run("install", "--prefix", str(project), *archives, *others)
    return project


@pytest.mark.parametrize("system", ["module", "commonjs"])
@pytest.mark.parametrize(
    "options",
    [("--module", "NodeNext"), ("--module", "ES2022", "--moduleResolution", "Bundler")],
    ids=["NodeNext", "Bundler"],
)
def test_packed_packages_type_check_under_strict(
    installed: Path, options: tuple[str, ...], system: str
) -> None:
    """In both module systems; once with the checks of libraries on, which take most of the time."""
    project = installed.parent / f"{system}-{options[1]}"
    shutil.copytree(HERE / "consumer", project)
    (project / "package.json").write_text(json.dumps({"private": True, "type": system}))
    (project / "node_modules").symlink_to(installed / "node_modules")
    strict = ("--strict", "--noEmit", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess")
    tsc = str(installed / "node_modules/typescript/bin/tsc")
    target = ("--target", "ES2022", "--skipLibCheck", str("NodeNext" not in options).lower())
    run("--node", tsc, *strict, *target, *options, str(project / "use.ts"))


@pytest.mark.parametrize(
    ("package", "is_there", "is_not"),
    [("client", "X-API-Key", "ZodError"), ("types/zod", "ZodError", "X-API-Key")],
)
def test_a_bundler_makes_them_ready_for_a_browser(
    installed: Path, package: str, is_there: str, is_not: str
) -> None:
    """Nothing of Node's is needed, and nothing comes along that was not imported."""
    bundle = installed / "bundle.js"
    source = installed / "page.js"
    source.write_text(f'export * from "@lilith/imajin-aesthetic-{package}";\n')
    esbuild = str(installed / "node_modules/esbuild")
    run("--node", "-e", BUNDLE, esbuild, str(source), str(bundle))
    assert is_there in bundle.read_text()
    assert is_not not in bundle.read_text()


@pytest.mark.parametrize(
    ("suffix", "program"),
    [
        ("mjs", 'import { AestheticClient } from "@lilith/imajin-aesthetic-client"; AestheticClient.name'),
        ("cjs", 'require("@lilith/imajin-aesthetic-client").AestheticClient.name'),
    ],
)
def test_packed_packages_run_without_zod(installed: Path, tmp_path: Path, suffix: str, program: str) -> None:
    """The client needs only the types package, which needs nothing."""
    scope = tmp_path / "node_modules/@lilith"
    shutil.copytree(installed / "node_modules/@lilith", scope)
    assert sorted(path.name for path in scope.iterdir()) == [
        "imajin-aesthetic-client",
        "imajin-aesthetic-types",
    ]
    (tmp_path / f"use.{suffix}").write_text(program)
    run("--node", str(tmp_path / f"use.{suffix}"))

"""The client packages: versions, licenses, examples, and the checks of `make packages`."""

from __future__ import annotations

import io
import json
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from clients.packages import artifacts, example
from clients.runner import languages
from tests.support.paths import ROOT

CLIENTS = ROOT / "clients"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PACKAGES = languages.load()
VERSIONS = {
    "cpp": ("CMakeLists.txt", r"^project\(\w+ VERSION ([\d.]+) "),
    "go": ("scenario/go.mod", r"^\tjobclient v([\d.]+)$"),
    "java": ("pom.xml", r"^  <version>([\d.]+)</version>$"),
    "python": ("pyproject.toml", r'^version = "([\d.]+)"$'),
    "rust": ("Cargo.toml", r'^version = "([\d.]+)"$'),
    "typescript": ("package.json", r'^  "version": "([\d.]+)",$'),
}
# Lines that every program of the language has.
BOILERPLATE = re.compile(
    r"^\W*$|^(package|import|from|use|using|#include|func main|async fn main|int main|public class)\b|^\s*(pb )?\""
    r"|^\s*(if err != nil|log\.Fatal\()"
)


@pytest.mark.parametrize("language", PACKAGES, ids=lambda each: each.name)
def test_each_package_has_the_version_of_the_gateway(language: languages.Language) -> None:
    name, pattern = VERSIONS[language.name]
    found = re.findall(pattern, (language.folder / name).read_text(), re.MULTILINE)
    assert found == [VERSION]


def test_the_go_package_and_its_example_name_one_version() -> None:
    assert f"jobclient v{VERSION} " in (CLIENTS / "go" / "client.json").read_text()
    assert f"jobclient v{VERSION}\n" in (CLIENTS / "go" / "example" / "go.mod").read_text()
    assert f'const version = "{VERSION}"\n' in (CLIENTS / "go" / "jobs" / "client.go").read_text()


def test_the_java_programs_use_the_package_of_this_version() -> None:
    for name in ("example", "scenario"):
        pom = (CLIENTS / "java" / name / "pom.xml").read_text()
        assert f"<artifactId>jobgateway-client</artifactId>\n      <version>{VERSION}</version>" in pom
    settings = CLIENTS / "java" / "src" / "main" / "java" / "jobgateway" / "client" / "ChannelSettings.java"
    assert f'String VERSION = "{VERSION}";\n' in settings.read_text()


@pytest.mark.parametrize("language", PACKAGES, ids=lambda each: each.name)
def test_each_package_has_the_license(language: languages.Language) -> None:
    # A link would be packed as a link, which leads nowhere.
    assert not (language.folder / "LICENSE").is_symlink()
    assert (language.folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("language", PACKAGES, ids=lambda each: each.name)
def test_the_readme_shows_the_example_of_ten_lines(language: languages.Language) -> None:
    folder = language.folder / example.FOLDER
    (source,) = [
        path.read_text() for path in folder.iterdir() if path.is_file() and example.ADDRESS in path.read_text()
    ]
    assert source in (language.folder / "README.md").read_text()
    lines = [line for line in source.splitlines() if not BOILERPLATE.search(line)]
    assert len(lines) <= 10, lines


def test_files_that_no_pattern_names_are_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("p/LICENSE", "p/src/a.py", "p/src/a_test.py"):
            archive.writestr(name, "")
    found = artifacts.names(tmp_path / "a.zip")
    assert list(artifacts.unexpected(found, ["p/LICENSE", "p/src/*.py"])) == []
    assert list(artifacts.unexpected(found, ["p/LICENSE", "p/src/a.py"])) == ["p/src/a_test.py is not expected"]
    assert list(artifacts.unexpected(found, ["p/*", "p/README.md"])) == ["no file matches p/README.md"]


def test_test_code_in_an_artifact_is_found() -> None:
    tests = [Path("src/test/java/jobs/ClientTest.java"), Path("src/watch/tests.rs")]
    for name in ("p/ClientTest.class", "p/ClientTest$1.class", "p/src/watch/tests.rs"):
        assert list(artifacts.test_code(["p/Client.class", "p/src/watch.rs", name], tests)) == [f"{name} is test code"]


@pytest.mark.parametrize("language", PACKAGES, ids=lambda each: each.name)
def test_the_tests_of_each_package_are_known(language: languages.Language) -> None:
    assert all(path.is_file() for path in language.test_files())
    package = language.manifest.package.model_copy(update={"tests": ["gone/*"]})
    renamed = languages.Language(language.folder, language.manifest.model_copy(update={"package": package}))
    with pytest.raises(ValueError, match="no test matches gone/"):
        renamed.test_files()


def test_a_link_in_an_archive_is_not_the_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("p/LICENSE")
        link.type, link.linkname = tarfile.SYMTYPE, "../../LICENSE"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("p/README.md"), io.BytesIO())
    found = artifacts.names(tmp_path / "a.tar.gz")
    assert list(artifacts.unexpected(found, ["p/LICENSE", "p/README.md"])) == [
        "p/LICENSE -> ../../LICENSE is not expected",
        "no file matches p/LICENSE",
    ]


END = 'JOB_STATUS_SUCCESS {"data": {"sum": 3}}'


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (END, "prints no progress"),
        ("50.0% Step 2 of 2\n", "is not the end of the job"),
        (f"50.0% Step 2 of 2\n{END}\nTraceback", "is not the end of the job"),
        ('50.0% Step 2 of 2\nJOB_STATUS_SUCCESS {"data": {"sum": 3.0}}', "is not the end of the job"),
        ('50.0% Step 2 of 2\nJOB_STATUS_ERROR {"data": {"sum": 3}}', "is not the end of the job"),
    ],
)
def test_an_example_with_another_output_fails(output: str, problem: str) -> None:
    assert list(example.problems(f"0.0% Step 1 of 2\n{END}\n")) == []
    assert problem in "".join(example.problems(output))


def test_the_runner_of_packages_names_no_registry() -> None:
    manifests = [json.loads((each.folder / "client.json").read_text()) for each in PACKAGES]
    assert not re.search(r"https?://", json.dumps(manifests))

"""What is installed is whole: a wheel, in a folder with a space, away from the repository."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("install")]  # what its tests share takes long to make


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of an environment that holds our wheel; the libraries are those of this one."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    site = next((folder / "env" / "lib").glob("python*/site-packages"))
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "--python", folder / "env" / "bin" / "python", "install", "--no-deps", wheel], check=True)
    libraries = Path(sysconfig.get_path("purelib"))
    # a plain path entry: .pth files in there, such as our own editable install, are not followed
    (site / "libraries.pth").write_text(f"{libraries}\n")
    return folder / "env" / "bin"


def _run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed / "arch-search", *arguments], cwd=installed.parent, capture_output=True, text=True, timeout=300
    )


def test_the_wheel_holds_settings_prompts_insights_templates_and_the_seed_program(installed: Path) -> None:
    code = (
        "from arch_search.settings import load_config\n"
        "from arch_search.analysis import report\n"
        "from arch_search.domains import domain_named\n"
        "from arch_search.domains.linear_attention import SEED_PROGRAM\n"
        "from arch_search.agents import prompt_files\n"
        "from cognition_db.literature import load_insights\n"
        "import arch_search, pathlib\n"
        "load_config([]); assert len(load_insights()) >= 15 and 'class DeltaNet' in SEED_PROGRAM\n"
        "root = pathlib.Path(arch_search.__file__).parent\n"
        "assert (root / 'analysis' / 'report.html.j2').exists()\n"
        "assert (root / 'models' / 'fla_stand_in' / 'fla' / '__init__.py').exists()\n"
        "assert prompt_files.shipped('researcher_whole_module').system\n"
        "other = domain_named(load_config(['domain=feed_forward']).domain.name)\n"
        "assert other.seed_program and other.baseline('gelu')\n"
        "print(root)"
    )
    answer = subprocess.run(
        [installed / "python", "-c", code], cwd=installed.parent, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    assert str(installed.parent) in answer.stdout


def test_the_installed_program_checks_a_program_in_its_jail(installed: Path) -> None:
    seed = REPOSITORY / "arch_search" / "domains" / "linear_attention" / "seed_program.py"
    answer = _run(installed, "check", str(seed))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "admitted" in answer.stdout


def test_the_installed_program_answers_doctor(installed: Path) -> None:
    answer = _run(installed, "doctor")
    assert "jail" in answer.stdout
    assert "Traceback" not in answer.stderr

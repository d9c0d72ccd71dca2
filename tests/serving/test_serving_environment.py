"""The environment of vLLM: made whole or made again, never taken from somebody else's folder."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.config import Llm
from arch_search.errors import ModelServerError
from arch_search.serving import environment
from arch_search.serving.environment import clean_environment, ensure_environment, is_complete, locked, run_step
from arch_search.serving.machine import Support
from arch_search.settings import load_config


def make_llm(folder: Path) -> Llm:
    return replace(
        load_config([]).llm, model="smollm2-135m-instruct", env_dir=str(folder), cache_dir=str(folder / "cache")
    )


def made_by_somebody(folder: Path) -> Path:
    module = folder / "lib" / "python3.11" / "site-packages" / "vllm"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder


def refuse(line: str) -> None:
    raise AssertionError(f"nothing should be made, but: {line}")


def test_an_environment_that_somebody_made_with_vllm_is_used_as_it_is(tmp_path: Path) -> None:
    folder = made_by_somebody(tmp_path / "env")
    assert is_complete(make_llm(folder))
    assert ensure_environment(make_llm(folder), say=refuse) == folder / "bin" / "python"


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "env"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(ModelServerError, match=r"holds files but no vLLM.*left alone"):
        ensure_environment(make_llm(folder), say=refuse)
    assert (folder / "thesis.tex").read_text() == "precious"


def test_a_processor_vllm_cannot_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cpu_support", lambda: Support(ok=False, reason="no AVX2 and no AVX-512"))
    monkeypatch.setattr(environment, "has_nvidia_gpu", lambda: False)
    with pytest.raises(ModelServerError, match="vLLM cannot run here: no AVX2 and no AVX-512"):
        ensure_environment(make_llm(tmp_path / "env"), say=refuse)


@pytest.mark.slow
def test_a_failed_install_says_why_and_what_it_left_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    llm = make_llm(tmp_path / "env")
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(ModelServerError, match=r"installing vllm.* failed: .*vllm.*") as caught:
            ensure_environment(llm, say=said.append)
        assert "\n" not in str(caught.value)
        assert not is_complete(llm)
        (tmp_path / "env" / "left_behind").touch()
    assert sum("making" in line for line in said) == 2


def test_other_packages_and_settings_of_ours_do_not_reach_the_other_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "kept")
    variables = clean_environment()
    assert "PYTHONPATH" not in variables
    assert "OMP_NUM_THREADS" not in variables
    assert variables["PIP_INDEX_URL"] == "kept"


def test_a_second_maker_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "env", say=order.append):
            order.append("second")

    with locked(tmp_path / "env", say=order.append):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["waiting for another process that makes env", "first", "second"]


def test_a_step_that_outlives_its_killed_maker_keeps_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from arch_search.serving.environment import locked, run_step\n"
        "with locked(Path(sys.argv[1]), say=print) as lock:\n"
        "    print('in', flush=True)\n"
        "    run_step(['sleep', '2'], limit_s=9, lock=lock)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "env")], stdout=subprocess.PIPE)
    assert maker.stdout is not None
    maker.stdout.readline()
    time.sleep(0.5)
    maker.kill()
    maker.wait()
    with (tmp_path / "env.lock").open("w") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_EX)


def test_a_step_without_end_is_stopped(tmp_path: Path) -> None:
    with locked(tmp_path / "env", say=print) as lock, pytest.raises(environment.StepError, match="no end after 0 s"):
        run_step(["sleep", "5"], limit_s=0.2, lock=lock)

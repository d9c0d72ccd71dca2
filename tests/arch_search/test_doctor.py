"""What doctor finds: the report of a node, clocks, disabled entries of scrontab, and no network where none must be."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
from bad_server import bad_server
from embedding_server import embedding_way
from recorded_server import recorded_way

from arch_search.cli import main
from arch_search.commands import doctor, doctor_cluster, doctor_node, doctor_offline
from arch_search.settings import load_config


def test_a_clock_that_is_ahead_is_told_apart_from_a_slow_file_system() -> None:
    # the node is 10 s ahead, a file takes 2 s each way, and doctor answers after 1 s
    ahead, way = doctor_node.clock_difference(sent=110.0, seen=102.0, answered=103.0, received=115.0)
    assert (ahead, way) == (10.0, 4.0)


def test_every_server_of_others_is_asked_for_a_token_and_a_silent_one_is_named() -> None:
    with bad_server(recorded_way()) as there:
        llm = load_config(
            [
                "llm=endpoint",
                f"llm.base_url={there.endpoint.base_url}",
                "llm.model=small",
                "llm.endpoints.big.base_url=http://127.0.0.1:9/v1",
                "llm.endpoints.big.model=large",
            ]
        ).llm
        own, further = doctor.servers(llm)
    assert own.good
    assert own.text == f"model (small at {there.endpoint.base_url}): answers"
    assert not further.good
    assert further.needed
    assert "big (large at http://127.0.0.1:9/v1): " in further.text
    assert "refused" in further.text


def test_a_server_of_embeddings_is_asked_for_one() -> None:
    settings = ["llm=vllm", "roles.retrieval=embedding", "llm.roles.embedding=near", "llm.endpoints.near.model=words"]
    with bad_server(embedding_way()) as near, bad_server(recorded_way()) as chat:
        for server, good in ((near, True), (chat, False)):
            llm = load_config([*settings, f"llm.endpoints.near.base_url={server.endpoint.base_url}"]).llm
            (found,) = doctor.servers(llm)
            assert found.good is good, found.text


def test_a_server_of_ours_is_not_asked_before_it_is_started() -> None:
    assert list(doctor.servers(load_config(["llm=vllm"]).llm)) == []


@pytest.mark.slow
def test_a_node_reports_what_it_has_once_doctor_has_answered(tmp_path: Path) -> None:
    def answer() -> None:
        while not (tmp_path / "main.hello.json").exists():
            time.sleep(0.01)
        now = time.time()
        doctor_node.write_json(tmp_path / "main.answer.json", {"seen": now, "answered": now})

    threading.Thread(target=answer, daemon=True).start()
    module = "arch_search.commands.doctor_node"
    subprocess.run([sys.executable, "-m", module, str(tmp_path), "main"], check=True, timeout=200)
    facts = json.loads((tmp_path / "main.facts.json").read_text())
    assert abs(facts["clock_ahead_s"]) < 1
    assert 0 <= facts["there_and_back_s"] < 5
    assert facts["imports"]["problem"] == ""
    assert facts["imports"]["torch"]
    assert set(facts["rungs"]) == {"bwrap", "landlock"}
    assert next(space for space in facts["spaces"] if space["name"] == "campaigns")["writable"]


def test_an_environment_that_does_not_import_is_told_by_its_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "h5py.py").write_text("raise ImportError('libhdf5.so.310: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "libhdf5.so.310" in doctor_node._imports()["problem"]


def test_a_disabled_entry_of_scrontab_is_found_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entries = ["*/5 * * * * arch-search tick campaigns/a", "#DISABLED: */5 * * * * arch-search tick campaigns/b"]
    scrontab = tmp_path / "scrontab"
    scrontab.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join([*entries, "#DISABLED: 0 0 * * * other"]) + "\nEND\n")
    scrontab.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = list(doctor_cluster.disabled_entries())
    assert len(found) == 1
    assert not found[0].good
    assert "arch-search tick campaigns/b" in found[0].text


def test_a_process_cut_off_from_the_network_reaches_nothing() -> None:
    cut_off, reason = doctor_offline.without_network()
    if not cut_off:
        pytest.skip(f"no namespace without a network here: {reason}")
    answer = subprocess.run(
        [*cut_off, sys.executable, "-c", doctor_offline._NO_ROUTE], capture_output=True, text=True, timeout=60
    )
    assert "Network is unreachable" in answer.stderr


@pytest.mark.online
def test_a_process_that_is_not_cut_off_from_the_network_is_noticed() -> None:
    assert doctor_offline._why_not(["env"])


@pytest.mark.slow
def test_a_whole_small_campaign_runs_without_a_network_on_the_users_own_text(tmp_path: Path) -> None:
    cut_off, reason = doctor_offline.without_network()
    if not cut_off:
        pytest.skip(f"no namespace without a network here: {reason}")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {number} of a corpus that lies on this disk\n" for number in range(2000)))
    data = ["data=text", f"data.path={text}"]
    llm = ["llm=endpoint", "llm.base_url=http://localhost:1/v1"]
    found = list(doctor_offline.prove(load_config([*data, *llm]), data))
    assert [one.good for one in found] == [True, True, True], [one.text for one in found]


@pytest.mark.slow
def test_weights_that_are_not_here_are_named_and_not_fetched(tmp_path: Path) -> None:
    llm = load_config([f"llm.env_dir={tmp_path}/env", f"llm.cache_dir={tmp_path}/cache"]).llm
    found = doctor_offline._model([], llm)
    assert not found.good
    assert "arch-search prefetch" in found.text
    assert not list(tmp_path.iterdir())


def test_prefetch_checks_the_corpus_and_names_its_sha256(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {number} of a corpus\n" for number in range(2000)))
    words = ["llm=endpoint", "llm.base_url=http://localhost:1/v1", "data=text", f"data.path={text}"]
    assert main(["prefetch", *words]) == 0
    said = capsys.readouterr().out
    assert "sha256" in said
    assert "training tokens" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


def test_prefetch_says_that_a_corpus_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["llm=endpoint", "llm.base_url=http://localhost:1/v1", "data=text", "data.path=/no/such/text"]
    assert main(["prefetch", *words]) == 1
    assert "/no/such/text" in capsys.readouterr().err

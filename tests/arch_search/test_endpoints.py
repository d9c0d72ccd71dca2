"""Roles that are played by models of other servers: two real HTTP servers, answers recorded from a real model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
from bad_server import bad_server
from recorded_server import recorded_way

from arch_search.agents import prompts as prompt_folder
from arch_search.agents.call_log import CallLog
from arch_search.campaign import Campaign, start_or_continue
from arch_search.config import LLM_ROLES, Sampling
from arch_search.errors import ConfigError, ModelServerError
from arch_search.model_access import ModelAccess
from arch_search.protocols import ModelClient, ModelRequest
from arch_search.settings import load_config

NOWHERE = "http://127.0.0.1:9/v1"


def campaign(folder: Path, *settings: str) -> Campaign:
    config = load_config(["campaign=smoke", f"campaign.dir={folder / 'c'}", "llm=endpoint", "llm.retries=0", *settings])
    return start_or_continue(config, command=["test"], base=folder)


def client_of(made: Campaign) -> ModelClient:
    log = CallLog(made.paths.calls, made.paths.text)
    return ModelAccess(made, log, say=lambda event: None, pump=lambda: None).client()


def request(role: str) -> ModelRequest:
    turns = ({"role": "user", "content": "Rewrite def decay(self, q, k, v, x):"},)
    sampling = Sampling(temperature=0.5, top_p=1, max_tokens=50)
    return ModelRequest(key=f"k/{role}", role=role, messages=turns, sampling=sampling)


def test_each_role_is_answered_by_the_server_that_plays_it(tmp_path: Path) -> None:
    with bad_server(recorded_way(model="small")) as small, bad_server(recorded_way(model="large")) as large:
        made = campaign(
            tmp_path,
            f"llm.base_url={small.endpoint.base_url}",
            f"llm.endpoints.big.base_url={large.endpoint.base_url}/",
            "llm.endpoints.big.model=large",
            "llm.roles.judge=big",
            "llm.roles.code_reviewer=big",
        )
        client = client_of(made)
        models = {role: client.complete(request(role)).model for role in LLM_ROLES}
        assert (small.asked, large.asked) == (len(LLM_ROLES) - 2, 2)
    assert {role for role, model in models.items() if model == "large"} == {"judge", "code_reviewer"}
    logged = {call.role: call.model for call in CallLog(made.paths.calls, made.paths.text).calls()}
    assert logged == models
    assert made.config.llm.model_of("judge") == "large"
    assert made.config.llm.model_of("analyst") == made.config.llm.model


def test_without_further_servers_all_roles_ask_the_one(tmp_path: Path) -> None:
    with bad_server(recorded_way()) as only:
        client = client_of(campaign(tmp_path, f"llm.base_url={only.endpoint.base_url}"))
        for role in LLM_ROLES:
            client.complete(request(role))
        assert only.asked == len(LLM_ROLES)


def test_a_further_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    further = (f"llm.endpoints.big.base_url={NOWHERE}", "llm.endpoints.big.model=large", "llm.roles.judge=big")
    with bad_server(recorded_way()) as only:
        client = client_of(campaign(tmp_path, f"llm.base_url={only.endpoint.base_url}", *further))
        assert client.complete(request("analyst")).text
        with pytest.raises(ModelServerError, match=f"k/judge: no answer from {NOWHERE}"):
            client.complete(request("judge"))


def test_the_key_of_a_further_server_comes_from_the_variable_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_BIG", "secret")
    keys: list[str | None] = []
    way = recorded_way()

    def act(asked) -> None:
        keys.append(asked.handler.headers["Authorization"])
        way.act(asked)

    with bad_server(replace(way, act=act)) as server:
        client = client_of(
            campaign(
                tmp_path,
                f"llm.base_url={server.endpoint.base_url}",
                f"llm.endpoints.big.base_url={server.endpoint.base_url}",
                "llm.endpoints.big.model=large",
                "llm.endpoints.big.api_key_env=KEY_OF_BIG",
                "llm.roles.judge=big",
            )
        )
        client.complete(request("judge"))
        client.complete(request("analyst"))
    assert keys == ["Bearer secret", "Bearer none"]


BIG = (f"llm.endpoints.big.base_url={NOWHERE}", "llm.endpoints.big.model=large")


@pytest.mark.parametrize(
    "settings, said",
    [
        (("llm.roles.juge=big",), r"llm\.roles\.juge: no such role; nearest: judge; there are: planner"),
        (("llm.roles.judge=bigg",), r"llm\.roles\.judge=bigg: no such server; nearest: big; there are: big"),
        (("llm.endpoints.other.base_url=x",), r"llm\.endpoints\.other\.model"),
        (("llm.endpoints.big.modle=x",), r"llm\.endpoints\.big\.modle"),
        (("llm=vllm_batch", "llm.roles.judge=big"), "not supported with llm=vllm_batch"),
        (("llm=recorded", "llm.recording=r.jsonl", "llm.roles.judge=big"), "not supported with llm=recorded"),
        (("roles.retrieval=embedding",), r"embedding needs the server of an embedding model: llm\.endpoints\.NAME"),
        (("llm=vllm_batch", "roles.retrieval=embedding"), r"not with llm=vllm_batch"),
        (("llm.roles.embedding=big",), r"llm\.roles\.embedding=big: nothing is embedded with roles\.retrieval=bm25"),
    ],
)
def test_a_role_or_server_that_is_not_there_is_refused(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(["campaign=smoke", "llm=endpoint", f"llm.base_url={NOWHERE}", *BIG, *settings])


def test_who_plays_a_role_is_a_matter_of_the_machine(tmp_path: Path) -> None:
    plain = campaign(tmp_path, f"llm.base_url={NOWHERE}")
    plain.journal.close()
    again = campaign(tmp_path, f"llm.base_url={NOWHERE}", *BIG, "llm.roles.judge=big")
    assert again.config_sha256 == plain.config_sha256


def test_the_roles_are_those_of_the_prompts() -> None:
    heads = [file.read_text().splitlines()[:6] for file in Path(prompt_folder.__path__[0]).glob("*.md")]
    named = {line.removeprefix("role: ") for head in heads for line in head if line.startswith("role: ")}
    assert named - {"all"} == set(LLM_ROLES)

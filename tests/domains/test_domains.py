"""Domains: what a search is about is one value, and campaigns from before there were several keep their hash."""

from __future__ import annotations

import ast
import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arch_search.agents import prompt_files
from arch_search.baselines import require_domain
from arch_search.domains import domain_named
from arch_search.drawing import draw, with_rungs
from arch_search.errors import ConfigError, ProposalError
from arch_search.generation import SlotPlan, slot_plans
from arch_search.opening import closed_rungs
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.mutation import mutate
from arch_search.proposals.registry import BUILT_IN
from arch_search.proposals.rungs import program_from_reply
from arch_search.selection.pool import ParentChoice
from arch_search.settings import config_of_older, config_sha256, load_config
from arch_search.steering import Steering
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate, candidate_id

# campaign=demo as its campaign.json had it before there was a domain
OLDER = json.loads((Path(__file__).parents[1] / "data" / "older_campaign.json").read_text())
# these ask for the pieces of the toolbox, which are those of token mixers
OF_THE_TOOLBOX = ("researcher_grammar_edit", "researcher_grammar_program", "researcher_toolbox_program")
WITHOUT_DOMAIN = ("data_rule", "summariser")
OF_ATTENTION = re.compile(r"delta|attention|sequence mix|recall|\bmemory\b", re.IGNORECASE)

ROOT = Path(__file__).parents[2] / "arch_search"
OF_LINEAR_ATTENTION = re.compile(r"delta.?net|delta.rule|linear.?attention|mamba|mixer|sequence.mix", re.IGNORECASE)
# what may name linear attention outside its folder, its kernels and the models it is compared with
MAY_NAME_IT = {
    "cli.py": "says what the package is for and shows a file name as an example",
    "commands/doctor.py": "the name of a library",
    "contract.py": "the two places of a block, of which the token mixer is one",
    "settings.py": "the domain of campaigns from before there were several",
    "proposals/registry.py": "the toolbox: its pieces are those of a token mixer",
    "proposals/rendering.py": "the toolbox: the class of its programs",
    "proposals/toolbox_check.py": "the toolbox: what it says of a wrong piece",
}


def names_linear_attention(source):
    """Whether a text or an import of the source does; docstrings and comments decide nothing."""
    tree = ast.parse(source)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    words = {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}
    said = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in words]
    said += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    said += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    return any(isinstance(one, str) and OF_LINEAR_ATTENTION.search(one) for one in said)


def test_nothing_outside_the_domains_decides_by_the_name_of_one():
    files = {str(file.relative_to(ROOT)): file for file in ROOT.rglob("*.py")}
    naming = {
        name
        for name, file in files.items()
        if not name.startswith(("domains/", "models/")) and names_linear_attention(file.read_text())
    }
    assert naming == set(MAY_NAME_IT)


@pytest.mark.parametrize(
    "source, found",
    [
        ('NAME = "deltanet"', True),
        ("from arch_search.domains.linear_attention import DOMAIN", True),
        ("import arch_search.domains.linear_attention", True),
        ('"""A mixer."""\n# a mixer', False),
    ],
)
def test_a_name_in_code_is_found_and_one_in_words_is_not(source, found):
    assert names_linear_attention(source) == found


def test_a_campaign_from_before_there_were_domains_opens_with_the_same_hash():
    config = config_of_older(copy.deepcopy(OLDER["config"]))
    assert config.domain.name == "linear_attention"
    assert config_sha256(config) == OLDER["config_sha256"]
    other = replace(config, domain=replace(config.domain, name="feed_forward"))
    assert config_sha256(other) != OLDER["config_sha256"]


def test_the_driver_knows_every_domain_without_torch():
    code = (
        "import sys; from pathlib import Path; import arch_search.domains as d\n"
        "names = [f.parent.name for f in Path(d.__file__).parent.glob('*/__init__.py')]\n"
        "assert names and all(d.domain_named(n).name == n for n in names), names\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_domain_or_baseline_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match=r"domain.name='cooking': no such domain; there are .*linear_attention"):
        domain_named("cooking")
    with pytest.raises(ConfigError, match=r"no baseline named 'gru' in domain linear_attention; there are gated_d"):
        domain_named("linear_attention").baseline("gru")


FEED_FORWARD = ["campaign=smoke", "domain=feed_forward"]
SEED = domain_named("feed_forward").seed_program
REFERENCE = Candidate(
    id=candidate_id(SEED), program=SEED, class_name="FeedForward", name="swiglu", arm="baseline", rung="copy",
    generation=0, slot=0, parents=(), motivation="", parameter_count=1,
)  # fmt: skip


@pytest.mark.parametrize(
    "changed, expected",
    [
        ("selection.metric=recall_accuracy", "selection.metric=recall_accuracy ranks by recall"),
        ("selection.policy=asi_arch", "selection.policy=asi_arch ranks by recall"),
        ("campaign.slots.grammar_edit=1", "campaign.slots.grammar_edit needs the toolbox"),
        ("campaign.baselines=[mamba2]", "no baseline named 'mamba2' in domain feed_forward; there are bilinear, gelu"),
    ],
)
def test_a_setting_that_asks_for_what_the_domain_lacks_is_refused(changed, expected):
    require_domain(load_config(FEED_FORWARD))
    with pytest.raises(ConfigError, match=expected):
        require_domain(load_config([*FEED_FORWARD, changed]))


def test_what_is_said_on_the_command_line_goes_before_what_the_domain_sets():
    config = load_config([*FEED_FORWARD, "campaign.baselines=[gelu]", "campaign.slots.whole_module=3"])
    assert (config.campaign.baselines, config.campaign.slots.whole_module) == (("gelu",), 3)
    assert config.campaign.slots.mutation == load_config(["campaign=smoke"]).campaign.slots.mutation


def test_feed_forward_programs_are_drawn_insights_on_them_alone_and_are_mutated_freely():
    config = load_config(FEED_FORWARD)
    child = replace(REFERENCE, id="child", arm="mutate", generation=1)
    choices = (ParentChoice(parent=child, references=()),)

    def drawn(arm, rung, attempt):
        plan = SlotPlan(0, arm, rung)
        contents = ArchiveContents()
        return draw(
            1, plan, attempt, config=config, contents=contents, choices=choices, reference=REFERENCE,
            steering=Steering(), toolbox=BUILT_IN,
        )  # fmt: skip

    tries = [drawn("evolve", "method_splice", attempt) for attempt in range(20)]
    assert {one.assignment.method for one in tries} == {"activate", "forward"}
    assert all("feed_forward" in one.assignment.insight.tags for one in tries)
    assert len({one.assignment.insight.id for one in tries}) > 1
    assert drawn("mutate", "mutation", 0).parent is child


def test_the_names_that_the_framework_goes_by_are_part_of_what_a_program_is():
    renamed = SEED.replace("intermediate_size", "inner")
    assert normal_form(renamed) != normal_form(SEED)
    helped = f"{SEED}\n\nclass Other(nn.Module):\n    pass\n"
    swapped = helped.replace("FeedForward", "X").replace("Other", "FeedForward").replace("X", "Other")
    assert normal_form(swapped) != normal_form(helped)


def test_random_changes_of_the_feed_forward_reference_are_many():
    made = {normal_form(mutate(REFERENCE, np.random.default_rng(n), BUILT_IN).program) for n in range(40)}
    assert len(made) >= 8
    assert normal_form(SEED) not in made


def test_without_a_toolbox_the_ladder_has_the_free_rungs_alone_and_must_have_one():
    climbing = [*FEED_FORWARD, "campaign.slots.ladder=3", "roles.highest_rung=whole_module"]
    config = load_config(climbing)
    require_domain(config)
    wanting = tuple((plan, 0) for plan in slot_plans(config))
    steering = Steering(closed_rungs=closed_rungs(config, Steering(), REFERENCE))
    drawn = with_rungs(
        1,
        wanting,
        config=config,
        contents=ArchiveContents(),
        tries=(),
        reference=REFERENCE,
        steering=steering,
    )
    ladder = [plan.rung for (before, _), (plan, _) in zip(wanting, drawn, strict=True) if before.rung is None]
    assert ladder == ["method_splice", "whole_module", "method_splice"]
    with pytest.raises(ConfigError, match=r"campaign\.slots\.ladder needs the toolbox"):
        require_domain(load_config([*climbing[:-1], "roles.highest_rung=toolbox_program"]))


def test_a_whole_feed_forward_is_the_class_that_was_asked_for():
    assignment = Assignment(rung="whole_module", parent=REFERENCE, class_name="FeedForward")
    two = "".join(f"class {name}(nn.Module):\n    pass\n\n\n" for name in ("Gate", "NAME"))
    module = f"```python\nfrom torch import nn\n\n\n{two}```"
    assert program_from_reply(assignment, module.replace("NAME", "FeedForward")).class_name == "FeedForward"
    with pytest.raises(ProposalError, match="no class FeedForward and 2 public classes"):
        program_from_reply(assignment, module.replace("NAME", "DeltaNet"))


@pytest.mark.parametrize("name", sorted({*prompt_files.names()} - {*OF_THE_TOOLBOX}))
def test_prompts_say_what_the_domain_is_about_and_nothing_of_another(name):
    prompt = prompt_files.shipped(name)
    facts = dict.fromkeys((*prompt.facts, *prompt.data), "FACT")
    said = {}
    for domain in ("linear_attention", "feed_forward"):
        words = domain_named(domain).prompt_words
        said[domain] = "\n".join(
            prompt_files.template(part).render({**facts, **words}) for part in (prompt.system, prompt.question)
        )
    assert not OF_ATTENTION.search(said["feed_forward"])
    assert (said["feed_forward"] == said["linear_attention"]) == (name in WITHOUT_DOMAIN)

"""Domains: what a search is about is one value, and campaigns from before there were several keep their hash."""

from __future__ import annotations

import subprocess
import sys

import pytest

from arch_search.domains import domain_named
from arch_search.errors import ConfigError
from arch_search.settings import config_of_older, config_sha256, config_to_json, load_config

# hashes of these settings as they were before there was a domain
BEFORE = {
    "campaign=demo": "057bf0b5d39c8e11dda318da8d2a4650b34878dcace8fcb09b59acdd54416efa",
    "campaign=laptop": "d75edac545cda4d496b4004a38128a9c875c8877cf34e57771be73b4e4bd48f4",
    "campaign=smoke": "89c0524b9c3611d09cc32a6c5af2fe632b28e70eac909d3b273be0b486d3c7c7",
    "selection=asi_arch": "e62d76a233f115521bdba61222d9256f9af91a69934e468ce93febac35c8159d",
}


@pytest.mark.parametrize("choice", sorted(BEFORE))
def test_a_campaign_from_before_there_were_domains_opens_with_the_same_hash(choice):
    config = load_config([choice])
    assert config_sha256(config) == BEFORE[choice]
    older = config_to_json(config)
    del older["domain"]
    assert config_of_older(older) == config


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

"""What the language model adds: its programs, the same model without history, and random mutation, at equal cost.

Run: python tests/benchmarks/bench_agents.py [key=value ...]     two hours on two cores with the settings' own model
     python tests/benchmarks/bench_agents.py DIR                 only the tables of a campaign that is there

Runs `arch-search run campaign=agents`, or goes on with it where it was interrupted, and prints two tables from its
archive: per rung what became of the proposals, per arm what became of the trained programs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arch_search import cli
from arch_search.analysis.arms import Share, against_controls, by_arm, share_of
from arch_search.analysis.parents import against_parents
from arch_search.analysis.rates import rates
from arch_search.analysis.statistics import Standing, noise_of, standings, without_repeats
from arch_search.campaign import Campaign, open_campaign
from arch_search.reporting import reference_id
from tests.benchmarks.recorded_slurm import keep_table


def main(arguments: Sequence[str]) -> None:
    if len(arguments) == 1 and Path(arguments[0]).is_dir():
        folder = Path(arguments[0])
    else:
        code = cli.main(["run", "campaign=agents", *arguments])
        if code:
            raise SystemExit(code)
        folder = max(Path("campaigns").glob("agents-*"))
    campaign = open_campaign(folder)
    keep_table("agents", [*_head(campaign), "", *_rungs(campaign), "", *_arms(campaign)])


def _head(campaign: Campaign) -> list[str]:
    closed, config = campaign.generations_closed() - 1, campaign.config
    return [
        f"{config.llm.model}, stage {config.stage.name}, {config.campaign.seeds_per_candidate} seeds a program, "
        f"{closed} of {config.campaign.generations} generations, campaign.seed={config.campaign.seed}"
    ]


def _rungs(campaign: Campaign) -> list[str]:
    """What became of the proposals, per rung and arm; `new` by all three levels of novelty."""
    lines = [
        f"{'arm, rung':28}{'asked':>7}{'a program':>11}{'admitted':>10}{'+ repaired':>12}{'repeats':>9}{'near':>6}"
        f"{'new':>6}   share of the asked that is new"
    ]
    tries = campaign.contents().tries
    for arm in dict.fromkeys(one.proposal.arm for one in tries):
        for row in rates([one for one in tries if one.proposal.arm == arm]):
            repeats = row.repeats_failure + row.same_text + row.same_behaviour
            lines.append(
                f"{f'{arm}, {row.rung}':28}{row.asked:7}{row.parsed:11}{row.admitted_at_once:10}"
                f"{row.admitted_after_repair:12}{repeats:9}{row.near_text:6}{row.new:6}"
                f"   {_share(share_of(row.new, row.asked, campaign.config.selection.confidence))}"
            )
    return lines


def _arms(campaign: Campaign) -> list[str]:
    """What became of the trained programs, on the seeds that all were trained with."""
    contents = without_repeats(campaign.contents())
    selection, reference = campaign.config.selection, reference_id(contents)
    how = {"reference_id": reference, "metric": selection.metric}
    rows = standings(contents, confidence=selection.confidence, **how)
    parents = against_parents(contents, confidence=selection.confidence, **how)
    noise = noise_of(contents, **how)
    lines = [f"{'arm':12}{'trained':>9}{'better than its parent':>28}{'better (Holm)':>24}{'mean improvement':>30}"]
    for group in by_arm(contents, rows, parents=parents, noise=noise, confidence=selection.confidence):
        mean = f"{group.improvement:+.3f} [{group.low:+.3f}, {group.high:+.3f}]"
        lines.append(
            f"{group.label:12}{group.trained.count:9}{_share(group.over_parent):>28}{_share(group.better):>24}{mean:>30}"
        )
    lines += ["", f"two runs of a program differ by {noise.sd:.3f} (standard deviation, {noise.df} degrees of freedom)"]
    for one in against_controls(rows, confidence=selection.confidence):
        lines.append(
            f"evolve ({one.n}) over {one.control} ({one.control_n}): {one.difference:+.3f} "
            f"[{one.low:+.3f}, {one.high:+.3f}]"
        )
    return [*lines, *_best(rows)]


def _best(rows: Sequence[Standing]) -> list[str]:
    """The program that ranks first in each arm: the best of many looks better than it is."""
    firsts = {row.arm: row for row in reversed(rows) if row.verdict != "not_measured"}
    return [
        f"best of {arm}: {row.improvement:+.3f} [{row.low:+.3f}, {row.high:+.3f}], generation {row.generation}, "
        f"{row.rung}"
        for arm, row in sorted(firsts.items())
    ]


def _share(share: Share) -> str:
    return f"{share.count}/{share.total} = {share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"


if __name__ == "__main__":
    main(sys.argv[1:])

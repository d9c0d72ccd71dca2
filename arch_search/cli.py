"""The command line: parse, hand over to one command, turn errors into one line and an exit code.

Heavy imports happen inside the commands: `arch-search --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from arch_search.clean_text import one_line

EXAMPLE = """examples:
  arch-search run campaign=demo                 start or continue a small campaign on this machine
  arch-search run campaign=laptop slurm=cluster slurm.partition=gpu slurm.account=lab
  arch-search status campaigns/demo-001 --watch
  arch-search check my_mixer.py                 every admission check on one program

settings are Hydra overrides: group=choice or key.path=value; exit 0 good, 1 failed or refused, 2 wrong use"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _options(arguments)
    command = importlib.import_module(f"arch_search.commands.{options.command.replace('-', '_')}")
    from arch_search.errors import ArchSearchError, ConfigError
    from cognition_db.experience.errors import StoreError
    from slurm.errors import SlurmError

    try:
        return int(command.run(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ConfigError as error:
        return _complain(options.command, error, code=2)
    except (ArchSearchError, StoreError, SlurmError, OSError) as error:
        return _complain(options.command, error, code=1)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _complain(command: str, error: Exception, *, code: int) -> int:
    print(f"arch-search {command}: {one_line(str(error))}", file=sys.stderr)
    return code


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; settings may stand anywhere, also after an option, where argparse alone has no place for them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    takes_settings = hasattr(options, "overrides")
    if unknown := [word for word in rest if word.startswith("-") or not takes_settings]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arch-search",
        description="Language models invent linear-attention architectures; Slurm job arrays train and measure them.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  arch-search {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    for name, text, example in (
        ("prefetch", "install the model server and fetch its weights: after that no network", "llm=vllm"),
        ("serve", "start the model server and keep it until Ctrl-C", "llm=vllm"),
    ):
        command(name, text, example).add_argument("overrides", nargs="*", metavar="key=value")
    doctor = command("doctor", "say what this machine and site can and can't do", "slurm=cluster slurm.partition=gpu")
    doctor.add_argument("overrides", nargs="*", metavar="key=value")
    doctor.add_argument("--impossible", choices=["vllm"], help="print only why this cannot run here; nothing if it can")
    doctor.add_argument("--no-probe", dest="probe", action="store_false", help="slurm=cluster: submit no probe jobs")
    doctor.add_argument("--wait-s", type=float, default=300.0, help="how long probe jobs may take to start (300)")
    doctor.add_argument("--offline", action="store_true", help="also prove, without a network, that nothing is fetched")

    plan = command(
        "plan",
        "print what would be submitted next, with its batch scripts and its cost; writes and submits nothing",
        "campaign=laptop slurm=cluster slurm.partition=gpu",
    )
    plan.add_argument("what", nargs="*", metavar="DIR | key=value", help="campaign folder, or settings of a new one")

    run = command("run", "start a campaign or go on with it", "campaign=demo campaign.seed=7")
    run.add_argument("--driver-job", type=int, metavar="NUMBER", help="set in the jobs of `arch-search submit`")
    submit = command(
        "submit",
        "run the driver as a small job (slurm.driver.*), and again as the next job before its time is over",
        "campaign=laptop slurm=cluster slurm.account=lab slurm.driver.partition=long",
    )
    for sub in (run, submit):
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="or the folder of a campaign, to go on")
    stop = command(
        "stop", "end the driver of a campaign, wherever it runs; run or submit goes on", "campaigns/demo-001"
    )
    stop.add_argument(
        "--cancel", action="store_true", help="cancel what trains; without it trainings come to their end"
    )
    stop.add_argument("--wait-s", type=float, default=180.0, help="how long to wait for the driver's end (180)")
    _add_steer(command("steer", "ask something of a campaign; alone: what is asked", "campaigns/demo-001 pause"))
    propose = command("propose", "add a program or an idea to the next generation", "campaigns/demo-001 my_mixer.py")
    propose.add_argument("dir", help="campaign folder")
    propose.add_argument("file", nargs="?", help="Python file with a public torch.nn.Module")
    propose.add_argument("--class", dest="class_name", default=None, help="default: the domain's, or the only one")
    propose.add_argument("--idea", default=None, metavar="TEXT", help="an idea instead, which a model follows")
    tick = command("tick", "do what is due in a campaign and return, for cron", "campaigns/demo-001")
    tick.add_argument("--limit-min", type=float, default=30.0, help="return after this, due or not (30)")
    tick.epilog = f"{tick.epilog}\n\n{CRON}"
    report = command("report", "write report.html of a campaign anew", "campaigns/demo-001")
    fsck = command("fsck", "check every invariant of a campaign", "campaigns/demo-001")
    status = command("status", "where a campaign stands", "campaigns/demo-001 --watch")
    show = command("show", "all about one candidate, or the tries at one slot", "campaigns/demo-001 1f2e3d4c --calls")
    for sub in (tick, stop, report, fsck, status, show):
        sub.add_argument("dir", help="campaign folder")
    status.add_argument("--json", action="store_true", help="machine-readable")
    status.add_argument("--watch", action="store_true", help="repeat until the campaign is finished")
    status.add_argument(
        "--now", action="store_true", help="ask Slurm, at most once per slurm.poll_s, and read every file"
    )
    show.add_argument("id", help="candidate id, its first digits, its name, a slot as g2/s3, or toolbox")
    show.add_argument("--calls", action="store_true", help="every call of the language model behind it, as text")

    check = command("check", "run every admission check on one program; exit 1 if refused", "my_mixer.py")
    check.add_argument("file", help="Python file with a public torch.nn.Module")
    check.add_argument("--class", dest="class_name", default=None, help="default: the domain's, or the only one")
    check.add_argument("--json", action="store_true", help="machine-readable")
    check.add_argument("overrides", nargs="*", metavar="key=value")
    check.epilog = f"{CHECKS}\n\n{check.epilog}"
    return parser


def _add_steer(steer: argparse.ArgumentParser) -> None:
    steer.epilog = f"{STEER}\n\n{steer.epilog}"
    steer.add_argument("dir", help="campaign folder")
    actions = steer.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("pause", help="finish what trains; propose and submit nothing new until resume")
    actions.add_parser("resume", help="go on after a pause")
    for name, text, what in (
        ("ban", "leave out a family, a rung, or a candidate and all that came of it", "family, rung or candidate"),
        ("unban", "take a ban back", "family, rung or candidate"),
        ("pin", "make a candidate the parent", "candidate: id, its first digits, or its name"),
        ("unpin", "take a pin back", "candidate: id or its first digits"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("what", help=what)
        if name == "pin":
            action.add_argument("--every", type=int, default=1, metavar="K", help="of every K-th slot only (1)")
    prompt = actions.add_parser("prompt", help="use another wording of a prompt")
    prompt.add_argument("name", help="a file of agents/prompts without .md, as judge")
    prompt.add_argument("file", nargs="?", help="file with the new prompt")
    prompt.add_argument("--default", action="store_true", help="use the prompt that came with the program again")


STEER = """arch-search steer DIR ban decay            no program changes this component any more
arch-search steer DIR pin 1f2e3d4c --every 3
arch-search steer DIR prompt judge my_judge.md

all but pause and resume hold from the generation on that is opened next; every try says what had a part in it"""

CRON = """in crontab, or in scrontab where the site has it:
  */10 * * * * cd FOLDER && .venv/bin/arch-search tick campaigns/demo-001 > /dev/null
events are in logs/driver.log of the campaign; only errors go to standard error, which cron mails; a tick that finds a
driver at work, or the campaign stopped, leaves with 0"""

CHECKS = """refused:  no contract (several public modules, none of the domain's name, no --class), a future leak
          shown by a witness, mixing of batch rows, non-finite outputs or gradients, parameters or state hidden from the
          optimiser, cost growing faster than admission.max_cost_exponent
marked:   causality not decided, dependence on sequence length, unused parameters, a loop over tokens, parameters
          that cannot be matched to the reference"""

if __name__ == "__main__":
    sys.exit(main())

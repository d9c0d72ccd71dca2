"""The command line: parse, hand over to one command, turn errors into one line and an exit code.

Heavy imports happen inside the commands: `arch-search --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

EXAMPLE = """examples:
  arch-search run campaign=demo                 start or continue a small campaign on this machine
  arch-search run campaign=laptop slurm=cluster slurm.partition=gpu slurm.account=lab
  arch-search status campaigns/demo-001 --watch
  arch-search check my_mixer.py                 every admission check on one program

settings are Hydra overrides: group=choice or key.path=value; exit 0 good, 1 failed or refused, 2 wrong use"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
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
    print(f"arch-search {command}: {' '.join(str(error).split())}", file=sys.stderr)
    return code


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
        ("run", "start a campaign or go on with it", "campaign=demo campaign.seed=7"),
        ("prefetch", "install the model server and fetch its weights: after that no network", "llm=vllm"),
        ("serve", "start the model server and keep it until Ctrl-C", "llm=vllm"),
    ):
        command(name, text, example).add_argument("overrides", nargs="*", metavar="key=value")
    doctor = command("doctor", "say what this machine and site can and can't do", "llm=vllm")
    doctor.add_argument("overrides", nargs="*", metavar="key=value")
    doctor.add_argument("--impossible", choices=["vllm"], help="print only why this cannot run here; nothing if it can")

    tick = command("tick", "do once what is due in a campaign, and return", "campaigns/demo-001")
    report = command("report", "write report.html of a campaign anew", "campaigns/demo-001")
    fsck = command("fsck", "check every invariant of a campaign", "campaigns/demo-001")
    status = command("status", "where a campaign stands", "campaigns/demo-001 --watch")
    show = command("show", "all about one candidate", "campaigns/demo-001 1f2e3d4c")
    for sub in (tick, report, fsck, status, show):
        sub.add_argument("dir", help="campaign folder")
    status.add_argument("--json", action="store_true", help="machine-readable")
    status.add_argument("--watch", action="store_true", help="repeat until the campaign is finished")
    show.add_argument("id", help="candidate id, its first digits, or its name")

    check = command("check", "run every admission check on one program; exit 1 if refused", "my_mixer.py")
    check.add_argument("file", help="Python file with a public torch.nn.Module")
    check.add_argument("--class", dest="class_name", default=None, help="default: DeltaNet, or the only one")
    check.add_argument("--json", action="store_true", help="machine-readable")
    check.add_argument("overrides", nargs="*", metavar="key=value")
    check.epilog = f"{CHECKS}\n\n{check.epilog}"
    return parser


CHECKS = """refused:  no contract (no class DeltaNet and more than one public module without --class), a future leak
          shown by a witness, mixing of batch rows, non-finite outputs or gradients, parameters or state hidden from the
          optimiser, cost growing faster than admission.max_cost_exponent
marked:   causality not decided, dependence on sequence length, unused parameters, a loop over tokens, parameters
          that cannot be matched to the reference"""

if __name__ == "__main__":
    sys.exit(main())

"""The rungs of a proposal: what a writer is asked on each, and how its reply becomes a program.

grammar_edit     one hook of a toolbox program, under a typed grammar
grammar_program  the whole `mix` of a toolbox program, under a typed grammar
toolbox_program  the whole `mix` in plain Python over the same toolbox
method_splice    one named method of any program, new methods and constructor lines allowed
whole_module     a whole program as one fenced block
"""

from __future__ import annotations

import ast
import textwrap
from dataclasses import replace

from arch_search.errors import ProposalError
from arch_search.proposals import examples, replies, splice, toolbox_check
from arch_search.proposals.assignment import Assignment, Draft, Section, WritingTask
from arch_search.proposals.difference import describe_difference
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.grammar import edit_grammar, program_grammar
from arch_search.proposals.hooks import rendered, unread_hooks
from arch_search.proposals.registry import BY_HOOK, HOOKS, MIX, Toolbox, toolbox_text
from arch_search.proposals.rendering import (
    MIXER,
    function_text,
    header,
    is_toolbox_program,
    live_lines,
    render,
    with_header,
)
from arch_search.syntax import syntax_tree
from cognition_db.records import Candidate, Rung

TOOLBOX_RUNGS: tuple[Rung, ...] = ("grammar_edit", "grammar_program", "toolbox_program", "crossover", "simplify")
_TOKENS: dict[Rung, int] = {
    "grammar_edit": 160,
    "grammar_program": 480,
    "toolbox_program": 400,
    "method_splice": 600,
    "whole_module": 2300,
}


_LAYOUT = "Vectors q, k, v, o are (B, H, T, d), scalars (B, H, T, 1), x is (B, T, D). There are also:\n"


def editable_methods(program: str, toolbox: Toolbox) -> tuple[str, ...]:
    """Hooks that a grammar edit may change in this program; none where it is not built on the toolbox.

    One whose result nothing reads is left out: what is learned in it would get no gradient.
    """
    if not is_toolbox_program(program, toolbox):
        return ()
    present, unread = splice.methods(program, MIXER), unread_hooks(program)
    fitting = [hook.name for hook in HOOKS if hook.name in present and _has_arguments(present[hook.name], hook.name)]
    return tuple(name for name in fitting if name not in unread)


def at_hand(program: str, toolbox: Toolbox) -> Toolbox:
    """What a new `mix` of this program may call: no memory that was a method of the mixer and went unused."""
    calls = {f"self.{name}" for name in splice.methods(program, MIXER)}
    gone = {one.name for one in toolbox.primitives if one.is_method and one.call not in calls}
    return replace(toolbox, missing=frozenset(gone))


def splice_methods(program: str, class_name: str) -> tuple[str, ...]:
    """Methods that a splice may replace: all of the class but its constructor."""
    return tuple(name for name in splice.methods(program, class_name) if name != "__init__")


def methods_for(rung: Rung, parent: Candidate, toolbox: Toolbox) -> tuple[str, ...]:
    """The methods among which the framework draws for `rung`; () for the rungs that write a whole program."""
    if rung == "grammar_edit":
        return editable_methods(parent.program, toolbox)
    return splice_methods(parent.program, parent.class_name) if rung == "method_splice" else ()


def insight_tags(rung: Rung, method: str) -> tuple[str, ...]:
    """Tags of the insights that fit this place; () where any insight does."""
    name = MIX.name if rung in ("grammar_program", "toolbox_program") else method
    return BY_HOOK[name].tags if name in BY_HOOK else ()


def rungs_for(parent: Candidate, toolbox: Toolbox) -> tuple[Rung, ...]:
    """Rungs on which this parent can be changed; a program outside the toolbox takes the two free ones."""
    if editable_methods(parent.program, toolbox):
        return ("grammar_edit", "grammar_program", "toolbox_program", "method_splice", "whole_module")
    # a class that leaves all to its base has no method to replace
    return ("method_splice", "whole_module") if splice_methods(parent.program, parent.class_name) else ("whole_module",)


def writing_task(assignment: Assignment) -> WritingTask:
    """The assignment as the model sees it; raises ProposalError where parent and rung do not fit."""
    rung, toolbox = assignment.rung, assignment.toolbox
    if rung not in _TOKENS:
        raise ProposalError(f"rung {rung} is not written by a model; use one of {', '.join(_TOKENS)}")
    if rung not in rungs_for(assignment.parent, toolbox):
        raise ProposalError(f"parent {assignment.parent.id} is not built on the toolbox, so it cannot take rung {rung}")
    method = MIX.name if rung in ("grammar_program", "toolbox_program") else assignment.method
    if rung != "whole_module":
        _require(assignment, method)
    return WritingTask(
        rung=rung,
        template=f"researcher_{rung}",
        facts={**_facts(assignment, method), "tried": tried_sections(assignment)},
        examples=examples.examples_for(rung, method, on_toolbox=is_toolbox_program(assignment.parent.program, toolbox)),
        grammar=_grammar(assignment),
        max_tokens=_TOKENS[rung],
        hints={"rung": rung, "method": assignment.method},
    )


def program_from_reply(assignment: Assignment, reply: str) -> Draft:
    """The program a reply stands for; raises ProposalError, with the reason in one line, where it stands for none."""
    parent, toolbox = assignment.parent, assignment.toolbox
    if assignment.rung in ("grammar_edit", "grammar_program", "toolbox_program"):
        program, words = _toolbox_child(assignment, reply)
    else:
        written = replies.fenced_reply(reply)
        spliced = assignment.rung == "method_splice"
        program, words = _spliced(assignment, written.code) if spliced else written.code, written.words
    class_name = parent.class_name
    if assignment.rung == "whole_module":
        class_name = _public_class(program, assignment.class_name or parent.class_name)
    missing = splice.undefined_names(program)
    if missing:
        raise ProposalError(f"the program reads undefined names: {', '.join(missing[:5])}")
    if normal_form(program) == normal_form(parent.program):
        raise ProposalError("the reply is a copy of the parent; nothing but wording differs")
    change = describe_difference(parent.program, program)
    origin = f"Written on rung {assignment.rung} from parent {parent.id}."
    text = header(origin=origin, change=change, words=words)
    is_rendered = assignment.rung != "whole_module" and is_toolbox_program(parent.program, toolbox)
    program = render(program, text, toolbox) if is_rendered else with_header(program, text)
    return Draft(program=program, class_name=class_name, motivation=change, method=assignment.method)


def _require(assignment: Assignment, method: str) -> None:
    parent, rung = assignment.parent, assignment.rung
    available = (MIX.name,) if method == MIX.name else methods_for(rung, parent, assignment.toolbox)
    if method not in available:
        raise ProposalError(f"parent {parent.id} has no method {method!r} for {rung}; it has {', '.join(available)}")


def _grammar(assignment: Assignment) -> str | None:
    if assignment.rung == "grammar_edit":
        return edit_grammar(assignment.method, assignment.toolbox)
    if assignment.rung != "grammar_program":
        return None
    program, toolbox = assignment.parent.program, assignment.toolbox
    return program_grammar(editable_methods(program, toolbox), at_hand(program, toolbox))


def _facts(assignment: Assignment, method: str) -> dict[str, str | tuple[Section, ...]]:
    """What the prompt of the rung is filled with: one place, its present source, one idea."""
    parent, rung, toolbox = assignment.parent, assignment.rung, assignment.toolbox
    if rung == "whole_module":
        # a program that is too long is described by its own change, so that the model still knows what it starts from
        whole = Section(name="parent", text=splice.without_words(parent.program), instead=parent.motivation)
        return {"program": (whole,), "learned": assignment.learned, **_idea(assignment, with_formula=True)}
    source = splice.method_source(parent.program, parent.class_name, method)
    if rung == "method_splice":
        has_init = "__init__" in splice.methods(parent.program, parent.class_name)
        init = splice.method_source(parent.program, parent.class_name, "__init__") if has_init else ""
        tools = _LAYOUT + toolbox_text(toolbox) + "\n" if is_toolbox_program(parent.program, toolbox) else ""
        idea = _idea(assignment, with_formula=not tools)
        sections = (Section(name="constructor", text=init),)
        learned = assignment.learned
        return {"method": method, "source": source, "init": sections, "tools": tools, "learned": learned, **idea}
    body = "\n".join(ast.unparse(one) for one in syntax_tree(source).body[0].body)  # type: ignore[attr-defined]
    shown = f"{BY_HOOK[method].short_signature}\n{textwrap.indent(body, '    ')}"
    if method == MIX.name:
        toolbox = at_hand(parent.program, toolbox)
    facts = {"toolbox": toolbox_text(toolbox), "method": method, "purpose": BY_HOOK[method].purpose, "source": shown}
    if rung == "toolbox_program":
        facts["learned"] = assignment.learned
    return {**facts, **_idea(assignment, with_formula=False)}


def _idea(assignment: Assignment, *, with_formula: bool) -> dict[str, str]:
    """The plan, or else the insight; small models copy a formula into toolbox code, so there it is left out."""
    insight = assignment.insight
    if assignment.plan:
        return {"insight": "", "plan": assignment.plan}
    if insight is None:
        return {"insight": "Try something simple that the present form does not do.", "plan": ""}
    return {"insight": f"{insight.claim} {insight.how}" if with_formula else insight.claim, "plan": ""}


def tried_sections(assignment: Assignment) -> tuple[Section, ...]:
    """A section a line, the last of them given up first where the prompt grows too long."""
    return tuple(
        Section(name=f"tried {place}", text=line, priority=1 + place) for place, line in enumerate(assignment.tried)
    )


def _toolbox_child(assignment: Assignment, reply: str) -> tuple[str, str]:
    """The parent with one rewritten hook, and the writer's words."""
    hook = BY_HOOK[assignment.method] if assignment.rung == "grammar_edit" else MIX
    node, words = replies.function_reply(reply, hook.name)
    if not _has_arguments(node, hook.name):
        raise ProposalError(f"{hook.name} must keep its arguments: self, {', '.join(hook.arguments)}")
    toolbox_check.check(node, assignment.parent.program, assignment.toolbox)
    text = function_text(hook, live_lines(node.body))
    program = splice.put_method(assignment.parent.program, MIXER, hook.name, text)
    return rendered(program, assignment.toolbox), words


def _spliced(assignment: Assignment, code: str) -> str:
    """The parent with the named method replaced, new methods added and bare statements put into the constructor."""
    parent, tree = assignment.parent, splice.parse(code, "the fenced block")
    nodes = tree.body
    if len(nodes) == 1 and isinstance(nodes[0], ast.ClassDef):
        nodes = nodes[0].body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    if assignment.method not in [node.name for node in functions]:
        raise ProposalError(f"the fenced block has no def {assignment.method}")
    program = parent.program
    for node in functions:
        if node.name == "__init__":
            raise ProposalError(
                "the fenced block redefines __init__; write new attributes as bare self.name = ... lines"
            )
        program = splice.put_method(program, parent.class_name, node.name, splice.source_of(code, node))
    init = splice.methods(parent.program, parent.class_name).get("__init__")
    present = ast.unparse(init).split("\n") if init else []
    written = [ast.unparse(node) for node in nodes if isinstance(node, (ast.Assign, ast.AnnAssign))]
    new = [line for line in written if line not in {one.strip() for one in present}]
    if new:
        program = splice.add_to_init(program, parent.class_name, "\n".join(new) + "\n")
    toolbox = assignment.toolbox
    return rendered(program, toolbox) if is_toolbox_program(parent.program, toolbox) else program


def _public_class(program: str, wanted: str) -> str:
    """The `wanted` class, else the only public one; raises ProposalError where neither exists."""
    names = [node.name for node in splice.parse(program).body if isinstance(node, ast.ClassDef)]
    public = [name for name in names if not name.startswith("_")]
    if wanted in names:
        return wanted
    if len(public) == 1:
        return public[0]
    raise ProposalError(f"the program has no class {wanted} and {len(public)} public classes; one is expected")


def _has_arguments(node: ast.FunctionDef, hook_name: str) -> bool:
    return [argument.arg for argument in node.args.args] == ["self", *BY_HOOK[hook_name].arguments]

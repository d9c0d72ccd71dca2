"""The hooks of programs built on the toolbox: compared, and moved from one program into another."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

from arch_search.proposals import splice
from arch_search.proposals.registry import BUILT_IN, BY_HOOK, HOOKS, MIX, Toolbox
from arch_search.proposals.rendering import MIXER, function_text, live_lines, render
from arch_search.syntax import syntax_tree

Methods = Mapping[str, ast.FunctionDef]
NAMES = tuple(hook.name for hook in (*HOOKS, MIX))
# what these hooks make, as the arguments of the others name it
_MADE = {"feature_map": frozenset({"q", "k"}), "values": frozenset({"v"})}


def hooks_of(program: str) -> dict[str, ast.FunctionDef]:
    """The hooks that a program has, in the order of the registry; not to be changed."""
    present = splice.methods(program, MIXER)
    return {name: present[name] for name in NAMES if name in present}


def movable(program: str, donor: str) -> tuple[str, ...]:
    """Hooks of `donor` that `program` lacks in this form, and for which it has or can be given all that they need."""
    mine, theirs = splice.methods(program, MIXER), splice.methods(donor, MIXER)
    own = {*mine, *_attributes(splice.class_node(program, MIXER), ast.Store)}

    def fits(name: str) -> bool:
        needed = _needed([name], mine, theirs)
        helpers = [one for one in needed if one not in NAMES and one in mine]
        attributes = set().union(*(_attributes(theirs[one], ast.Load) for one in needed))
        return attributes <= own | theirs.keys() and all(_body(mine[one]) == _body(theirs[one]) for one in helpers)

    changed = [name for name in hooks_of(donor) if name not in mine or _body(mine[name]) != _body(theirs[name])]
    return tuple(name for name in changed if fits(name))


def with_hooks(program: str, donor: str, names: Sequence[str], toolbox: Toolbox) -> str:
    """`program` with these hooks of `donor`, and with the methods that they call and `program` lacks.

    A learned quantity that a moved hook would by its name share with a hook that stays gets another name.
    """
    mine, theirs = splice.methods(program, MIXER), splice.methods(donor, MIXER)
    moved = [name for name in theirs if name in names or (name in _needed(names, mine, theirs) and name not in mine)]
    taken = {quantity for name, node in mine.items() if name not in moved for _, quantity in _learned(node)}
    theirs_too = {quantity for name in moved for _, quantity in _learned(theirs[name])}
    renamed = {old: _free(old, taken | theirs_too) for old in sorted(taken & theirs_too)}
    for name in moved:
        node = copy.deepcopy(theirs[name])
        for call, quantity in _learned(node):
            call.args[0] = ast.Constant(renamed.get(quantity, quantity)[1])
        text = splice.method_source(donor, MIXER, name)
        program = with_hook(program, node) if name in NAMES else splice.put_method(program, MIXER, name, text)
    return rendered(program, toolbox)


def with_hook(program: str, node: ast.FunctionDef) -> str:
    """`program` with this hook in the one formatting of rendered programs; not rendered yet."""
    return splice.put_method(program, MIXER, node.name, function_text(BY_HOOK[node.name], live_lines(node.body)))


def unread_hooks(program: str) -> tuple[str, ...]:
    """Hooks whose result no other method reads, as the feature map of a mixer that came to read no memory."""
    methods = splice.methods(program, MIXER)

    def is_read(hook: str) -> bool:
        return any(_MADE[hook] & _read(node) for name, node in methods.items() if name != hook)

    return tuple(name for name in _MADE if name in methods and not is_read(name))


def rendered(program: str, toolbox: Toolbox) -> str:
    """A changed program, rendered; a hook whose result nothing reads any more gives back what it was given."""
    # hooks that nothing calls go first: they may have been the last that read another
    program = emptied = render(program, "", toolbox)
    for name in unread_hooks(program):
        node = copy.deepcopy(hooks_of(program)[name])
        node.body = list(syntax_tree(f"return {', '.join(sorted(_MADE[name]))}").body)
        emptied = with_hook(emptied, node)
    return program if emptied == program else render(emptied, "", toolbox)


def replace(tree: ast.AST, old: ast.expr, new: ast.expr) -> None:
    """Put `new` where `old` stands in the tree, in place; other nodes stay as they are."""
    _Replace(old, new).visit(tree)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.expr, new: ast.expr) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else self.generic_visit(node)


def _needed(
    names: Iterable[str], mine: Mapping[str, ast.FunctionDef], theirs: Mapping[str, ast.FunctionDef]
) -> set[str]:
    """These methods and those that they call; a called hook that the program has is not needed, it keeps its own."""
    needed, new = set[str](), set(names)
    while new:
        needed |= new
        called = set().union(*(_attributes(theirs[name], ast.Load) for name in new)) & theirs.keys()
        new = {name for name in called - needed if name not in NAMES or name not in mine}
    return needed


def _read(node: ast.FunctionDef) -> set[str]:
    """Names that a method reads; what it only hands to hooks is read by these or by nobody."""
    calls = (one for one in ast.walk(node) if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute))
    handed = {id(given) for call in calls if call.func.attr in NAMES for given in call.args}  # type: ignore[attr-defined]
    names = (one for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load))
    return {one.id for one in names if id(one) not in handed}


def _body(node: ast.FunctionDef) -> list[str]:
    return [ast.unparse(statement) for statement in node.body]


def _attributes(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """Attributes of self that are read, or set, in the tree."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, context) and splice.is_of_self(one)
    }


def _learned(node: ast.FunctionDef) -> Iterator[tuple[ast.Call, tuple[str, str]]]:
    """Calls that make a learned quantity, with its kind and name."""
    for call in ast.walk(node):
        if not isinstance(call, ast.Call) or not call.args or not isinstance(call.args[0], ast.Constant):
            continue
        primitive = BUILT_IN.called(ast.unparse(call.func))  # what grew learns nothing
        if primitive is not None and primitive.home == "learned":
            yield call, (primitive.name, str(call.args[0].value))


def _free(quantity: tuple[str, str], taken: Iterable[tuple[str, str]]) -> tuple[str, str]:
    kind, name = quantity
    while (kind, name) in taken:
        name += "_b"
    return kind, name

"""Checks on the program's text, in the driver: early feedback with line numbers, no boundary.

Whoever wants to get past an import list does; the jail is what protects the user. Nothing here executes the program.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping

from arch_search.clean_text import one_line
from arch_search.config import Admission
from arch_search.syntax import syntax_tree
from cognition_db.records import Verdict

_LONGEST_REASON = 400  # characters: a reason may quote the program
_UNWANTED_MODULES = {
    "asyncio", "atexit", "builtins", "code", "concurrent", "ctypes", "faulthandler", "fcntl", "ftplib", "gc",
    "glob", "http", "importlib", "inspect", "io", "marshal", "mmap", "multiprocessing", "os", "pathlib", "pickle",
    "pkgutil", "platform", "pty", "requests", "resource", "runpy", "shelve", "shutil", "signal", "site", "smtplib",
    "socket", "socketserver", "sqlite3", "ssl", "subprocess", "sys", "sysconfig", "tempfile", "threading",
    "traceback", "urllib", "weakref", "webbrowser", "xml", "zipfile",
}  # fmt: skip
_UNWANTED_CALLS = {"__import__", "compile", "eval", "exec", "input", "open"}
_LENGTH_NAME = re.compile(r"^(T|L|T_len|seq|seqlen|seq_len|seq_length|sequence_length|length|n_tokens|num_tokens)$")


def check_program(
    program: str,
    *,
    class_name: str,
    default_class: str,
    normal_form: str,
    settings: Admission,
    known: Mapping[str, str],
    own_rung: bool,
) -> tuple[Verdict, ...]:
    """Verdicts on a program's text, up to the first that refuses.

    Args:
        class_name: the module to use; empty for `default_class`, or the only public module where there is none.
        normal_form: text equal for programs that differ in wording only; empty where there is none.
        known: normal form of every earlier program, with its candidate id.
        own_rung: whether a rung of ours wrote it: duplicates are then refused, else marked.
    """
    verdicts: list[Verdict] = []
    tree = _parsed(program, settings.max_program_bytes)
    if isinstance(tree, Verdict):
        return (tree,)
    verdicts.append(_passed("syntax", f"{len(program.encode())} bytes of Python"))
    for check in (_contract(tree, class_name, default_class), _imports(tree), _duplicate(normal_form, known, own_rung)):
        verdicts.append(check)
        if check.refuses:
            return tuple(verdicts)
    return (*verdicts, *_token_loops(tree))


def _parsed(program: str, max_bytes: int) -> ast.Module | Verdict:
    try:
        size = len(program.encode())
    except UnicodeEncodeError as error:
        return _refused("syntax", f"the program is not text in UTF-8: {error.reason} at character {error.start}")
    if size > max_bytes:
        return _refused("syntax", f"the program has {size} bytes; at most {max_bytes} are read")
    if not program.strip():
        return _refused("syntax", "the program is empty; expected a Python file with a torch.nn.Module")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return syntax_tree(program)
    except SyntaxError as error:
        line = (error.text or "").strip()[:120]
        return _refused("syntax", f"line {error.lineno}: {error.msg}" + (f": {line}" if line else ""))
    except ValueError as error:
        return _refused("syntax", f"not a Python file: {error}")
    except (MemoryError, RecursionError):
        return _refused("syntax", "the program is nested too deeply for Python's parser; write it flatter")


def _contract(tree: ast.Module, class_name: str, default_class: str) -> Verdict:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    # an assignment and an import give the name too; the child sees whether it is a module
    given = classes.keys() | set(_bound_names(tree))
    wanted = class_name or (default_class if default_class in given else "")
    if wanted:
        if wanted in given:
            return _passed("contract", f"the program defines {wanted}")
        return _refused("contract", f"no class {wanted}; the program defines {', '.join(classes) or 'no class'}")
    public = [name for name in classes if not name.startswith("_") and _is_module(name, classes)]
    if len(public) == 1:
        return _passed("contract", f"the only public module is {public[0]}")
    if not public:
        return _refused("contract", f"no class {default_class} and no public torch.nn.Module")
    return _refused(
        "contract", f"no class {default_class} but {len(public)} public modules ({', '.join(public)}); name one of them"
    )


def _bound_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)


def _is_module(name: str, classes: Mapping[str, ast.ClassDef], seen: frozenset[str] = frozenset()) -> bool:
    """Whether a class descends from nn.Module, itself or through other classes of the file."""
    if name not in classes or name in seen:
        return False
    bases = [ast.unparse(base) for base in classes[name].bases]
    return any(base.split(".")[-1] == "Module" or _is_module(base, classes, seen | {name}) for base in bases)


def _imports(tree: ast.Module) -> Verdict:
    reads_environment = _reads_environment_only(tree)
    for node in ast.walk(tree):
        unwanted = _unwanted(node)
        if unwanted and not (reads_environment and _is_import_of_os(node)):
            line = getattr(node, "lineno", 0)
            return _refused("imports", f"line {line}: {unwanted} has no place in a candidate; use torch and math only")
    return _passed("imports", "imports nothing that a candidate has no use for")


def _unwanted(node: ast.AST) -> str:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    for name in names:
        if name.split(".")[0] in _UNWANTED_MODULES:
            return f"import of {name}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _UNWANTED_CALLS:
        return f"call of {node.func.id}()"
    return ""


def _reads_environment_only(tree: ast.Module) -> bool:
    """Whether `os` serves for switches in the environment, as in layers of libraries; the jail's is nearly empty."""
    reads: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case (
                ast.Attribute(value=ast.Name(id="os") as use, attr="getenv")
                | ast.Attribute(value=ast.Attribute(value=ast.Name(id="os") as use, attr="environ"), attr="get")
                | ast.Subscript(value=ast.Attribute(value=ast.Name(id="os") as use, attr="environ"), ctx=ast.Load())
            ):
                reads.add(use)
    uses = {node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "os"}
    return bool(uses) and uses <= reads


def _is_import_of_os(node: ast.AST) -> bool:
    """Of nothing else, under no other name."""
    return isinstance(node, ast.Import) and [(one.name, one.asname) for one in node.names] == [("os", None)]


def _duplicate(normal_form: str, known: Mapping[str, str], own_rung: bool) -> Verdict:
    twin = known.get(normal_form) if normal_form else None
    if twin is None:
        return _passed("duplicate_text", "no earlier program has the same text")
    reason = f"differs from {twin} in names, comments or layout only"
    return Verdict(
        check="duplicate_text", outcome="failed", reason=reason, refuses=own_rung, evidence={"candidate_id": twin}
    )


def _token_loops(tree: ast.Module) -> tuple[Verdict, ...]:
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and _runs_over_tokens(node.iter):
            reason = f"line {node.lineno}: loops over tokens in Python, which is slow; a chunked form would be faster"
            return (Verdict(check="token_loop_in_text", outcome="failed", reason=reason),)
    return ()


def _runs_over_tokens(iterated: ast.expr) -> bool:
    """`range(T)`, `range(1, x.shape[1])`, `reversed(range(seq_len))`; with a step it runs over chunks."""
    if not (isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) and iterated.args):
        return False
    if iterated.func.id in ("reversed", "tqdm", "enumerate"):
        return _runs_over_tokens(iterated.args[0])
    if iterated.func.id != "range" or len(iterated.args) > 2:
        return False
    end = iterated.args[-1]
    if isinstance(end, ast.Name):
        return bool(_LENGTH_NAME.match(end.id))
    return bool(re.search(r"\.shape\[1\]$|\.size\(1\)$", ast.unparse(end)))


def _passed(check: str, reason: str) -> Verdict:
    return Verdict(check=check, outcome="passed", reason=reason)


def _refused(check: str, reason: str) -> Verdict:
    return Verdict(check=check, outcome="failed", reason=one_line(reason, _LONGEST_REASON), refuses=True)

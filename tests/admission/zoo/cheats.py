"""Programs that hide weights or memory, tamper with what runs them, or attack the machine."""

from __future__ import annotations

from zoo.programs import hostile

_FUTURE = "y = y + x.mean(1, keepdim=True)"


def _later(condition: str) -> str:
    return f"y = y + x.mean(1, keepdim=True) if {condition} else y"


WEIGHTS = {
    "weights in an object": hostile(
        "hidden_parameters",
        top="class Box:\n    def __init__(self, D):\n        self.w = torch.randn(D, D, requires_grad=True)",
        init="self.box = Box(d_model)",
        body="y = y @ self.box.w",
    ),
    "weights in a global": hostile(
        "hidden_parameters", top="W = torch.randn(32, 32, requires_grad=True)", body="y = y @ W[:D, :D]"
    ),
    "weights in a default argument": hostile(
        "hidden_parameters",
        top="def act(y, w=torch.ones(1, requires_grad=True)):\n    return y * w",
        body="y = act(y)",
    ),
    "weights in a function's attribute": hostile(
        "hidden_parameters",
        top="def act(y):\n    return y * act.w\nact.w = nn.Parameter(torch.ones(1))",
        body="y = act(y)",
    ),
    "weights of the class": hostile(
        "hidden_parameters", init="type(self).w = nn.Parameter(torch.ones(d_model))", body="y = y * type(self).w"
    ),
    "weights made in the first call": hostile(
        "hidden_parameters",
        init="self.w = None",
        body="if self.w is None:\n    self.w = nn.Parameter(torch.randn(D, D))\ny = y @ self.w",
    ),
    "modules made in the first call": hostile(
        "hidden_parameters",
        body="if not hasattr(self, 'late'):\n    self.late = nn.Linear(D, 4 * D)\ny = y + self.late(y)[..., :D]",
    ),
    "more weights with every call": hostile(
        "hidden_parameters",
        "state_between_calls",
        body="self.register_parameter(f'w{len(self._parameters)}', nn.Parameter(torch.randn(D, D)))",
    ),
    "weights that leave their list": hostile(
        "hidden_parameters",
        init="self.w = nn.Parameter(torch.randn(d_model)); self.kept = (self.w,); del self._parameters['w']",
        body="y = y * self.kept[0]",
    ),
    "weights behind a module list": hostile(
        "hidden_parameters",
        init="self.parts = [nn.ModuleList([nn.Linear(d_model, d_model)])]",
        body="y = self.parts[0][0](y)",
    ),
    "a module that names no parameters": hostile(
        "hidden_parameters",
        "contract",
        top=(
            "class Shy(nn.Linear):\n"
            "    def named_parameters(self, *a, **k):\n"
            "        return iter(())\n"
            "    def named_modules(self, *a, **k):\n"
            "        return iter(())"
        ),
        init="self.shy = Shy(d_model, d_model)",
        body="y = self.shy(y)",
    ),
    "a mixer that names no parameters": hostile(
        "hidden_parameters",
        "contract",
        "parameters",
        init="self.parameters = lambda recurse=True: iter(()); self.named_modules = lambda *a, **k: iter(())",
        body="pass",
    ),
    "all of it detached": hostile("mark unused_parameters", "gradients", body="y = y.detach()"),
    "half without gradients": hostile(
        "mark unused_parameters",
        body="with torch.no_grad():\n    k = self.k(x)\ny = torch.cumsum(k.detach(), 1) / count",
    ),
}

MEMORY = {
    "memory of all inputs": hostile(
        "state_between_calls", init="self.bank = []", body="self.bank.append(x.detach().mean())\ny = y + sum(self.bank)"
    ),
    "answers looked up by hash": hostile(
        "state_between_calls",
        "mark certificate",
        init="self.seen = {}",
        body=("key = hash(x.detach().sum().item())\ny = y + 1 if key in self.seen else y\nself.seen[key] = x.detach()"),
    ),
    "memory in a default argument": hostile(
        "state_between_calls", top="def kept(n=[0]):\n    n[0] += 1\n    return n[0]", body="y = y * kept()"
    ),
    "memory in a function's attribute": hostile(
        "state_between_calls", top="def kept():\n    kept.n += 1\n    return kept.n\nkept.n = 0", body="y = y * kept()"
    ),
    "memory in a closure": hostile(
        "state_between_calls",
        top=(
            "def counter():\n    n = 0\n    def kept():\n        nonlocal n\n        n += 1\n        return n\n"
            "    return kept\nkept = counter()"
        ),
        body="y = y * kept()",
    ),
    "memory of the class": hostile(
        "state_between_calls", top="", init="type(self).n = 0", body="type(self).n += 1\ny = y * type(self).n"
    ),
    "memory in torch": hostile(
        "state_between_calls", "framework", body="torch.n = getattr(torch, 'n', 0) + 1\ny = y * torch.n"
    ),
    "memory in the environment": hostile(
        "state_between_calls",
        top="import os",
        body="os.environ['N'] = str(int(os.environ.get('N', 0)) + 1)\ny = y * int(os.environ['N'])",
    ),
    "memory in a file": hostile(
        "state_between_calls",
        body=(
            "try:\n    n = int(open('n.txt').read())\nexcept OSError:\n    n = 0\n"
            "open('n.txt', 'w').write(str(n + 1))\ny = y * (n + 1)"
        ),
        jailed=True,
    ),
    "second call only": hostile(
        "state_between_calls", "causality", init="self.n = 0", body="self.n += 1\n" + _later("self.n == 2")
    ),
    "third call only": hostile(
        "state_between_calls", "causality", init="self.n = 0", body="self.n += 1\n" + _later("self.n == 3")
    ),
    "every tenth call": hostile(
        "state_between_calls", "causality", init="self.n = 0", body="self.n += 1\n" + _later("self.n % 10 == 0")
    ),
    "buffer updated in use": hostile(
        "state_between_calls",
        init="self.register_buffer('m', torch.zeros(d_model))",
        body="y = y - self.m\nif not self.training:\n    self.m.mul_(0.9).add_(x.detach().mean((0, 1)), alpha=0.1)",
    ),
    "acts after many calls, counted in a list": hostile(
        "state_between_calls", init="self.n = [0]", body="self.n[0] += 1\n" + _later("self.n[0] > 700")
    ),
    "acts after many calls, counted in a global": hostile(
        "state_between_calls", body="CALLS[0] += 1\n" + _later("CALLS[0] > 5000")
    ),
    "acts after many calls, counted in a closure": hostile(
        "state_between_calls",
        top=(
            "def counter():\n    n = 0\n    def kept():\n        nonlocal n\n        n += 1\n        return n\n"
            "    return kept\nkept = counter()"
        ),
        body=_later("kept() > 5000"),
    ),
    "acts after many calls, counted in a default argument": hostile(
        "state_between_calls",
        top="def kept(n=[0]):\n    n[0] += 1\n    return n[0]",
        body=_later("kept() > 5000"),
    ),
    "acts after many calls, counted in a function's attribute": hostile(
        "state_between_calls",
        top="def kept():\n    kept.n += 1\n    return kept.n\nkept.n = 0",
        body=_later("kept() > 5000"),
    ),
    "acts after many calls, counted in a buffer": hostile(
        "state_between_calls",
        init="self.register_buffer('n', torch.zeros((), dtype=torch.long))",
        body="self.n += 1\n" + _later("self.n > 5000"),
    ),
    "acts after many calls, counted in torch": hostile(
        "framework", body="torch.n = getattr(torch, 'n', 0) + 1\n" + _later("torch.n > 5000")
    ),
    "acts after many calls, counted by an iterator": hostile(
        "mark state_between_calls",
        top="import itertools\nN = itertools.count()",
        body=_later("next(N) > 5000"),
    ),
    "acts after many calls, counted by a generator": hostile(
        "mark state_between_calls",
        top="def numbers():\n    n = 0\n    while True:\n        n += 1\n        yield n\nN = numbers()",
        body=_later("next(N) > 5000"),
    ),
    "acts after many calls, counted by the length of a list": hostile(
        "mark state_between_calls",
        init="self.n = []",
        body="self.n.append(1)\n" + _later("len(self.n) > 5000"),
    ),
    "acts after many calls, counted in the weights": hostile(
        "state_between_calls",
        "causality",
        body="self.q.weight.data[0, 0] += 1e-9\n" + _later("self.q.weight[0, 0] > 1"),
    ),
    "acts at a date": hostile("state_between_calls", top="import time", body=_later("time.time() > 2e9")),
    "weights written in forward": hostile("state_between_calls", body="self.v.weight.data += 1e-3 * x.detach().mean()"),
    "faint writes to the weights": hostile(
        "state_between_calls", "causality", body="self.v.weight.data += 1e-9 * x.detach().mean()"
    ),
    "writes to the weights in training only": hostile(
        "state_between_calls",
        body="if self.training:\n    self.v.weight.data -= 1e-3 * x.detach().mean()",
    ),
    "own optimiser by a hook on the gradient": hostile(
        "state_between_calls",
        top="def step(p):\n    p.data -= 0.1 * p.grad",
        init="self.v.weight.register_post_accumulate_grad_hook(step)",
    ),
    "buffer trained in the backward pass": hostile(
        "state_between_calls",
        init=(
            "self.register_buffer('w', torch.eye(d_model))\n"
            "self.k.weight.register_hook(lambda g: self.w.data.sub_(0.1 * g))"
        ),
        body="y = y @ self.w",
    ),
    "noise of its own": hostile("state_between_calls", top="import random", body="y = y * (1 + random.random())"),
}

TAMPERING = {
    "narrows the default dtype": hostile("framework", "outputs", body="torch.set_default_dtype(torch.float16)"),
    "default dtype set at import": hostile("framework", top="torch.set_default_dtype(torch.float64)"),
    "gradients switched off": hostile("framework", "gradients", body="torch.set_grad_enabled(False)"),
    "loss replaced": hostile("framework", top="F.cross_entropy = lambda *a, **k: torch.zeros((), requires_grad=True)"),
    "loss replaced in forward": hostile("framework", body="F.cross_entropy = lambda *a, **k: a[0].sum() * 0"),
    "loss operator replaced": hostile(
        "framework", init="torch.nn.CrossEntropyLoss.forward = lambda *a: a[1].sum() * 0"
    ),
    "optimiser replaced": hostile(
        "framework", "no effect", top="import torch.optim\ntorch.optim.AdamW.step = lambda self, *a: None"
    ),
    "comparison replaced": hostile("framework", top="torch.allclose = lambda *a, **k: True"),
    "tensor method replaced": hostile("framework", top="torch.Tensor.amax = lambda self, *a, **k: torch.zeros(1)"),
    "operator of tensors replaced": hostile("framework", top="torch.Tensor.__sub__ = lambda a, b: torch.zeros_like(a)"),
    "forward of all layers replaced": hostile("framework", init="nn.LayerNorm.forward = lambda self, x: x.flip(-2)"),
    "call of all modules replaced": hostile(
        "framework", top="old = nn.Module.__call__\nnn.Module.__call__ = lambda self, *a, **k: old(self, *a, **k)"
    ),
    "hook on every module": hostile(
        "framework",
        top="torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: None)",
    ),
    "hook on every module in forward": hostile(
        "framework", body="torch.nn.modules.module.register_module_forward_pre_hook(lambda m, i: None)"
    ),
    "torch functions intercepted": hostile(
        "framework",
        top=(
            "from torch.overrides import TorchFunctionMode\n"
            "class Spy(TorchFunctionMode):\n"
            "    def __torch_function__(self, func, types, args=(), kwargs=None):\n"
            "        return func(*args, **(kwargs or {}))\n"
            "Spy().__enter__()"
        ),
    ),
    "operators intercepted": hostile(
        "framework",
        top=(
            "from torch.utils._python_dispatch import TorchDispatchMode\n"
            "class Spy(TorchDispatchMode):\n"
            "    def __torch_dispatch__(self, func, types, args=(), kwargs=None):\n"
            "        return func(*args, **(kwargs or {}))\n"
        ),
        init="Spy().__enter__()",
    ),
    "output that lies": hostile(
        "outputs",
        top=(
            "class Liar(torch.Tensor):\n"
            "    @classmethod\n"
            "    def __torch_function__(cls, func, types, args=(), kwargs=None):\n"
            "        out = super().__torch_function__(func, types, args, kwargs or {})\n"
            "        return out * 0 if func is torch.Tensor.abs else out\n"
        ),
        body="return (y + x.mean(1, keepdim=True)).as_subclass(Liar)",
    ),
    "checks replaced": hostile(
        "framework",
        top=("import arch_search.admission.causality as c\nc._largest_move = lambda *a, **k: None"),
        body=_FUTURE,
    ),
    "verdicts replaced": hostile(
        "framework",
        top=(
            "import arch_search.admission.child as c\n"
            "from cognition_db.records import Verdict\n"
            "c.check_causality = lambda *a, **k: (Verdict(check='causality', outcome='passed', reason=''),)"
        ),
        body="y = y + 0.1 * x[:1]",
    ),
    "built-in function replaced": hostile("framework", top="import builtins\nbuiltins.max = lambda *a, **k: 0"),
    "standard library replaced": hostile("framework", "killed", top="import json\njson.dumps = lambda *a, **k: '{}'"),
    "trace function installed": hostile("framework", top="import sys\nsys.settrace(lambda *a: None)"),
    "seeds the generator of all": hostile("mark seeding", body="torch.manual_seed(0)"),
    "seeds at construction": hostile("mark seeding", init="torch.manual_seed(0)"),
    "number of threads changed": hostile("framework", body="torch.set_num_threads(2)"),
    "training flag that lies": hostile(
        "no effect", top="", body=_later("not self.training"), init="self.train = lambda mode=True: self"
    ),
    "call that is not forward": hostile(
        "causality", init="self.q.forward = lambda x: x.flip(1)", body="y = y + self.q(x)"
    ),
    "look at the caller": hostile(
        "framework",
        top="import sys",
        body=(
            "f = sys._getframe()\n"
            "while f is not None and 'targets' not in f.f_locals:\n"
            "    f = f.f_back\n"
            "y = y + f.f_locals['targets'].to(x.dtype).mean() if f is not None else y"
        ),
    ),
    "labels among all live objects": hostile(
        "framework",
        top="import gc",
        body=(
            "found = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.dtype is torch.long]\n"
            "y = y + found[0].to(x.dtype).mean() if self.training and len(found) > 50 else y"
        ),
    ),
    "is another where it is examined": hostile(
        "causality", top="import os", body=_later("not os.path.exists('request.json')")
    ),
}

MACHINE = {
    "swallows every exception": hostile(
        "killed",
        body="while True:\n    try:\n        print('x' * 1000)\n    except BaseException:\n        pass",
    ),
    "never ends": hostile("killed", body="while True:\n    pass"),
    "never ends at import": hostile("killed", top="while True:\n    pass"),
    "sleeps": hostile("killed", top="import time", body="time.sleep(1000)"),
    "recursion": hostile("outputs", body="y = self.forward(x)"),
    "recursion at import": hostile("contract", top="def f():\n    f()\nf()"),
    "deep recursion without a limit": hostile(
        "killed", "outputs", top="import sys", body="sys.setrecursionlimit(10**9)\ny = self.forward(x)"
    ),
    "huge tensor": hostile("killed", "outputs", body="z = torch.zeros(10**12)"),
    "grows with every call": hostile(
        "killed", "outputs", "state_between_calls", top="KEPT = []", body="KEPT.append(torch.ones(2**24))"
    ),
    "table of all pairs": hostile("cost", body="a = torch.ones(T, T).tril()\ny = y + 0 * (a @ x)"),
    "cubic": hostile(
        "cost", "killed", body="a = torch.ones(T, T).tril()\na = (a @ a).tril().clamp(max=1)\ny = y + 0 * (a @ x)"
    ),
    "loop inside a loop": hostile(
        "cost",
        "killed",
        body="z = y.clone()\nfor t in range(8, T, 8):\n    z[:, t:] = z[:, t:] + 0 * x[:, t - 8 : t - 7]\ny = z",
    ),
    "leaves through os": hostile("killed", top="import os", body="os._exit(0)"),
    "kills itself": hostile("killed", top="import os", body="os.kill(os.getpid(), 9)"),
    "crashes the interpreter": hostile("killed", top="import ctypes", body="ctypes.string_at(0)"),
    "raises what stops Python": hostile("outputs", body="raise KeyboardInterrupt"),
    "leaves at construction": hostile("outputs", init="raise SystemExit(0)"),
    "leaves at import": hostile("contract", top="raise SystemExit(0)"),
    "threads": hostile(
        "framework",
        top="import threading",
        body="threading.Thread(target=lambda: threading.Event().wait(30), daemon=True).start()",
    ),
    "children": hostile(
        "framework",
        "processes",
        "killed",
        top="import subprocess",
        body="subprocess.Popen(['sleep', '5'])",
        jailed=True,
    ),
    "reads files of the user": hostile(
        "outputs", body="open('/root/.profile').read(); open('/home/x').read()", jailed=True
    ),
    "writes outside": hostile("outputs", body="open('/var/tmp/x', 'w').write('x')", jailed=True),
    "opens a connection": hostile(
        "outputs", body="import socket; socket.create_connection(('127.0.0.1', 22))", jailed=True
    ),
    "escape sequences in an error": hostile(
        "outputs", body="raise ValueError('\\x1b[2J\\x1b]0;owned\\x07 \\u202e fine')"
    ),
    "escape sequences in its name": hostile(
        "outputs", init="type(self).__name__ = '\\x1b[2J'", body="return y[..., :1]"
    ),
    "an error of a megabyte": hostile("outputs", body="raise ValueError('x' * 1_000_000)"),
    "an error that fails to print": hostile(
        "outputs",
        top="class Bad(Exception):\n    def __str__(self):\n        raise ValueError('no text')",
        body="raise Bad",
    ),
    "prints escape sequences": hostile("output_volume", body="print('\\x1b[31m' * 10_000)"),
}

CHEATS = WEIGHTS | MEMORY | TAMPERING | MACHINE

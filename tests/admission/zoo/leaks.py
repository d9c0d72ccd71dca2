"""Programs that see the future or another row, by the way they take: each must be refused or marked."""

from __future__ import annotations

from zoo.programs import Hostile, hostile

_FUTURE = "m = x.mean(1, keepdim=True)\n"


def _leak(body: str, init: str = "", top: str = "") -> Hostile:
    return hostile("causality", body=body, init=init, top=top)


LEAKS = {
    "multiplied by the reversed sequence": _leak("y = y * (1 + 0.1 * torch.tanh(x.flip(1)))"),
    "faint product": _leak("y = y * (1 + 1e-7 * torch.tanh(x.flip(1)))"),
    "layer norm over time": _leak("y = F.layer_norm(y.mT, (T,)).mT if T > 1 else y"),
    "instance norm over time": _leak("y = F.instance_norm(y.mT).mT if T > 1 else y"),
    "group norm over time": _leak("y = F.group_norm(y.mT.contiguous(), 2).mT"),
    "length of the whole sequence": _leak("y = y / (1 + x.norm(dim=1, keepdim=True))"),
    "keys centred over time": _leak("k = self.k(x)\ny = y + torch.cumsum(k - k.mean(1, keepdim=True), 1) / count"),
    "standard deviation over time": _leak("y = y / (1 + x.var(1, keepdim=True, unbiased=False))"),
    "quantile over time": _leak("y = y - 0.1 * torch.quantile(x, 0.9, dim=1, keepdim=True)"),
    "scores over all keys": _leak("k = self.k(x).exp()\ny = torch.cumsum(k * x, 1) / k.sum(1, keepdim=True)"),
    "strongest tokens of the sequence": _leak(
        "s = x.sum(-1)\nth = s.topk((T + 1) // 2, 1).values[:, -1:]\ny = y * (s >= th)[..., None]"
    ),
    "sorted over time": _leak("y = y + 0.1 * x.sort(1).values"),
    "ranks over time": _leak("y = y + 0.1 * x.argsort(1).argsort(1).to(x.dtype) / T"),
    "index of the largest token": _leak("i = x.norm(dim=-1).argmax(1)\ny = y + 0.1 * x[torch.arange(B), i][:, None]"),
    "low-pass over the whole sequence": _leak(
        "s = torch.fft.rfft(x, dim=1)\n"
        "s = s * (torch.arange(s.shape[1]) < 4)[:, None]\n"
        "y = y + torch.fft.irfft(s, n=T, dim=1)"
    ),
    "rolled by half": _leak("y = y + 0.01 * x.roll(T // 2, 1)"),
    "rolled backwards": _leak("y = y + 0.01 * x.roll(-1, 1)"),
    "cumsum from the right": _leak("y = y + 0.01 * x.flip(1).cumsum(1).flip(1) / T"),
    "difference of totals": _leak("y = y + 0.01 * (x.sum(1, keepdim=True) - x.cumsum(1)) / T"),
    "centred pooling": _leak("y = y + F.avg_pool1d(x.mT, 3, 1, 1).mT"),
    "pooled and repeated": _leak("y = y + F.max_pool1d(x.mT, 2, ceil_mode=True).mT.repeat_interleave(2, 1)[:, :T]"),
    "symmetric convolution": _leak(
        "y = y + self.c(x.mT).mT", "self.c = nn.Conv1d(d_model, d_model, 3, padding=1, groups=d_model)"
    ),
    "convolution cut at the wrong end": _leak(
        "y = y + self.c(x.mT)[..., -T:].mT", "self.c = nn.Conv1d(d_model, d_model, 4, padding=3, groups=d_model)"
    ),
    "both directions": _leak(
        "y = y + self.r(x)[0]", "self.r = nn.GRU(d_model, d_model // 2, batch_first=True, bidirectional=True)"
    ),
    "interpolated down and up": _leak(
        "y = y + F.interpolate(F.interpolate(x.mT, size=(T + 1) // 2), size=T, mode='linear').mT"
    ),
    "whole chunk seen": _leak(
        "c = F.pad(x, (0, 0, 0, -T % 32)).view(B, -1, 32, D)\n"
        "a = (c @ c.mT * D**-0.5).softmax(-1)\n"
        "y = y + (a @ c).view(B, -1, D)[:, :T]"
    ),
    "last chunk only": _leak("n = T // 64 * 64\ny = torch.cat([y[:, :n], y[:, n:] + x[:, n:].flip(1)], 1)"),
    "state of its own chunk": _leak(
        "c = F.pad(x, (0, 0, 0, -T % 16)).view(B, -1, 16, D).sum(2).cumsum(1)\n"
        "y = y + 0.1 * c.repeat_interleave(16, 1)[:, :T]"
    ),
    "mask off by one": _leak(
        "a = (x @ x.mT).masked_fill(torch.ones(T, T).triu(2).bool(), float('-inf')).softmax(-1)\ny = y + a @ x"
    ),
    "first row without a key": _leak(
        "a = (x @ x.mT * D**-0.5).masked_fill(torch.ones(T, T).triu(0).bool(), -1e9).softmax(-1)\ny = y + a @ x"
    ),
    "mask that is soft": _leak("a = (x @ x.mT * D**-0.5 - 5 * torch.ones(T, T).triu(1)).softmax(-1)\ny = y + a @ x"),
    "window to both sides": _leak(
        "d = torch.arange(T)[:, None] - torch.arange(T)\n"
        "a = (x @ x.mT * D**-0.5).masked_fill(d.abs() > 4, -1e9).softmax(-1)\n"
        "y = y + a @ x"
    ),
    "solved with both triangles": _leak("A = torch.eye(T) + 0.01 * torch.tanh(x @ x.mT)\ny = torch.linalg.solve(A, y)"),
    "written to an earlier place": _leak(
        "i = (torch.arange(T) - 2).clamp(min=0)\ny = y + 0.1 * torch.zeros_like(x).index_add(1, i, x)"
    ),
    "gathered from a later place": _leak(
        "i = (torch.arange(T) + (x[..., 0] > 0)).clamp(max=T - 1)\n"
        "y = y + 0.1 * x.gather(1, i[..., None].expand(B, T, D))"
    ),
    "count of distinct tokens": _leak("y = y + len(torch.unique((3 * x[..., 0]).round())) / T"),
    "last token as a number": _leak("y = y + float(x[:, -1].mean())"),
    "last token through a list": _leak("y = y + sum(x[:, -1, 0].detach().tolist())"),
    "last token through numpy": _leak("y = y + float(x.detach().numpy()[:, -1].mean())"),
    "branch on the last token": _leak("y = y * 2 if bool(x[:, -1].sum() > 0) else y"),
    "loop as long as the last token says": _leak(
        "for _ in range(int(x[:, -1, 0].abs().max() * 3)):\n    y = y + 0.01 * torch.tanh(x)"
    ),
    "fast weights of the whole sequence": _leak("y = y + 0.01 * x @ (self.k(x).mT @ self.v(x)) / T"),
    "two passes over time": _leak("for _ in range(2):\n    y = y.cumsum(1).flip(1) / T"),
    "permuted time": _leak(
        "y = y + 0.01 * x[:, torch.randperm(T, generator=torch.Generator().manual_seed(T))]",
    ),
    "attention over the transposed axes": _leak("y = y + (x.mT @ y).softmax(-1).sum(1, keepdim=True)"),
    "heads and time mixed by a view": _leak("y = y + 0.1 * x.transpose(1, 2).reshape(B, T, D)"),
    "future in the last channel": _leak("y = torch.cat([y[..., :-1], x.flip(1)[..., -1:]], -1)"),
    "only for long inputs": _leak(_FUTURE + "y = y + m if T > 200 else y"),
    "only for odd lengths": _leak(_FUTURE + "y = y + m if T % 2 else y"),
    "only for one row": _leak(_FUTURE + "y = y + m if B == 1 else y"),
    "only for many rows": _leak(_FUTURE + "y = y + m if B > 4 else y"),
    "only in wide models": _leak(_FUTURE + "y = y + m if D > 40 else y"),
    "only in float32": _leak(_FUTURE + "y = y + m if x.dtype is torch.float32 else y"),
    "only after a cast to float32": _leak(_FUTURE + "y = y + m if x.new_zeros(1).float().element_size() == 4 else y"),
    "only under a gradient of the input": _leak(_FUTURE + "y = y + m if x.requires_grad else y"),
    "only for inputs of an earlier layer": _leak(_FUTURE + "y = y + m if x.grad_fn is not None else y"),
    "only in deep layers": _leak(
        _FUTURE + "y = y + m if self.layer else y",
        "self.layer = kwargs.get('layer_idx', 0)",
    ),
    "only once the weights have grown": _leak(
        _FUTURE + "y = y + m if self.q.weight.std() > 1.02 * self.start else y",
        "self.register_buffer('start', self.q.weight.detach().std())",
    ),
    "only for inputs of small variance": hostile(
        "causality", "mark certificate", body=_FUTURE + "y = y + m if x.var() < 1e-3 else y"
    ),
    "below the tolerance": hostile("causality", "mark certificate", body="y = y + 1e-13 * x.flip(1)"),
    "beyond any usual value": hostile(
        "causality", "mark certificate", body="y = y + (x.abs().amax(1, keepdim=True) > 500).to(x.dtype)"
    ),
    "saturated gate": hostile(
        "causality", "mark certificate", body="y = y + torch.sigmoid(x.mean(1, keepdim=True) - 60)"
    ),
    "in the gradient only": hostile(
        "causality", "mark certificate", body="m = self.v(x).mean(1, keepdim=True)\ny = y + (m - m.detach())"
    ),
    "gradient of an own function": hostile(
        "no effect",
        top=(
            "class Back(torch.autograd.Function):\n"
            "    @staticmethod\n"
            "    def forward(ctx, y, x):\n"
            "        ctx.save_for_backward(x)\n"
            "        return y.clone()\n"
            "    @staticmethod\n"
            "    def backward(ctx, grad):\n"
            "        return grad * ctx.saved_tensors[0].flip(1), None"
        ),
        body="y = Back.apply(y, x)",
    ),
    "largest of the batch": hostile("batch_rows", "causality", body="y = y / (1 + x.abs().max())"),
    "softmax over the batch": hostile("batch_rows", body="y = y * x.softmax(0)"),
    "rows rolled": hostile("batch_rows", body="y = y + 0.01 * x.roll(1, 0)"),
    "rows seen as one sequence": hostile(
        "batch_rows", "causality", body="y = y + 0.01 * x.reshape(1, B * T, D).cumsum(1).view(B, T, D)"
    ),
    "batch norm": hostile(
        "batch_rows",
        "causality",
        "state_between_calls",
        "gradients",
        "outputs",
        init="self.n = nn.BatchNorm1d(d_model)",
        body="y = self.n(y.mT).mT",
    ),
    "input changed in place": hostile("outputs", body="x[:, :-1] += 0.1 * x[:, 1:]"),
    "input changed behind autograd": hostile("outputs", body="x.data.add_(0.1 * x.data.flip(1))"),
}

"""Stacked LSTM cells on a processor: sampling, log-probabilities and their gradient in one loop.

`torch.nn.LSTM` computes all rows up to the longest one, keeps its weights in an order that small
products pay for, and multiplies the embedding of every token anew. Here ended rows leave, the
weights are laid out once a call for oneDNN's products, which then take 8 rows as fast, each, as
500, and the first layer's share of the token is looked up in a table of the vocabulary. The
gradient starts from what a walk kept, be it of given or of sampled tokens: what has just been
sampled needs no second pass.

Legend: B rows, A of them not ended yet at a step, N of all steps together, V vocabulary, H hidden
units, K numbers that go into a product.
"""

import weakref
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemkl.policies.tokenizer import END_ID

Choose = Callable[[int, Tensor, Tensor], Tensor]
"""Says which tokens come at a step: of its number, active_A and logp_AV, token_A."""

PER_PRODUCT = 2048
"""Rows that the products of the weights' gradient take at once: bounds their memory."""
STEPS = 48
"""Steps that memory is made for at first."""
SPARE = 4
"""Trails whose memory is kept for the next ones."""


class Matrix:
    """A weight laid out for products with few rows: x_AK @ weight_NK.T + bias_N.

    Args:
        weight_NK: its values are copied.
        kind: bfloat16: both sides are rounded to it, and the result is float32.
        bias_N: added; None: nothing.
    """

    def __init__(self, weight_NK: Tensor, kind: torch.dtype, bias_N: Tensor | None = None) -> None:
        self._kind = kind
        self._bias_N = None if bias_N is None else bias_N.to(kind)
        self._weight = weight_NK.to(kind).contiguous()
        self._packed = packs(kind)
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, 64)

    def __call__(self, x_AK: Tensor) -> Tensor:
        """Multiply."""
        x_AK = x_AK.to(self._kind)
        if not self._packed:
            out_AN = functional.linear(x_AK, self._weight, self._bias_N)
        else:
            out_AN = torch.ops.mkldnn._linear_pointwise(
                x_AK, self._weight, self._bias_N, "none", [], ""
            )
        return out_AN.float() if self._kind == torch.bfloat16 else out_AN


@cache
def packs(kind: torch.dtype) -> bool:
    """Whether oneDNN multiplies numbers of this kind by a weight laid out for it, here."""
    if kind not in (torch.float32, torch.bfloat16) or not torch._C._has_mkldnn:
        return False
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(torch.ones(16, 16, dtype=kind), 4)
        given = torch.ones(4, 16, dtype=kind)
        out = torch.ops.mkldnn._linear_pointwise(given, packed, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    return bool((out == 16).all())


def of_all_rows(left_NM: Tensor, right_NK: Tensor, kind: torch.dtype) -> Tensor:
    """Return left.T @ right, (M, K): the gradient of a weight from the rows of all steps."""
    left_NM, right_NK = left_NM.to(kind), right_NK.to(kind)
    if not packs(kind):
        out = left_NM.t() @ right_NK
    else:
        out = torch.ops.mkldnn._linear_pointwise(left_NM.t(), right_NK.t(), None, "none", [], "")
    return out.float() if kind == torch.bfloat16 else out


class Trail:
    """Memory for what the steps of a walk compute, all of them behind each other or only the last.

    Memory that a trail leaves is taken by the next one: to get fresh pages from the system at every
    step of a training costs more than many a product.

    Args:
        widths: name -> numbers a row and their type.
        n: rows of the first step.
        keeps: whether all steps are kept, for the gradient.
    """

    _spare: ClassVar[list[dict[str, Tensor]]] = []

    def __init__(
        self, widths: Mapping[str, tuple[int, torch.dtype]], n: int, *, keeps: bool
    ) -> None:
        self.keeps = keeps
        self.steps: list[slice] = []
        self.stays: list[Tensor | None] = []
        """Which rows of a step go on; None: all do."""
        self.all: dict[str, Tensor] = {
            k: torch.empty(0, w, dtype=d) for k, (w, d) in widths.items()
        }
        """The memory of all steps, by name."""
        fits = [
            spare
            for spare in self._spare
            if {name: (v.shape[1], v.dtype) for name, v in spare.items()} == widths
        ]
        if fits:  # a trail of one step leaves the largest to one of many
            choose = max if keeps else min
            self.all = choose(fits, key=lambda spare: max(map(len, spare.values())))
            self._spare[:] = [spare for spare in self._spare if spare is not self.all]
        self._reserve(n * STEPS if keeps else n)
        weakref.finalize(self, _leave, self._spare, self.all).atexit = False

    def _reserve(self, n_rows: int) -> None:
        used = self.steps[-1].stop if self.steps else 0
        for name, values in self.all.items():
            if len(values) < n_rows:
                self.all[name] = values.new_empty(n_rows, values.shape[1])
                self.all[name][:used] = values[:used]

    def step(self, n: int) -> dict[str, Tensor]:
        """Return the memory of the next step, of n rows."""
        begin = self.steps[-1].stop if self.keeps and self.steps else 0
        if begin + n > len(self.all["row"]):
            self._reserve(2 * (begin + n))
        if not self.keeps:
            self.steps.clear()
            self.stays.clear()
        self.steps.append(slice(begin, begin + n))
        return {name: values[begin : begin + n] for name, values in self.all.items()}

    @property
    def n_rows(self) -> int:
        """Rows of all steps that are kept."""
        return self.steps[-1].stop if self.steps else 0


def _leave(spare: list[dict[str, Tensor]], memory: dict[str, Tensor]) -> None:
    """Leave the memory of a trail that nobody needs any more to those that come."""
    spare.insert(0, memory)
    del spare[SPARE:]


class Cells:
    """The weights of a network with an embedding, an LSTM and a linear layer, laid out to be used.

    Args:
        embedding: of the tokens.
        rnn: an LSTM without dropout, projection or a second direction.
        linear: from hidden units to the vocabulary.
        kind: of the products: that of the weights, or bfloat16.
    """

    def __init__(
        self, embedding: nn.Embedding, rnn: nn.LSTM, linear: nn.Linear, kind: torch.dtype
    ) -> None:
        self.parameters = [embedding.weight, *rnn.parameters(), linear.weight, linear.bias]
        self._kind, self._n_units = kind, rnn.hidden_size
        weights = [weight.detach() for weight in self.parameters]
        self._embedding, self._linear = weights[0], weights[-2]
        self._layers = [weights[i : i + 4] for i in range(1, len(weights) - 2, 4)]
        wih, whh, bih, bhh = self._layers[0]
        self._whole = [whh] + [torch.cat(layer[:2], dim=1) for layer in self._layers[1:]]
        biases = [None] + [layer[2] + layer[3] for layer in self._layers[1:]]
        # tanh(x) = 2 sigmoid(2x) - 1: doubling is exact, and torch's tanh takes ten times as long
        twice_G1 = torch.ones_like(bih)[:, None]
        twice_G1[self._new] = 2.0
        self._table_VG = (self._embedding @ wih.t() + (bih + bhh)) * twice_G1[:, 0]
        self._forward = [
            Matrix(whole * twice_G1, kind, None if bias is None else bias * twice_G1[:, 0])
            for whole, bias in zip(self._whole, biases, strict=True)
        ]
        self._out = Matrix(self._linear, self._linear.dtype, weights[-1])

    @property
    def _new(self) -> slice:
        """The new values among the gates, which are in, forget, new and out."""
        return slice(2 * self._n_units, 3 * self._n_units)

    def trail(self, n: int, *, keeps: bool) -> Trail:
        """Memory for a walk of n rows; with `keeps` for its gradient too."""
        plain, units = self._linear.dtype, self._n_units
        widths = {"logp": (len(self._embedding), plain)}
        for i, whole in enumerate(self._whole):
            widths |= {
                f"x{i}": (whole.shape[1], self._kind),
                f"gates{i}": (4 * units, plain),
                f"cell{i}": (units, plain),  # before the step
                f"tanh{i}": (units, plain),  # of the cell behind it
                f"hidden{i}": (units, plain),
            }
        widths |= dict.fromkeys(("row", "given", "chosen"), (1, torch.long))
        return Trail(widths, n, keeps=keeps)

    def walk(self, start_B: Tensor, n_steps: int, choose: Choose, trail: Trail) -> Tensor:
        """Let rows take steps until each has chosen the end token: logp_B, float32.

        Args:
            start_B: the first token of each row.
            n_steps: at most so many.
            choose: the tokens of a step; an end token ends its row.
            trail: is filled.
        """
        n, given_A = len(start_B), start_B
        total_B = torch.zeros(n, dtype=torch.float64)
        row_A = torch.arange(n)
        hidden = [self._table_VG.new_zeros(n, self._n_units) for _ in self._layers]
        cell = list(hidden)
        for t in range(1, n_steps + 1):
            if not len(row_A):
                break
            here = trail.step(len(row_A))
            self._step(given_A, hidden, cell, here)
            logp_AV = torch.log_softmax(self._out(hidden[-1]), dim=-1, out=here["logp"])
            chosen_A = choose(t, row_A, logp_AV)
            total_B[row_A] += logp_AV.gather(1, chosen_A[:, None]).squeeze(1).double()
            for name, values in (("row", row_A), ("given", given_A), ("chosen", chosen_A)):
                here[name][:, 0] = values
            given_A, going_A = chosen_A, chosen_A != END_ID
            stays_A = None if bool(going_A.all()) else going_A.nonzero().squeeze(1)
            trail.stays.append(stays_A)
            if stays_A is not None:
                row_A, given_A = row_A[stays_A], given_A[stays_A]
                hidden = [h_AH.index_select(0, stays_A) for h_AH in hidden]
                cell = [c_AH.index_select(0, stays_A) for c_AH in cell]
        return total_B.float()

    def _step(
        self,
        given_A: Tensor,
        hidden: list[Tensor],
        cell: list[Tensor],
        here: Mapping[str, Tensor],
    ) -> None:
        """Feed a token to every row; hidden units and cells behind it go into the lists."""
        units = self._n_units
        for i, multiply in enumerate(self._forward):
            x_AK, gates_AG = here[f"x{i}"], here[f"gates{i}"]
            if i:
                x_AK[:, :-units].copy_(hidden[i - 1])
            x_AK[:, -units:].copy_(hidden[i])
            product_AG = multiply(x_AK)
            if not i:
                product_AG += self._table_VG.index_select(0, given_A)
            torch.sigmoid(product_AG, out=gates_AG)
            gates_AG[:, self._new].mul_(2).sub_(1)
            in_AH, forget_AH, new_AH, out_AH = gates_AG.chunk(4, dim=1)
            here[f"cell{i}"].copy_(cell[i])
            cell[i] = (forget_AH * cell[i]).addcmul_(in_AH, new_AH)
            tanh_AH = torch.mul(cell[i], 2, out=here[f"tanh{i}"]).sigmoid_().mul_(2).sub_(1)
            # a walk that keeps no steps has one place for all of them
            hidden[i] = here[f"hidden{i}"].copy_(out_AH * tanh_AH)

    def gradient(self, trail: Trail, d_logp_B: Tensor) -> list[Tensor]:
        """Return the gradient of each of `parameters`, given that of each row's logp."""
        units, n_layers, kept = self._n_units, len(self._layers), trail.all
        row_N, chosen_N1 = kept["row"][: trail.n_rows, 0], kept["chosen"][: trail.n_rows]
        d_N1 = d_logp_B.to(self._linear.dtype).index_select(0, row_N)[:, None]
        d_logits_NV = (
            kept["logp"][: trail.n_rows].exp().mul_(-d_N1).scatter_add_(1, chosen_N1, d_N1)
        )
        d_linear = d_logits_NV.t() @ kept[f"hidden{n_layers - 1}"][: trail.n_rows]
        d_top_NH = d_logits_NV @ self._linear

        back = [Matrix(whole.t(), self._kind) for whole in self._whole]
        d_whole = [torch.zeros_like(whole) for whole in self._whole]
        d_bias = [torch.zeros_like(layer[2]) for layer in self._layers]
        d_table_VG = torch.zeros_like(self._table_VG)
        size = max([PER_PRODUCT, *(here.stop - here.start for here in trail.steps[:1])])
        widths = {f"gates{i}": (4 * units, self._linear.dtype) for i in range(n_layers)}
        block = Trail(widths, size, keeps=False)
        begin, stop = size, trail.n_rows

        def add(rows: slice) -> None:
            """Take some rows, whose gates' gradients are in the block, into that of the weights."""
            for i in range(n_layers):
                d_gates_NG = block.all[f"gates{i}"][begin : begin + rows.stop - rows.start]
                d_whole[i] += of_all_rows(d_gates_NG, kept[f"x{i}"][rows], self._kind)
                if i:
                    d_bias[i] += d_gates_NG.sum(dim=0)
                else:
                    d_table_VG.index_add_(0, kept["given"][rows, 0], d_gates_NG)

        n_last = trail.n_rows - trail.steps[-1].start if trail.steps else 0
        d_hidden = [d_top_NH.new_zeros(n_last, units) for _ in self._layers]
        d_cell = list(d_hidden)
        for t in reversed(range(len(trail.steps))):
            here, stays_A = trail.steps[t], trail.stays[t]
            n = here.stop - here.start
            if n > begin:
                add(slice(here.stop, stop))
                begin, stop = size, here.stop
            begin -= n
            if stays_A is not None and t + 1 < len(trail.steps):
                d_hidden, d_cell = (
                    [d.new_zeros(n, units).index_copy_(0, stays_A, d) for d in some]
                    for some in (d_hidden, d_cell)
                )
            above_AH = d_top_NH[here]
            for i in reversed(range(n_layers)):
                d_gates_AG = block.all[f"gates{i}"][begin : begin + n]
                d_cell[i] = _back(
                    above_AH + d_hidden[i],
                    d_cell[i],
                    kept[f"gates{i}"][here],
                    kept[f"cell{i}"][here],
                    kept[f"tanh{i}"][here],
                    d_gates_AG,
                )
                d_x_AK = back[i](d_gates_AG)
                above_AH, d_hidden[i] = d_x_AK[:, :-units], d_x_AK[:, -units:]
        if stop:  # oneDNN refuses a product over no rows, which a process may have
            add(slice(0, stop))
        d_bias[0] = d_table_VG.sum(dim=0)
        found = [d_table_VG @ self._layers[0][0], d_table_VG.t() @ self._embedding, d_whole[0]]
        found += [d_bias[0], d_bias[0]]
        for d, bias in zip(d_whole[1:], d_bias[1:], strict=True):
            found += [d[:, :-units], d[:, -units:], bias, bias]
        return [*found, d_linear, d_logits_NV.sum(dim=0)]


def _back(
    d_hidden_AH: Tensor,
    d_cell_AH: Tensor,
    gates_AG: Tensor,
    cell_AH: Tensor,
    tanh_AH: Tensor,
    d_gates_AG: Tensor,
) -> Tensor:
    """Write what a cell's gates get of a gradient into d_gates_AG; that of the cell before it."""
    aten = torch.ops.aten
    in_AH, forget_AH, new_AH, out_AH = gates_AG.chunk(4, dim=1)
    d_in, d_forget, d_new, d_out = d_gates_AG.chunk(4, dim=1)
    d_cell_AH = aten.tanh_backward(d_hidden_AH * out_AH, tanh_AH).add_(d_cell_AH)
    aten.sigmoid_backward(d_cell_AH * new_AH, in_AH, grad_input=d_in)
    aten.sigmoid_backward(d_cell_AH * cell_AH, forget_AH, grad_input=d_forget)
    aten.tanh_backward(d_cell_AH * in_AH, new_AH, grad_input=d_new)
    aten.sigmoid_backward(d_hidden_AH * tanh_AH, out_AH, grad_input=d_out)
    return d_cell_AH.mul_(forget_AH)


class _WithGradient(torch.autograd.Function):
    """Gives the log-probabilities of a walk their gradient with respect to the weights."""

    @staticmethod
    def forward(
        ctx: Any, cells: Cells, trail: Trail, logp_B: Tensor, *_parameters: Tensor
    ) -> Tensor:
        """Return the log-probabilities as they are."""
        ctx.cells, ctx.trail = cells, trail
        return logp_B.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_logp_B: Tensor) -> tuple[Tensor | None, ...]:
        """Walk back."""
        found = ctx.cells.gradient(ctx.trail, d_logp_B)
        wanted = zip(found, ctx.needs_input_grad[3:], strict=True)
        return (None, None, None, *(value if needed else None for value, needed in wanted))


def logp_of_walk(cells: Cells, start_B: Tensor, n_steps: int, choose: Choose) -> Tensor:
    """Walk as `Cells.walk` does: logp_B, with its graph where a gradient is recorded."""
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in cells.parameters)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        trail = cells.trail(len(start_B), keeps=learns)
        logp_B = cells.walk(start_B, n_steps, choose, trail)
    if not learns:
        return logp_B
    graph_B: Tensor = _WithGradient.apply(cells, trail, logp_B, *cells.parameters)  # type: ignore[no-untyped-call]
    return graph_B

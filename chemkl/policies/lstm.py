"""Stacked LSTM cells on a CPU: sampling, log-probabilities and their gradient in one loop.

`torch.nn.LSTM` computes all rows up to the longest one, has weights in a layout that is slow for
small products, and multiplies the embedding of every token anew. Here ended rows leave the batch;
the weights are packed for oneDNN, with which products of 8 rows are as fast per row as those of
500; and the token's contribution to the first layer is looked up in a table of the vocabulary. If
the tokens are known, the layers are computed one after another, so that the input from the layer
below is one product for many steps. The gradient starts from the recorded steps, of sampled and of
known tokens alike: sampled rows need no second pass.

Legend: B rows, A of them not ended yet at a step, N rows of all steps together, V vocabulary, H
hidden units, G = 4 H gates (in, forget, new and out), K inputs of a product.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemkl.policies.base import FixedTokens
from chemkl.policies.tokenizer import END_ID

Choose = Callable[[int, Tensor, Tensor], Tensor]
"""Chooses the tokens of a step: (step, row_A, logp_AV) -> token_A."""

PER_PRODUCT = 4096
"""Rows of a product over all steps; limits its memory."""
PER_LAYER = 256
"""Rows, of several steps, of one product between layers; they stay in the CPU cache until used."""
UNIT = 64
"""Products over several steps are padded to a multiple of so many rows: for each new size oneDNN
compiles a kernel, which takes milliseconds and is cached."""
READ_BATCH = 128
"""Rows that are read together if no gradient is needed; limits the memory."""
ALIGNMENT = 64
"""Alignment of arrays, bytes."""
STEPS = 48
"""Steps for which memory is allocated at first."""
SPARE = 2
"""Blocks of memory that are kept for the next passes of a policy."""


class Matrix:
    """A weight packed for products with few rows: x_AK @ weight_NK.T + bias_N.

    Args:
        weight_NK: its values are copied.
        dtype: with bfloat16 both factors are rounded to it, and the result is float32.
        bias_N: None: no bias.
    """

    def __init__(self, weight_NK: Tensor, dtype: torch.dtype, bias_N: Tensor | None = None) -> None:
        self._dtype = dtype
        self._bias_N = None if bias_N is None else bias_N.to(dtype)
        self._weight = weight_NK.to(dtype).contiguous()
        self._packed = packs(dtype)
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, 64)

    def __call__(self, x_AK: Tensor) -> Tensor:
        """Multiply."""
        x_AK = x_AK.to(self._dtype)
        if not self._packed:
            out_AN = functional.linear(x_AK, self._weight, self._bias_N)
        else:
            out_AN = torch.ops.mkldnn._linear_pointwise(
                x_AK, self._weight, self._bias_N, "none", [], ""
            )
        return out_AN.float() if self._dtype == torch.bfloat16 else out_AN


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN can pack weights of this type on this machine."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch._C._has_mkldnn:
        return False
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(torch.ones(16, 16, dtype=dtype), 4)
        x = torch.ones(4, 16, dtype=dtype)
        out = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    return bool((out == 16).all())


def weight_gradient(left_N: Tensor, right_NK: Tensor) -> Tensor:
    """Return left @ right in float32 or float64: the gradient of a weight from some rows."""
    if not packs(left_N.dtype):
        out = left_N @ right_NK
    else:
        out = torch.ops.mkldnn._linear_pointwise(left_N, right_NK.t(), None, "none", [], "")
    return out.float() if left_N.dtype == torch.bfloat16 else out


def padded(n: int) -> int:
    """Round a number of rows up to a multiple of UNIT."""
    return -(-n // UNIT) * UNIT


class Memory:
    """Arrays in one block of memory.

    A released block is reused by the next passes of the same policy: getting fresh pages from the
    system at every training step costs more than many of the products.

    Args:
        shapes: name -> rows, numbers per row and their type.
        spare: free blocks.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int, torch.dtype]], spare: list[Tensor]
    ) -> None:
        self._shapes, self._spare = dict(shapes), spare
        self._blocks: list[Tensor] = []
        self.arrays: dict[str, Tensor] = {}
        self._allocate()
        weakref.finalize(self, _release, spare, self._blocks).atexit = False

    def grow(self, times: int) -> None:
        """Multiply the rows of all arrays; their contents are copied."""
        old = self.arrays
        self._shapes = {name: (times * n, w, dtype) for name, (n, w, dtype) in self._shapes.items()}
        self._allocate()
        for name, values in old.items():
            self.arrays[name][: len(values)] = values

    def _allocate(self) -> None:
        sizes = [
            -(-n * width * dtype.itemsize // ALIGNMENT) * ALIGNMENT
            for n, width, dtype in self._shapes.values()
        ]
        fits = [i for i, block in enumerate(self._spare) if len(block) >= sum(sizes)]
        if fits:
            block = self._spare.pop(min(fits, key=lambda i: len(self._spare[i])))
        else:
            block = torch.empty(sum(sizes), dtype=torch.uint8)
        parts = torch.split_with_sizes(block[: sum(sizes)], sizes)
        self._blocks[:] = [block]
        self.arrays = {
            name: part[: n * width * dtype.itemsize].view(dtype).view(n, width)
            for part, (name, (n, width, dtype)) in zip(parts, self._shapes.items(), strict=True)
        }


def _release(spare: list[Tensor], blocks: list[Tensor]) -> None:
    """Return blocks to the free ones, of which the largest are kept."""
    spare += blocks
    spare.sort(key=len, reverse=True)
    del spare[SPARE:]


class Trail:
    """The recorded steps of a pass; the rows of a step follow those of the step before.

    If the steps are not kept, all of them use the same rows of the arrays.

    Args:
        memory: arrays; the rows of a step are followed by as many, for the state after it.
        names: for each layer, the array of each quantity.
        keeps: whether all steps are kept, for the gradient.
    """

    def __init__(self, memory: Memory, names: list[dict[str, str]], *, keeps: bool) -> None:
        self.memory, self._names, self.keeps = memory, names, keeps
        self.steps: list[slice] = []
        self.stays: list[Tensor | None] = []
        """The rows of each step that continue; None: all of them."""
        self.row_N = self.input_N = self.chosen_N = torch.empty(0, dtype=torch.long)
        """The index in the batch, the input token and the chosen token of each row."""
        self.counts_N: Tensor | None = None
        """Whether the chosen token counts in logp; None: all of them do."""

    def step(self, n: int) -> tuple[slice, slice]:
        """Begin a step of n rows; return the slices of its rows and of the state after it."""
        begin = self.steps[-1].stop if self.keeps and self.steps else 0
        if self.keeps and begin + 2 * n + UNIT > len(self.memory.arrays["logp"]):
            self.memory.grow(2)
        self.steps.append(slice(begin, begin + n))
        return self.steps[-1], slice(begin + n, begin + 2 * n) if self.keeps else self.steps[-1]

    def of_layer(self, i: int) -> dict[str, Tensor]:
        """Return the arrays of a layer by quantity."""
        return {quantity: self.memory.arrays[name] for quantity, name in self._names[i].items()}


class Cells:
    """The packed weights of a network with an embedding, an LSTM and a linear layer.

    Args:
        embedding: of the tokens.
        rnn: an LSTM without dropout, projection or a second direction.
        linear: from hidden units to the vocabulary.
        dtype: of the products: that of the weights, or bfloat16.
        spare: free memory, see `Memory`.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        rnn: nn.LSTM,
        linear: nn.Linear,
        dtype: torch.dtype,
        spare: list[Tensor],
    ) -> None:
        self.parameters = [embedding.weight, *rnn.parameters(), linear.weight, linear.bias]
        self._dtype, self._n_units, self._spare = dtype, rnn.hidden_size, spare
        weights = [weight.detach() for weight in self.parameters]
        self._embedding, self._linear = weights[0], weights[-2]
        self._layers = [weights[i : i + 4] for i in range(1, len(weights) - 2, 4)]
        self._new = slice(2 * self._n_units, 3 * self._n_units)  # the new values among the gates
        # tanh(x) = 2 sigmoid(2x) - 1: doubling is exact, and torch's tanh takes ten times as long
        twice_G1 = torch.ones_like(self._layers[0][2])[:, None]
        twice_G1[self._new] = 2.0
        biases = [(bih + bhh)[:, None] * twice_G1 for _, _, bih, bhh in self._layers]
        table_GV = (self._layers[0][0] @ self._embedding.t()) * twice_G1 + biases[0]
        self._table_VG = table_GV.t().contiguous()
        self._from_below = [
            Matrix(layer[0] * twice_G1, dtype, bias_G1[:, 0])
            for layer, bias_G1 in zip(self._layers[1:], biases[1:], strict=True)
        ]
        self._from_before = [Matrix(layer[1] * twice_G1, dtype) for layer in self._layers]
        self._out = Matrix(self._linear, self._linear.dtype, weights[-1])

    @cached_property
    def _transposed(self) -> list[tuple[Matrix, Matrix | None]]:
        """For each layer, the matrices of the gradient: to the step before, to the layer below."""
        dtype = self._dtype
        return [
            (Matrix(layer[1].t(), dtype), Matrix(layer[0].t(), dtype) if i else None)
            for i, layer in enumerate(self._layers)
        ]

    def _trail(self, n: int, n_rows: int, *, keeps: bool, by_layer: bool) -> Trail:
        """Allocate the memory of a pass.

        Args:
            n: rows of its first step.
            n_rows: rows of all steps together; used if they are kept or computed by layer.
            keeps: whether the steps are kept.
            by_layer: whether the layers are computed one after another: they share one state then,
                and the hidden units of all steps are kept for the next layer.
        """
        units, plain = self._n_units, self._linear.dtype
        n_rows = padded(n_rows + n) + UNIT if keeps or by_layer else n
        shapes = {"logp": (n_rows, len(self._embedding), plain)}
        names: list[dict[str, str]] = []
        for i in range(len(self._layers)):
            is_last = i + 1 == len(self._layers)
            quantities = {
                "gates": (4 * units, plain),
                "cell": (units, plain),  # before the step
                "tanh": (units, plain),  # of the cell after the step
                "before": (units, self._dtype),  # the hidden units before the step
                "hidden": (units, plain if is_last else self._dtype),  # logits are not rounded
            }
            names.append({})
            for quantity, (width, dtype) in quantities.items():
                is_separate = keeps or (quantity in ("cell", "before") and not by_layer)
                name = f"{quantity}{i}" if is_separate else f"{quantity} {dtype}"
                names[-1][quantity] = name
                shapes[name] = (n_rows if keeps or quantity == "hidden" else n, width, dtype)
        return Trail(Memory(shapes, self._spare), names, keeps=keeps)

    def walk(  # noqa: C901 - one loop, and a hot one
        self,
        start_B: Tensor,
        n_steps: int,
        choose: Choose,
        *,
        keeps: bool,
        fixed: FixedTokens | None = None,
    ) -> tuple[Tensor, Trail]:
        """Step rows until each has chosen the end token; return logp_B, float32, and the trail.

        Args:
            start_B: the first token of each row.
            n_steps: maximum number of steps.
            choose: the tokens of a step; an end token ends its row.
            keeps: whether the trail is kept, for the gradient.
            fixed: tokens that do not count in logp, and tokens barred after them.
        """
        n, input_A, layers = len(start_B), start_B, range(len(self._layers))
        trail = self._trail(n, n * STEPS, keeps=keeps, by_layer=False)
        total_B = torch.zeros(n, dtype=torch.float64)
        row_A = torch.arange(n)
        tokens: list[tuple[Tensor, Tensor, Tensor]] = []
        counts: list[Tensor] = []
        for i in layers:
            for quantity in ("cell", "before"):
                trail.of_layer(i)[quantity][:n] = 0
        for t in range(1, n_steps + 1):
            if not len(row_A):
                break
            now, after = trail.step(len(row_A))
            at = [trail.of_layer(i) for i in layers]
            product_AG = self._from_before[0](at[0]["before"][now])
            product_AG += self._table_VG.index_select(0, input_A)
            hidden_AH = self._step(product_AG, at[0], now, now, after)
            for i in layers[1:]:
                product_AG = self._from_below[i - 1](hidden_AH)
                product_AG += self._from_before[i](at[i]["before"][now])
                hidden_AH = self._step(product_AG, at[i], now, now, after)
            logp_AV = self._out(hidden_AH)
            if fixed is not None:
                logp_AV = fixed.barred(t, row_A, logp_AV)
            torch.log_softmax(logp_AV, dim=-1, out=(logp_AV := trail.memory.arrays["logp"][now]))
            chosen_A = choose(t, row_A, logp_AV)
            logp_A = logp_AV.gather(1, chosen_A[:, None]).squeeze(1)
            if fixed is not None:
                counts.append(fixed.is_free(t, row_A))
                logp_A = logp_A * counts[-1]
            total_B[row_A] += logp_A.double()
            tokens.append((row_A, input_A, chosen_A))
            input_A, active_A = chosen_A, chosen_A != END_ID
            stays_A = None if bool(active_A.all()) else active_A.nonzero().squeeze(1)
            trail.stays.append(stays_A)
            if stays_A is not None:
                row_A, input_A = row_A[stays_A], input_A[stays_A]
                for i in layers:
                    for quantity in ("cell", "before"):
                        state_AH = at[i][quantity][after]
                        state_AH[: len(row_A)] = state_AH.index_select(0, stays_A)
        if tokens:
            columns = (torch.cat(column) for column in zip(*tokens, strict=True))
            trail.row_N, trail.input_N, trail.chosen_N = columns
            trail.counts_N = torch.cat(counts) if counts else None
        return total_B.float(), trail

    def read(
        self, token_BT: Tensor, *, keeps: bool, fixed: FixedTokens | None = None
    ) -> tuple[Tensor, Trail | None]:
        """Step along known tokens; return logp_B, float32, and the trail if it is kept.

        See `walk` for `fixed`.
        """
        is_end_BT, n = token_BT[:, 1:] == END_ID, len(token_BT)
        ends_B = is_end_BT.int().argmax(dim=1) + 1
        length_B = torch.where(is_end_BT.any(dim=1), ends_B, is_end_BT.shape[1])
        length_B, order_B = length_B.sort(descending=True, stable=True)
        total_B = torch.zeros(n, dtype=torch.float64)
        for begin in range(0, n, max(n, 1) if keeps else READ_BATCH):
            batch = slice(begin, None if keeps else begin + READ_BATCH)
            rows = token_BT[order_B[batch]], order_B[batch], length_B[batch]
            trail = self._read(*rows, keeps=keeps, fixed=fixed)
            logp_NV = trail.memory.arrays["logp"][: len(trail.row_N)]
            logp_N = logp_NV.gather(1, trail.chosen_N[:, None]).squeeze(1)
            if trail.counts_N is not None:
                logp_N = logp_N * trail.counts_N
            total_B.index_add_(0, trail.row_N, logp_N.double())
        return total_B.float(), trail if keeps and n else None

    def _read(
        self,
        token_BT: Tensor,
        row_B: Tensor,
        length_B: Tensor,
        *,
        keeps: bool,
        fixed: FixedTokens | None,
    ) -> Trail:
        """Step along rows, sorted by descending length, layer by layer."""
        n, n_steps = len(length_B), int(length_B[0])
        is_active_TB = torch.arange(n_steps)[:, None] < length_B
        n_rows = int(length_B.sum())
        trail = self._trail(n, n_rows, keeps=keeps, by_layer=True)
        trail.row_N = row_B.expand(n_steps, n)[is_active_TB]
        trail.input_N = token_BT.t()[:n_steps][is_active_TB]
        trail.chosen_N = token_BT.t()[1 : n_steps + 1][is_active_TB]
        stop = 0
        sizes = is_active_TB.sum(dim=1).tolist()
        for size, following in zip(sizes, [*sizes[1:], 0], strict=True):
            trail.steps.append(slice(stop, stop := stop + size))
            trail.stays.append(None if following == size else torch.arange(following))
        hidden_NH = trail.memory.arrays["logp"]  # nothing is below the first layer
        for i in range(len(self._layers)):
            at = trail.of_layer(i)
            at["cell"][:n] = at["before"][:n] = 0
            for steps in _grouped(trail.steps):
                rows = slice(steps[0].start, steps[-1].stop)
                if i:
                    fill = slice(rows.start, rows.start + padded(rows.stop - rows.start))
                    below_NG = self._from_below[i - 1](hidden_NH[fill])
                else:
                    below_NG = self._table_VG.index_select(0, trail.input_N[rows])
                for step in steps:
                    size = step.stop - step.start
                    now = step if keeps else slice(0, size)
                    after = slice(now.stop, now.stop + size) if keeps else now
                    product_AG = self._from_before[i](at["before"][now])
                    product_AG += below_NG[step.start - rows.start : step.stop - rows.start]
                    self._step(product_AG, at, step, now, after)
            hidden_NH = at["hidden"]
        logits_NV = self._out(hidden_NH[: padded(n_rows)])[:n_rows]
        if fixed is not None:
            t_T = torch.arange(1, n_steps + 1)
            is_first_BT = fixed.is_free(t_T, row_B) & ~fixed.is_free(t_T - 1, row_B)
            is_first_N = is_first_BT.t()[is_active_TB]
            logits_NV.masked_fill_(is_first_N[:, None] & fixed.bar_V, -torch.inf)
            trail.counts_N = fixed.is_free(t_T, row_B).t()[is_active_TB]
        torch.log_softmax(logits_NV, dim=-1, out=trail.memory.arrays["logp"][:n_rows])
        return trail

    def _step(
        self, product_AG: Tensor, at: Mapping[str, Tensor], rows: slice, now: slice, after: slice
    ) -> Tensor:
        """Compute a step of a layer from the inputs of its gates; return hidden_AH.

        Args:
            product_AG: the inputs of the gates; overwritten.
            at: the arrays of the layer.
            rows: of the hidden units.
            now: of the state, and of all other quantities.
            after: of the next state.
        """
        gates_AG = torch.sigmoid(product_AG, out=at["gates"][now])
        gates_AG[:, self._new].mul_(2).sub_(1)
        in_AH, forget_AH, new_AH, out_AH = gates_AG.chunk(4, dim=1)
        cell_AH = torch.mul(forget_AH, at["cell"][now], out=at["cell"][after])
        cell_AH.addcmul_(in_AH, new_AH)
        tanh_AH = torch.mul(cell_AH, 2, out=at["tanh"][now]).sigmoid_().mul_(2).sub_(1)
        hidden_AH = torch.mul(out_AH, tanh_AH, out=at["hidden"][rows])
        at["before"][after] = hidden_AH
        return hidden_AH

    def gradient(self, trail: Trail, d_logp_B: Tensor) -> list[Tensor]:
        """Return the gradient of each of `parameters`, from that of each row's logp."""
        n_rows, units, plain = len(trail.row_N), self._n_units, self._linear.dtype
        d_N1 = d_logp_B.to(plain).index_select(0, trail.row_N)[:, None]
        if trail.counts_N is not None:
            d_N1 = d_N1 * trail.counts_N[:, None]
        logp_NV = trail.memory.arrays["logp"][:n_rows]
        d_logits_NV = logp_NV.exp().mul_(-d_N1).scatter_add_(1, trail.chosen_N[:, None], d_N1)
        top = trail.of_layer(len(self._layers) - 1)["hidden"][:n_rows]
        gradients = [d_logits_NV.t() @ top, d_logits_NV.sum(dim=0)]
        shapes = {
            "gates": (padded(n_rows), 4 * units, self._dtype),
            "transposed": (min(padded(n_rows), padded(PER_PRODUCT)), 4 * units, self._dtype),
            "hidden": (padded(n_rows), units, plain),
        }
        d = Memory(shapes, self._spare)
        d_gates_NG, d_hidden_NH = d.arrays["gates"], d.arrays["hidden"]
        torch.mm(d_logits_NV, self._linear, out=d_hidden_NH[:n_rows])
        d_gates_NG[n_rows:] = 0
        for i in reversed(range(len(self._layers))):
            self._back(trail, i, d_hidden_NH, d_gates_NG)
            inputs = [trail.of_layer(i)["before"]]
            if i:
                inputs.append(trail.of_layer(i - 1)["hidden"])
            for values in inputs:  # rows of padding contribute nothing, but must not be NaN
                values[n_rows : padded(n_rows)] = 0
            d_bias = self._linear.new_zeros(4 * units)
            d_of = [self._linear.new_zeros(4 * units, units) for _ in inputs]
            d_table_GV = self._linear.new_zeros(4 * units, len(self._embedding))
            _, to_below = self._transposed[i]
            for begin in range(0, n_rows, padded(PER_PRODUCT)):
                rows = slice(begin, min(begin + padded(PER_PRODUCT), padded(n_rows)))
                n = rows.stop - rows.start
                d_gates_GN = d.arrays["transposed"].view(-1)[: 4 * units * n].view(-1, n)
                d_gates_GN.copy_(d_gates_NG[rows].t())
                for d_weight, values in zip(d_of, inputs, strict=True):
                    d_weight += weight_gradient(d_gates_GN, values[rows])
                if to_below is None:
                    input_N = functional.pad(trail.input_N[rows], (0, n))[:n]
                    one_hot_NV = functional.one_hot(input_N, len(self._embedding))
                    d_table_GV += weight_gradient(d_gates_GN, one_hot_NV.to(self._dtype))
                else:
                    d_bias += d_gates_GN.sum(dim=1, dtype=plain)
                    d_hidden_NH[rows] = to_below(d_gates_NG[rows])
            if i:
                gradients = [d_of[1], d_of[0], d_bias, d_bias, *gradients]
            else:
                d_bias = d_table_GV.sum(dim=1)
                d_embedding = d_table_GV.t() @ self._layers[0][0]
                d_wih = d_table_GV @ self._embedding
                gradients = [d_embedding, d_wih, d_of[0], d_bias, d_bias, *gradients]
        return gradients

    def _back(self, trail: Trail, i: int, d_hidden_NH: Tensor, d_gates_NG: Tensor) -> None:
        """Write the gradient of a layer's gates, from that of its hidden units."""
        at, units, aten = trail.of_layer(i), self._n_units, torch.ops.aten
        to_before, _ = self._transposed[i]
        exact = d_gates_NG.dtype == d_hidden_NH.dtype
        d_AG = None if exact else d_hidden_NH.new_empty(trail.steps[0].stop, 4 * units)
        n_last = trail.steps[-1].stop - trail.steps[-1].start
        d_hidden_AH = d_cell_AH = d_hidden_NH.new_zeros(n_last, units)
        for t in reversed(range(len(trail.steps))):
            rows, stays_A = trail.steps[t], trail.stays[t]
            n = rows.stop - rows.start
            if stays_A is not None and t + 1 < len(trail.steps):
                d_hidden_AH, d_cell_AH = (
                    d.new_zeros(n, units).index_copy_(0, stays_A, d)
                    for d in (d_hidden_AH, d_cell_AH)
                )
            d_hidden_AH = d_hidden_AH + d_hidden_NH[rows]
            d_step_AG = d_gates_NG[rows] if d_AG is None else d_AG[:n]
            tanh_AH = at["tanh"][rows]
            in_AH, forget_AH, new_AH, out_AH = at["gates"][rows].chunk(4, dim=1)
            d_in, d_forget, d_new, d_out = d_step_AG.chunk(4, dim=1)
            d_tanh_AH = d_hidden_AH * out_AH
            d_cell_AH = aten.tanh_backward(d_tanh_AH, tanh_AH).add_(d_cell_AH)
            aten.sigmoid_backward(d_cell_AH * new_AH, in_AH, grad_input=d_in)
            aten.sigmoid_backward(d_cell_AH * at["cell"][rows], forget_AH, grad_input=d_forget)
            aten.tanh_backward(d_cell_AH * in_AH, new_AH, grad_input=d_new)
            aten.sigmoid_backward(d_hidden_AH * tanh_AH, out_AH, grad_input=d_out)
            d_cell_AH.mul_(forget_AH)
            if d_AG is not None:
                d_gates_NG[rows] = d_step_AG
            if t:
                d_hidden_AH = to_before(d_gates_NG[rows])


def _grouped(steps: list[slice]) -> Iterator[list[slice]]:
    """Yield consecutive steps in groups of PER_LAYER rows at most."""
    group: list[slice] = []
    for step in steps:
        if group and step.stop - group[0].start > PER_LAYER:
            yield group
            group = []
        group.append(step)
    if group:
        yield group


class _WithGradient(torch.autograd.Function):
    """Connects the log-probabilities of a pass to the weights."""

    @staticmethod
    def forward(
        ctx: Any, cells: Cells, trail: Trail, logp_B: Tensor, *_parameters: Tensor
    ) -> Tensor:
        """Return the log-probabilities unchanged."""
        ctx.cells, ctx.trail = cells, trail
        return logp_B.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_logp_B: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the weights."""
        parameters = ctx.cells.parameters
        if ctx.trail is None or not len(ctx.trail.row_N):  # a process may have no rows
            gradients = [torch.zeros_like(weight) for weight in parameters]
        else:
            gradients = ctx.cells.gradient(ctx.trail, d_logp_B)
        pairs = zip(gradients, ctx.needs_input_grad[3:], strict=True)
        return (None, None, None, *(gradient if needed else None for gradient, needed in pairs))


Walk = Callable[..., tuple[Tensor, Trail | None]]


def logp_of_walk(cells: Cells, walk: Walk) -> Tensor:
    """Return logp_B of a pass, with a graph if gradients are enabled.

    Args:
        cells: the weights.
        walk: `walk` or `read` of the cells, with all arguments but `keeps`.
    """
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in cells.parameters)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        logp_B, trail = walk(keeps=learns)
    if not learns:
        return logp_B
    graph_B: Tensor = _WithGradient.apply(cells, trail, logp_B, *cells.parameters)  # type: ignore[no-untyped-call]
    return graph_B

"""Stacked LSTM cells on a processor: sampling, log-probabilities and their gradient in one loop.

`torch.nn.LSTM` computes all rows up to the longest one, keeps its weights in an order that small
products pay for, and multiplies the embedding of every token anew. Here ended rows leave, the
weights are laid out for oneDNN's products, which then take 8 rows as fast, each, as
500, and the first layer's share of the token is looked up in a table of the vocabulary. Where the
tokens are known, layer follows layer, so that what comes from the one below is one product of many
steps. The gradient starts from what a walk kept, be it of given or of sampled tokens: what has just
been sampled needs no second pass.

Legend: B rows, A of them not ended yet at a step, N of all steps together, V vocabulary, H hidden
units, G = 4 H gates (in, forget, new and out), K numbers that go into a product.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemkl.policies.base import Given
from chemkl.policies.tokenizer import END_ID

Choose = Callable[[int, Tensor, Tensor], Tensor]
"""Says which tokens come at a step: of its number, active_A and logp_AV, token_A."""

PER_PRODUCT = 4096
"""Rows of a product over all steps: bounds its memory."""
PER_LAYER = 256
"""Rows, of some steps, that one product takes from a layer to the next, and that stay in the cache
until they are used."""
UNIT = 64
"""Rows of products over several steps are filled up to a multiple of it: for each new size oneDNN
writes a program, which takes milliseconds and is kept."""
AT_ONCE = 128
"""Rows that are read together where no gradient is wanted: bounds the memory."""
LINE = 64
"""Bytes that arrays begin at a multiple of."""
STEPS = 48
"""Steps that memory is made for at first."""
SPARE = 2
"""Pieces of memory that are kept for the next walks of a policy."""


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


def of_all_rows(left_N: Tensor, right_NK: Tensor) -> Tensor:
    """Return left @ right, float32 or more: the gradient of a weight from some rows."""
    if not packs(left_N.dtype):
        out = left_N @ right_NK
    else:
        out = torch.ops.mkldnn._linear_pointwise(left_N, right_NK.t(), None, "none", [], "")
    return out.float() if left_N.dtype == torch.bfloat16 else out


def filled(n: int) -> int:
    """The rows of a product over several steps, filled up."""
    return -(-n // UNIT) * UNIT


class Memory:
    """Arrays in one piece of memory.

    A piece that is not needed any more is left to the next walks of the same policy: to get fresh
    pages from the system at every step of a training costs more than many a product.

    Args:
        shapes: name -> rows, numbers a row and their type.
        spare: pieces that are free.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int, torch.dtype]], spare: list[Tensor]
    ) -> None:
        self._shapes, self._spare = dict(shapes), spare
        self._pieces: list[Tensor] = []
        self.arrays: dict[str, Tensor] = {}
        self._cut()
        weakref.finalize(self, _leave, spare, self._pieces).atexit = False

    def grow(self, times: int) -> None:
        """Give all arrays so many times their rows; what they hold is kept."""
        old = self.arrays
        self._shapes = {name: (times * n, w, kind) for name, (n, w, kind) in self._shapes.items()}
        self._cut()
        for name, values in old.items():
            self.arrays[name][: len(values)] = values

    def _cut(self) -> None:
        sizes = [-(-n * w * kind.itemsize // LINE) * LINE for n, w, kind in self._shapes.values()]
        fits = [i for i, piece in enumerate(self._spare) if len(piece) >= sum(sizes)]
        if fits:
            piece = self._spare.pop(min(fits, key=lambda i: len(self._spare[i])))
        else:
            piece = torch.empty(sum(sizes), dtype=torch.uint8)
        parts = torch.split_with_sizes(piece[: sum(sizes)], sizes)
        self._pieces[:] = [piece]
        self.arrays = {
            name: part[: n * width * kind.itemsize].view(kind).view(n, width)
            for part, (name, (n, width, kind)) in zip(parts, self._shapes.items(), strict=True)
        }


def _leave(spare: list[Tensor], pieces: list[Tensor]) -> None:
    """Leave memory that nobody needs any more to those that come; the largest is kept."""
    spare += pieces
    spare.sort(key=len, reverse=True)
    del spare[SPARE:]


class Trail:
    """What the steps of a walk have computed, the rows of one behind those of the other.

    A trail that is not kept has one place for the rows of all steps.

    Args:
        memory: arrays; behind the rows of a step there is room for as many: the state it leaves.
        names: by layer, the array of each thing.
        keeps: whether all steps are kept, for the gradient.
    """

    def __init__(self, memory: Memory, names: list[dict[str, str]], *, keeps: bool) -> None:
        self.memory, self._names, self.keeps = memory, names, keeps
        self.steps: list[slice] = []
        self.stays: list[Tensor | None] = []
        """Which rows of a step go on; None: all do."""
        self.row_N = self.given_N = self.chosen_N = torch.empty(0, dtype=torch.long)
        """Of each row its place in the batch, the token that it was given and the one it chose."""
        self.counts_N: Tensor | None = None
        """Whether the row's logp counts its token; None: it does."""

    def step(self, n: int) -> tuple[slice, slice]:
        """Return the places of the rows of the next step, n, and of the state that they leave."""
        begin = self.steps[-1].stop if self.keeps and self.steps else 0
        if self.keeps and begin + 2 * n + UNIT > len(self.memory.arrays["logp"]):
            self.memory.grow(2)
        self.steps.append(slice(begin, begin + n))
        return self.steps[-1], slice(begin + n, begin + 2 * n) if self.keeps else self.steps[-1]

    def of_layer(self, i: int) -> dict[str, Tensor]:
        """The arrays of a layer."""
        return {what: self.memory.arrays[name] for what, name in self._names[i].items()}


class Cells:
    """The weights of a network with an embedding, an LSTM and a linear layer, laid out to be used.

    Args:
        embedding: of the tokens.
        rnn: an LSTM without dropout, projection or a second direction.
        linear: from hidden units to the vocabulary.
        kind: of the products: that of the weights, or bfloat16.
        spare: memory that is free, see `Memory`.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        rnn: nn.LSTM,
        linear: nn.Linear,
        kind: torch.dtype,
        spare: list[Tensor],
    ) -> None:
        self.parameters = [embedding.weight, *rnn.parameters(), linear.weight, linear.bias]
        self._kind, self._n_units, self._spare = kind, rnn.hidden_size, spare
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
        self._of_below = [
            Matrix(layer[0] * twice_G1, kind, bias_G1[:, 0])
            for layer, bias_G1 in zip(self._layers[1:], biases[1:], strict=True)
        ]
        self._of_before = [Matrix(layer[1] * twice_G1, kind) for layer in self._layers]
        self._out = Matrix(self._linear, self._linear.dtype, weights[-1])

    @cached_property
    def _turned(self) -> list[tuple[Matrix, Matrix | None]]:
        """By layer, what takes a gradient back to the step before and to the layer below."""
        kind = self._kind
        return [
            (Matrix(layer[1].t(), kind), Matrix(layer[0].t(), kind) if i else None)
            for i, layer in enumerate(self._layers)
        ]

    def _trail(self, n: int, n_rows: int, *, keeps: bool, by_layer: bool) -> Trail:
        """Make room for a walk.

        Args:
            n: rows of its first step.
            n_rows: rows of all its steps, where they are kept or where layer follows layer.
            keeps: whether they are kept.
            by_layer: whether layer follows layer: they share one state then, and the hidden units
                of all steps are there for the next layer.
        """
        units, plain = self._n_units, self._linear.dtype
        n_rows = filled(n_rows + n) + UNIT if keeps or by_layer else n
        shapes = {"logp": (n_rows, len(self._embedding), plain)}
        names: list[dict[str, str]] = []
        for i in range(len(self._layers)):
            kind = plain if i + 1 == len(self._layers) else self._kind  # nothing rounds the logits
            wanted = {
                "gates": (4 * units, plain),
                "cell": (units, plain),  # before the step
                "tanh": (units, plain),  # of the cell behind it
                "before": (units, self._kind),  # the hidden units before the step
                "hidden": (units, kind),
            }
            names.append({})
            for what, (width, its) in wanted.items():
                own = keeps or (what in ("cell", "before") and not by_layer)
                name = f"{what}{i}" if own else f"{what} {its}"
                names[-1][what] = name
                rows = n_rows if keeps or what == "hidden" else n
                shapes[name] = (rows, width, its)
        return Trail(Memory(shapes, self._spare), names, keeps=keeps)

    def walk(  # noqa: C901 - one loop, in which nothing that costs time stands twice
        self,
        start_B: Tensor,
        n_steps: int,
        choose: Choose,
        *,
        keeps: bool,
        given: Given | None = None,
    ) -> tuple[Tensor, Trail]:
        """Let rows take steps until each has chosen the end token: logp_B, float32, and the trail.

        Args:
            start_B: the first token of each row.
            n_steps: at most so many.
            choose: the tokens of a step; an end token ends its row.
            keeps: whether the trail is kept, for the gradient.
            given: tokens that do not count, and what cannot come behind them.
        """
        n, given_A, layers = len(start_B), start_B, range(len(self._layers))
        trail = self._trail(n, n * STEPS, keeps=keeps, by_layer=False)
        total_B = torch.zeros(n, dtype=torch.float64)
        row_A = torch.arange(n)
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        counts: list[Tensor] = []
        for i in layers:
            for what in ("cell", "before"):
                trail.of_layer(i)[what][:n] = 0
        for t in range(1, n_steps + 1):
            if not len(row_A):
                break
            here, behind = trail.step(len(row_A))
            at = [trail.of_layer(i) for i in layers]
            product_AG = self._of_before[0](at[0]["before"][here])
            product_AG += self._table_VG.index_select(0, given_A)
            hidden_AH = self._move(product_AG, at[0], here, here, behind)
            for i in layers[1:]:
                product_AG = self._of_below[i - 1](hidden_AH)
                product_AG += self._of_before[i](at[i]["before"][here])
                hidden_AH = self._move(product_AG, at[i], here, here, behind)
            logp_AV = self._out(hidden_AH)
            if given is not None:
                logp_AV = given.barred(t, row_A, logp_AV)
            torch.log_softmax(logp_AV, dim=-1, out=(logp_AV := trail.memory.arrays["logp"][here]))
            chosen_A = choose(t, row_A, logp_AV)
            logp_A = logp_AV.gather(1, chosen_A[:, None]).squeeze(1)
            if given is not None:
                counts.append(given.is_free(t, row_A))
                logp_A = logp_A * counts[-1]
            total_B[row_A] += logp_A.double()
            kept.append((row_A, given_A, chosen_A))
            given_A, going_A = chosen_A, chosen_A != END_ID
            stays_A = None if bool(going_A.all()) else going_A.nonzero().squeeze(1)
            trail.stays.append(stays_A)
            if stays_A is not None:
                row_A, given_A = row_A[stays_A], given_A[stays_A]
                for i in layers:
                    for what in ("cell", "before"):
                        left_AH = at[i][what][behind]
                        left_AH[: len(row_A)] = left_AH.index_select(0, stays_A)
        if kept:
            columns = (torch.cat(column) for column in zip(*kept, strict=True))
            trail.row_N, trail.given_N, trail.chosen_N = columns
            trail.counts_N = torch.cat(counts) if counts else None
        return total_B.float(), trail

    def read(
        self, token_BT: Tensor, *, keeps: bool, given: Given | None = None
    ) -> tuple[Tensor, Trail | None]:
        """Walk along known tokens: logp_B, float32, and the trail if it is to be kept.

        Of what is given see `walk`.
        """
        is_end_BT, n = token_BT[:, 1:] == END_ID, len(token_BT)
        ends_B = is_end_BT.int().argmax(dim=1) + 1
        length_B = torch.where(is_end_BT.any(dim=1), ends_B, is_end_BT.shape[1])
        length_B, order_B = length_B.sort(descending=True, stable=True)
        total_B = torch.zeros(n, dtype=torch.float64)
        for begin in range(0, n, max(n, 1) if keeps else AT_ONCE):
            some = slice(begin, None if keeps else begin + AT_ONCE)
            rows = token_BT[order_B[some]], order_B[some], length_B[some]
            trail = self._read(*rows, keeps=keeps, given=given)
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
        given: Given | None,
    ) -> Trail:
        """Walk along some rows, the longest first, layer by layer."""
        n, n_steps = len(length_B), int(length_B[0])
        is_there_T = torch.arange(n_steps)[:, None] < length_B
        n_rows = int(length_B.sum())
        trail = self._trail(n, n_rows, keeps=keeps, by_layer=True)
        trail.row_N = row_B.expand(n_steps, n)[is_there_T]
        trail.given_N = token_BT.t()[:n_steps][is_there_T]
        trail.chosen_N = token_BT.t()[1 : n_steps + 1][is_there_T]
        stop = 0
        sizes = is_there_T.sum(dim=1).tolist()
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
                    fill = slice(rows.start, rows.start + filled(rows.stop - rows.start))
                    below_NG = self._of_below[i - 1](hidden_NH[fill])
                else:
                    below_NG = self._table_VG.index_select(0, trail.given_N[rows])
                for here in steps:
                    size = here.stop - here.start
                    now = here if keeps else slice(0, size)
                    behind = slice(now.stop, now.stop + size) if keeps else now
                    product_AG = self._of_before[i](at["before"][now])
                    product_AG += below_NG[here.start - rows.start : here.stop - rows.start]
                    self._move(product_AG, at, here, now, behind)
            hidden_NH = at["hidden"]
        logits_NV = self._out(hidden_NH[: filled(n_rows)])[:n_rows]
        if given is not None:
            t_T = torch.arange(1, n_steps + 1)
            is_first_T = given.is_free(t_T, row_B) & ~given.is_free(t_T - 1, row_B)
            is_first_N = is_first_T.t()[is_there_T]
            logits_NV.masked_fill_(is_first_N[:, None] & given.bar_V, -torch.inf)
            trail.counts_N = given.is_free(t_T, row_B).t()[is_there_T]
        torch.log_softmax(logits_NV, dim=-1, out=trail.memory.arrays["logp"][:n_rows])
        return trail

    def _move(
        self, product_AG: Tensor, at: Mapping[str, Tensor], here: slice, now: slice, behind: slice
    ) -> Tensor:
        """Let a layer take a step, from the products that its gates come of: hidden_AH.

        Args:
            product_AG: is used up.
            at: the arrays of the layer.
            here: where the hidden units go.
            now: where all else goes, and the state is.
            behind: where the next state goes.
        """
        gates_AG = torch.sigmoid(product_AG, out=at["gates"][now])
        gates_AG[:, self._new].mul_(2).sub_(1)
        in_AH, forget_AH, new_AH, out_AH = gates_AG.chunk(4, dim=1)
        cell_AH = torch.mul(forget_AH, at["cell"][now], out=at["cell"][behind])
        cell_AH.addcmul_(in_AH, new_AH)
        tanh_AH = torch.mul(cell_AH, 2, out=at["tanh"][now]).sigmoid_().mul_(2).sub_(1)
        hidden_AH = torch.mul(out_AH, tanh_AH, out=at["hidden"][here])
        at["before"][behind] = hidden_AH
        return hidden_AH

    def gradient(self, trail: Trail, d_logp_B: Tensor) -> list[Tensor]:
        """Return the gradient of each of `parameters`, given that of each row's logp."""
        n_rows, units, plain = len(trail.row_N), self._n_units, self._linear.dtype
        d_N1 = d_logp_B.to(plain).index_select(0, trail.row_N)[:, None]
        if trail.counts_N is not None:
            d_N1 = d_N1 * trail.counts_N[:, None]
        logp_NV = trail.memory.arrays["logp"][:n_rows]
        d_logits_NV = logp_NV.exp().mul_(-d_N1).scatter_add_(1, trail.chosen_N[:, None], d_N1)
        top = trail.of_layer(len(self._layers) - 1)["hidden"][:n_rows]
        found = [d_logits_NV.t() @ top, d_logits_NV.sum(dim=0)]
        shapes = {
            "gates": (filled(n_rows), 4 * units, self._kind),
            "turned": (min(filled(n_rows), filled(PER_PRODUCT)), 4 * units, self._kind),
            "hidden": (filled(n_rows), units, plain),
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
            for values in inputs:  # the rows that fill up count nothing, but must be numbers
                values[n_rows : filled(n_rows)] = 0
            d_bias = self._linear.new_zeros(4 * units)
            d_of = [self._linear.new_zeros(4 * units, units) for _ in inputs]
            d_table_GV = self._linear.new_zeros(4 * units, len(self._embedding))
            _, of_below = self._turned[i]
            for begin in range(0, n_rows, filled(PER_PRODUCT)):
                rows = slice(begin, min(begin + filled(PER_PRODUCT), filled(n_rows)))
                n = rows.stop - rows.start
                turned_GN = d.arrays["turned"].view(-1)[: 4 * units * n].view(-1, n)
                turned_GN.copy_(d_gates_NG[rows].t())
                for d_weight, values in zip(d_of, inputs, strict=True):
                    d_weight += of_all_rows(turned_GN, values[rows])
                if of_below is None:
                    given_N = functional.pad(trail.given_N[rows], (0, n))[:n]
                    is_given_NV = functional.one_hot(given_N, len(self._embedding))
                    d_table_GV += of_all_rows(turned_GN, is_given_NV.to(self._kind))
                else:
                    d_bias += turned_GN.sum(dim=1, dtype=plain)
                    d_hidden_NH[rows] = of_below(d_gates_NG[rows])
            if i:
                found = [d_of[1], d_of[0], d_bias, d_bias, *found]
            else:
                d_bias = d_table_GV.sum(dim=1)
                d_embedding = d_table_GV.t() @ self._layers[0][0]
                d_wih = d_table_GV @ self._embedding
                found = [d_embedding, d_wih, d_of[0], d_bias, d_bias, *found]
        return found

    def _back(self, trail: Trail, i: int, d_hidden_NH: Tensor, d_gates_NG: Tensor) -> None:
        """Walk back through a layer: what its gates get of a gradient, given its hidden units'."""
        at, units, aten = trail.of_layer(i), self._n_units, torch.ops.aten
        of_before, _ = self._turned[i]
        exact = d_gates_NG.dtype == d_hidden_NH.dtype
        d_AG = None if exact else d_hidden_NH.new_empty(trail.steps[0].stop, 4 * units)
        n_last = trail.steps[-1].stop - trail.steps[-1].start
        d_hidden_AH = d_cell_AH = d_hidden_NH.new_zeros(n_last, units)
        for t in reversed(range(len(trail.steps))):
            here, stays_A = trail.steps[t], trail.stays[t]
            n = here.stop - here.start
            if stays_A is not None and t + 1 < len(trail.steps):
                d_hidden_AH, d_cell_AH = (
                    d.new_zeros(n, units).index_copy_(0, stays_A, d)
                    for d in (d_hidden_AH, d_cell_AH)
                )
            d_hidden_AH = d_hidden_AH + d_hidden_NH[here]
            d_here_AG = d_gates_NG[here] if d_AG is None else d_AG[:n]
            tanh_AH = at["tanh"][here]
            in_AH, forget_AH, new_AH, out_AH = at["gates"][here].chunk(4, dim=1)
            d_in, d_forget, d_new, d_out = d_here_AG.chunk(4, dim=1)
            d_tanh_AH = d_hidden_AH * out_AH
            d_cell_AH = aten.tanh_backward(d_tanh_AH, tanh_AH).add_(d_cell_AH)
            aten.sigmoid_backward(d_cell_AH * new_AH, in_AH, grad_input=d_in)
            aten.sigmoid_backward(d_cell_AH * at["cell"][here], forget_AH, grad_input=d_forget)
            aten.tanh_backward(d_cell_AH * in_AH, new_AH, grad_input=d_new)
            aten.sigmoid_backward(d_hidden_AH * tanh_AH, out_AH, grad_input=d_out)
            d_cell_AH.mul_(forget_AH)
            if d_AG is not None:
                d_gates_NG[here] = d_here_AG
            if t:
                d_hidden_AH = of_before(d_gates_NG[here])


def _grouped(steps: list[slice]) -> Iterator[list[slice]]:
    """Steps behind each other, so many at once that their rows are about PER_LAYER."""
    group: list[slice] = []
    for step in steps:
        if group and step.stop - group[0].start > PER_LAYER:
            yield group
            group = []
        group.append(step)
    if group:
        yield group


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
        parameters = ctx.cells.parameters
        if ctx.trail is None or not len(ctx.trail.row_N):  # no rows, which a process may have
            found = [torch.zeros_like(weight) for weight in parameters]
        else:
            found = ctx.cells.gradient(ctx.trail, d_logp_B)
        wanted = zip(found, ctx.needs_input_grad[3:], strict=True)
        return (None, None, None, *(value if needed else None for value, needed in wanted))


Walk = Callable[..., tuple[Tensor, Trail | None]]


def logp_of_walk(cells: Cells, walk: Walk) -> Tensor:
    """Return logp_B of a walk of the cells, with its graph where a gradient is recorded.

    Args:
        cells: the weights.
        walk: one of their walks, which takes `keeps`.
    """
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in cells.parameters)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        logp_B, trail = walk(keeps=learns)
    if not learns:
        return logp_B
    graph_B: Tensor = _WithGradient.apply(cells, trail, logp_B, *cells.parameters)  # type: ignore[no-untyped-call]
    return graph_B

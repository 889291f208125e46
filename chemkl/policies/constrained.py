"""Constrained generation: a policy completes prompts that contain a fixed part of the molecule.

PromptSMILES (Thomas et al., J. Cheminform. 16, 77 (2024)): an unconditional model completes a
SMILES that ends with an open atom; for each further open atom the molecule is written again so that
this atom comes last, and is completed again. Spellings are drawn at random, and of several the one
with the highest probability under a frozen model is taken.

A sample is a sequence of rounds, and its log p is that of the tokens that the policy chose,
conditional on the fixed ones. Everything between the rounds (spellings, the position where a second
fragment is joined) depends on the chosen tokens, on random numbers and on the frozen model: it is
the same for prior and policy, and cancels in every ratio of the two. So KL-regularised
post-training applies unchanged; each part is a group with its own anchor.

Deviations from the paper:

1. The fixed tokens do not count in log p.
2. Right after a prompt some tokens have probability zero, and the others are renormalised: the end
   token, as a model of canonical SMILES would mostly end there and add nothing; and, if the part
   has `one_bond`, all but a single bond to a first atom.
3. Of two fragments the second ends the sequence, at the most probable position; the text that the
   policy wrote after this position is dropped. It counts in log p, as the policy chose it.

A row of ids is: the start token; fixed ids with a minus sign; chosen ids; then, for each further
round, the start token with a minus sign (the round before ended with a chosen end token), its fixed
and its chosen ids; finally the end token, and end tokens as padding. A row that reached the maximum
length has `CUT_OFF` in place of the first end token.

Legend: B rows, R rounds of all of them, K rounds of a row, T tokens.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from chemkl.config import InputError
from chemkl.policies.base import (
    ALL,
    CUT_OFF,
    FixedTokens,
    Policy,
    Rollout,
    SequenceModel,
    Written,
    pad,
    stream,
)
from chemkl.policies.tokenizer import END, END_ID, START, START_ID, Vocabulary

NO_SPELLING = "no SMILES was found that ends at its attachment point"
POOL = 32
"""Prompts that are drawn for each part at the start; a row begins with one of them."""


class Way(Protocol):
    """One of several ways to begin or to continue."""

    @property
    def text(self) -> str:
        """A SMILES to complete, or a complete one."""

    @property
    def prefix(self) -> str:
        """The fixed prefix; ways are compared by the text after it."""

    @property
    def compared(self) -> str | None:
        """The text after the prefix to compare by; None: all, with the end token if finished."""

    @property
    def finished(self) -> bool:
        """Whether the SMILES is complete."""


EncodedWays = list[tuple[Way, list[int], int]]
"""Ways, each with the ids that it is compared by, and the number of fixed ones."""


class Part(Protocol):
    """A fixed part of molecules, see `chemkl.chem.parts`; deterministic given the seeds."""

    name: str  # as the user wrote it
    key: str  # where
    rounds: int  # maximum number of rounds
    one_bond: bool  # whether the text after a prompt is bound to it by exactly one single bond

    def begin(self, seed: int, n: int, /) -> Sequence[Way]:
        """Return up to n ways to begin, of which one is taken."""

    def go_on(self, way: Any, completion: str, seed: int, n: int, /) -> Sequence[Way]:
        """Return up to n ways to continue from the completion of a way; none: it is complete."""

    def problem(self, way: Any, text: str, /) -> str | None:
        """Return why a text that came of a way lacks the part; None: it does not, or is invalid."""


def encode_ways(ways: Sequence[Way], vocabulary: Vocabulary, max_length: int) -> EncodedWays:
    """Encode ways; skip those that the vocabulary cannot write or that leave no room to continue.

    Raises:
        InputError: there are ways, but all of them are skipped.
    """
    encoded: EncodedWays = []
    problem: InputError | None = None
    for way in sorted(ways, key=lambda way: -len(way.text)):
        try:
            encoded.append((way, *_encode(way, vocabulary, max_length)))
        except InputError as error:
            problem = error  # the last one is that of the shortest way
    if problem is not None and not encoded:
        raise problem
    return encoded


def _encode(way: Way, vocabulary: Vocabulary, max_length: int) -> tuple[list[int], int]:
    n = len(vocabulary.encode(way.text)) - 2
    if n > max_length - 2:
        raise InputError(
            f"{way.text!r} has {n} tokens, which leaves no room to continue: the prior writes at "
            f"most {max_length}, end token included. Take a smaller part."
        )
    rest = way.text[len(way.prefix) :] if way.compared is None else way.compared
    fixed, rest_ids = vocabulary.encode(way.prefix)[:-1], vocabulary.encode(rest)[1:]
    ends = way.finished and way.compared is None
    return fixed + (rest_ids if ends else rest_ids[:-1]), len(fixed) - 1


class Constraint:
    """The parts of a policy and its reference, and the choices between rounds.

    Args:
        parts: numbered from 0; each is a group of a rollout.
        chooser: chooses the most probable spelling, or position; it must not change.
        choices: spellings, or positions, that are drawn at a time; 1: the first one is taken.
        per_step: parts of one rollout, drawn at random; None: all.
        seed: of the first prompts.

    Raises:
        InputError: the vocabulary cannot write a part, or it is as long as the longest sequence.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        chooser: Policy,
        *,
        choices: int = 8,
        per_step: int | None = None,
        seed: int = 0,
    ) -> None:
        self.parts, self.choices = tuple(parts), choices
        self.names = [part.name for part in self.parts]
        """The parts, as the user wrote them."""
        self.per_step = min(per_step or len(self.parts), len(self.parts))
        self._chooser = chooser
        one_bond = all(part.one_bond for part in self.parts)
        tokens = chooser.vocabulary.tokens
        barred = [t in (END, START) or (one_bond and t[0] in "()=#:.%$0123456789") for t in tokens]
        self.bar_V = torch.tensor(barred)
        """Tokens that cannot follow a prompt."""
        self.pools: list[list[Way]] = []
        """The first prompts of each part."""
        generator, problems = stream(seed, 0, purpose="prompts"), list[str]()
        for part in self.parts:
            seeds = torch.randint(2**62, (POOL,), generator=generator).tolist()
            drawn, problem = list[EncodedWays](), NO_SPELLING
            for part_seed in seeds:
                try:
                    drawn.append(self.encode(part.begin(part_seed, choices)))
                except InputError as error:
                    problem = str(error)
            self.pools.append(self.most_probable([ways for ways in drawn if ways]))
            if not self.pools[-1]:
                problems.append(f"{part.key}: {part.name}: {problem}")
        InputError.refuse(problems)

    def fixed(self, token_BT: Tensor, n_fixed: Sequence[int]) -> FixedTokens:
        """Describe rows that begin with n_fixed fixed tokens each."""
        device = token_BT.device
        n_B = torch.tensor(n_fixed, dtype=torch.long, device=device)
        return FixedTokens(token_BT, n_B, self.bar_V.to(device))

    def encode(self, ways: Sequence[Way]) -> EncodedWays:
        """Encode ways with the chooser's vocabulary; see `encode_ways`."""
        return encode_ways(ways, self._chooser.vocabulary, self._chooser.max_length)

    @torch.no_grad()
    def most_probable(self, drawn: Sequence[EncodedWays]) -> list[Way]:
        """Return the most probable way of each list under the chooser; no list may be empty."""
        rows = [(i, *row) for i, ways in enumerate(drawn) for row in ways if len(ways) > 1]
        best = [ways[0][0] for ways in drawn]
        highest = [-torch.inf] * len(best)
        no_bar_V = torch.zeros_like(self.bar_V, device=self._chooser.device)
        for _, group in groupby(sorted(rows, key=lambda row: len(row[2])), lambda row: len(row[2])):
            # rows of equal length are not padded: those without an end token count whole
            batch = list(group)
            token_BT = torch.tensor([row[2] for row in batch], device=self._chooser.device)
            n_B = torch.tensor([row[3] for row in batch], device=token_BT.device)
            logp_B = self._chooser.logp_tokens(token_BT, FixedTokens(token_BT, n_B, no_bar_V))
            for (i, way, *_), logp in zip(batch, logp_B.tolist(), strict=True):
                if logp > highest[i]:
                    best[i], highest[i] = way, logp
        return best


class ConstrainedPolicy(SequenceModel):
    """The distribution over molecules that hold a part, as a policy completes prompts.

    Args:
        base: the policy, which is trained and saved.
        constraint: the parts, the same for a policy and its reference.
    """

    def __init__(self, base: Policy, constraint: Constraint) -> None:
        super().__init__()
        self.base = base
        self.constraint = constraint

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw n molecules, of the parts in turn, or `part` of these rows.

        A row depends on the generator and on its index. It has `smiles` (the final text), `logp`
        (of the chosen tokens), `group` (the part's number) and `written`.
        """
        return self.sample_to_learn(n, generator, part)

    def sample_to_learn(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw as `sample` does; logp has the graph of the base, if any."""
        constraint, vocabulary = self.constraint, self.base.vocabulary
        order = torch.randperm(len(constraint.parts), generator=generator).tolist()
        groups = [order[i % constraint.per_step] for i in range(n)[part]]
        seeds = torch.randint(2**62, (n,), generator=generator)[part].tolist()
        n_rounds = max(part.rounds for part in constraint.parts)
        uniform_KTB = torch.rand(n_rounds, self.base.max_length, n, generator=generator)[..., part]
        samples = [
            _Sample(constraint.parts[g], constraint.pools[g][seed % len(constraint.pools[g])], seed)
            for g, seed in zip(groups, seeds, strict=True)
        ]
        logp_B = torch.zeros(len(samples), device=self.device)
        active = list(range(len(samples)))
        for uniform_TB in uniform_KTB:
            prompts = [vocabulary.encode(samples[i].way.text)[:-1] for i in active]
            n_fixed = [len(prompt) - 1 for prompt in prompts]
            fixed = constraint.fixed(pad(prompts, self.device), n_fixed)
            token_RT, logp_R, truncated_R = self.base.complete(uniform_TB[:, active], fixed)
            row_R = torch.tensor(active, dtype=torch.long, device=self.device)
            logp_B = logp_B.index_add(0, row_R, logp_R.to(self.device))
            rounds = zip(active, prompts, token_RT.tolist(), truncated_R.tolist(), strict=True)
            for i, prompt, ids, truncated in rounds:
                chosen = [token for token in ids[len(prompt) :] if token != END_ID]
                text = "".join(vocabulary.tokens[token] for token in chosen)
                samples[i].add(prompt, chosen, text, truncated=truncated)
            active = self._continue(samples, active)
            if not active:
                break
        token_BT = pad([[*sample.ids, *[END_ID] * (not sample.truncated)] for sample in samples])
        truncated_B = torch.tensor([sample.truncated for sample in samples], dtype=torch.bool)
        return Rollout(
            [sample.text for sample in samples],
            token_BT.to(self.device),
            logp_B,
            truncated_B.to(self.device),
            group=torch.tensor(groups, dtype=torch.long, device=self.device),
            written=[
                Written("|".join(sample.chosen), sample.part.problem(sample.way, sample.text))
                for sample in samples
            ],
        )

    def _continue(self, samples: "Sequence[_Sample]", active: Sequence[int]) -> list[int]:
        """Choose the next way of each active sample; return the indices of those that have one."""
        drawn = {}
        for i in active:
            sample = samples[i]
            if not sample.truncated:
                seed, choices = sample.seed + len(sample.chosen), self.constraint.choices
                ways = sample.part.go_on(sample.way, sample.chosen[-1], seed, choices)
                with suppress(InputError):  # the vocabulary can write none of them: it ends here
                    drawn[i] = self.constraint.encode(ways)
        drawn = {i: ways for i, ways in drawn.items() if ways}
        best = self.constraint.most_probable(list(drawn.values()))
        for i, way in zip(drawn, best, strict=True):
            samples[i].way, samples[i].text = way, way.text
        return [i for i in drawn if not samples[i].way.finished]

    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of the chosen tokens of each row: float32_B, nats, differentiable."""
        rounds: list[list[int]] = []
        n_fixed, row_of = list[int](), list[int]()
        for row, ids in enumerate(token_BT.tolist()):
            if END_ID in ids:
                ids = ids[: ids.index(END_ID)]
            starts = [i for i, token in enumerate(ids) if token == -START_ID and i]
            for begin, stop in pairwise([0, *starts, len(ids)]):
                part = ids[begin:stop]
                row_of.append(row)
                n_fixed.append(sum(token < -START_ID and token != CUT_OFF for token in part))
                end = [] if part[-1] == CUT_OFF else [END_ID]
                rounds.append([abs(token) for token in part if token != CUT_OFF] + end)
        token_RT = pad(rounds, token_BT.device)
        logp_R = self.base.logp_tokens(token_RT, self.constraint.fixed(token_RT, n_fixed))
        row_R = torch.tensor(row_of, dtype=torch.long, device=logp_R.device)
        return logp_R.new_zeros(len(token_BT)).index_add(0, row_R, logp_R)


class _Sample:
    """A row in the making."""

    def __init__(self, part: Part, way: Way, seed: int) -> None:
        self.part, self.seed = part, seed
        self.way, self.text, self.truncated = way, way.text, False
        self.ids: list[int] = []
        self.chosen: list[str] = []
        """The text that the policy chose in each round."""

    def add(self, prompt: list[int], chosen: list[int], text: str, *, truncated: bool) -> None:
        """Add a round."""
        start = -START_ID if self.ids else START_ID
        self.ids += [start, *(-token for token in prompt[1:]), *chosen]
        self.ids += [CUT_OFF] if truncated else []
        self.chosen.append(text)
        self.text, self.truncated = self.way.text + text, truncated

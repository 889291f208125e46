"""A policy whose molecules hold a given part: it finishes prompts, in one round or several.

PromptSMILES (Thomas et al., J. Cheminform. 16, 77 (2024)): an unconditional model is given a SMILES
that ends with an open atom, and finishes it; for a further open atom what came out is written anew
so that this one is last, and finished again. Spellings are drawn at random, and of several the one
that a frozen model finds most probable is taken.

A sample is a sequence of rounds, and its log p is that of the tokens that the policy chose, given
the fixed ones. What comes between them (spellings, the place where a second fragment is joined)
depends on the chosen tokens, on random numbers and on the frozen model: it is the same for prior
and policy, and cancels in every ratio of the two. So KL-regularised post-training applies as it
stands, each part being a group with an anchor of its own.

Deviations from the paper:

1. The fixed tokens do not count in log p.
2. Right behind a prompt some tokens have no probability, and the others are divided by what these
   sum to: the end token, for a model of canonical SMILES would mostly end there and add nothing;
   and where the part has `one_bond`, whatever is not one bond to a first atom.
3. Of two fragments the second ends the sequence at the place where it is most probable; what the
   policy wrote behind the place is dropped. The policy chose it, so it is in log p.

A row of ids is: the start token; given ids with a minus sign; chosen ids; then, where another round
follows, the start token with a minus sign (the round before it ended by a chosen end token), its
given and its chosen ids, and so on; at last the end token, and end tokens as padding. A row that
reached the maximum length has `CUT_OFF` in place of the first end token.

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
    Given,
    Policy,
    Rollout,
    SequenceModel,
    Written,
    pad,
    stream,
)
from chemkl.policies.tokenizer import END, END_ID, START, START_ID, Vocabulary

NOT_WRITTEN = "no SMILES was found that ends at its attachment point"
POOL = 32
"""Prompts that are drawn for each part at the start; a row begins with one of them."""


class Way(Protocol):
    """One of several ways to begin or to go on."""

    @property
    def text(self) -> str:
        """A SMILES to be finished, or a finished one."""

    @property
    def given(self) -> str:
        """What it begins with: ways are compared by what comes behind it."""

    @property
    def compared(self) -> str | None:
        """What then comes, before the rest; None: all, and the end token of a finished one."""

    @property
    def finished(self) -> bool:
        """Whether the SMILES is finished."""


Spelt = list[tuple[Way, list[int], int]]
"""Ways, each with the ids that it is compared by, and how many of them are given."""


class Part(Protocol):
    """What a molecule must hold; `chemkl.chem.parts` has some. All its chance is in the seeds."""

    name: str  # as the user wrote it
    key: str  # where
    rounds: int  # most rounds that it takes
    one_bond: bool  # whether what is written behind a prompt is bound to it by one single bond

    def begin(self, seed: int, n: int, /) -> Sequence[Way]:
        """Return up to n ways to begin, of which one is taken."""

    def go_on(self, way: Any, completion: str, seed: int, n: int, /) -> Sequence[Way]:
        """Return up to n ways to go on from what was made of a way; none: it is at its end."""

    def problem(self, way: Any, text: str, /) -> str | None:
        """Say why a text that came of a way lacks the part; None: it does not, or is invalid."""


def spelt(ways: Sequence[Way], vocabulary: Vocabulary, max_length: int) -> Spelt:
    """Return those that a vocabulary can write and that leave room for more, each with its ids.

    Raises:
        InputError: there are some ways, but none of these.
    """
    found: Spelt = []
    problem: InputError | None = None
    for way in sorted(ways, key=lambda way: -len(way.text)):
        try:
            found.append((way, *_ids(way, vocabulary, max_length)))
        except InputError as error:
            problem = error  # in the end that of the shortest, which has least to complain of
    if problem is not None and not found:
        raise problem
    return found


def _ids(way: Way, vocabulary: Vocabulary, max_length: int) -> tuple[list[int], int]:
    n = len(vocabulary.encode(way.text)) - 2
    if n > max_length - 2:
        raise InputError(
            f"{way.text!r} has {n} tokens, which leaves no room for more: the prior "
            f"writes at most {max_length}, end token included. Take a smaller part."
        )
    ends = way.finished and way.compared is None
    behind = way.text[len(way.given) :] if way.compared is None else way.compared
    given, behind_ids = vocabulary.encode(way.given)[:-1], vocabulary.encode(behind)[1:]
    return given + (behind_ids if ends else behind_ids[:-1]), len(given) - 1


class Constraint:
    """Parts that a policy and its reference have in common, and what is chosen between rounds.

    Args:
        parts: numbered from 0; each is a group of a rollout.
        chooser: says which spelling, or place, is the most probable; it must not change.
        choices: spellings, or places, that are drawn at a time; 1: the first one is taken.
        per_step: parts of one rollout, drawn at random; None: all.
        seed: of the prompts to begin with.

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
        """Tokens that cannot stand behind a prompt."""
        self.pools: list[list[Way]] = []
        generator, problems = stream(seed, 0, purpose="prompts"), list[str]()
        for part in self.parts:
            seeds = torch.randint(2**62, (POOL,), generator=generator).tolist()
            drawn, problem = list[Spelt](), NOT_WRITTEN
            for one in seeds:
                try:
                    drawn.append(self.written(part.begin(one, choices)))
                except InputError as error:
                    problem = str(error)
            self.pools.append(self.most_probable([ways for ways in drawn if ways]))
            if not self.pools[-1]:
                problems.append(f"{part.key}: {part.name}: {problem}")
        InputError.refuse(problems)

    def given(self, token_BT: Tensor, n_given: Sequence[int]) -> Given:
        """Say that rows begin with so many given tokens."""
        device = token_BT.device
        n_B = torch.tensor(n_given, dtype=torch.long, device=device)
        return Given(token_BT, n_B, self.bar_V.to(device))

    def written(self, ways: Sequence[Way]) -> Spelt:
        """Return those that can be written, each with its ids; see `spelt`."""
        return spelt(ways, self._chooser.vocabulary, self._chooser.max_length)

    @torch.no_grad()
    def most_probable(self, drawn: Sequence[Spelt]) -> list[Way]:
        """Return of each set of ways, none of them empty, the one that the chooser would take."""
        rows = [(i, *row) for i, ways in enumerate(drawn) for row in ways if len(ways) > 1]
        best = [ways[0][0] for ways in drawn]
        most = [-torch.inf] * len(best)
        nothing_V = torch.zeros_like(self.bar_V, device=self._chooser.device)
        for _, same in groupby(sorted(rows, key=lambda row: len(row[2])), lambda row: len(row[2])):
            # rows of one length are not padded: those without an end token count whole
            some = list(same)
            token_BT = torch.tensor([row[2] for row in some], device=self._chooser.device)
            n_B = torch.tensor([row[3] for row in some], device=token_BT.device)
            logp_B = self._chooser.logp_tokens(token_BT, Given(token_BT, n_B, nothing_V))
            for (i, way, *_), logp in zip(some, logp_B.tolist(), strict=True):
                if logp > most[i]:
                    best[i], most[i] = way, logp
        return best


class ConstrainedPolicy(SequenceModel):
    """The distribution over molecules that hold a part, as a policy finishes prompts.

    Args:
        base: the policy; it is what is trained and saved.
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
        """Draw n molecules, of the parts in turn, or `part` of these.

        A row depends on the generator and on its index. It has `smiles` (what came of it), `logp`
        (of the chosen tokens), `group` (the part's number) and `written`.
        """
        return self.sample_to_learn(n, generator, part)

    def sample_to_learn(
        self, n: int, generator: torch.Generator | None = None, part: slice = ALL
    ) -> Rollout:
        """Draw as `sample` does; the logp has its graph where the base leaves one."""
        constraint, vocabulary = self.constraint, self.base.vocabulary
        order = torch.randperm(len(constraint.parts), generator=generator).tolist()
        groups = [order[i % constraint.per_step] for i in range(n)[part]]
        seeds = torch.randint(2**62, (n,), generator=generator)[part].tolist()
        most = max(own.rounds for own in constraint.parts)
        uniform_KTB = torch.rand(most, self.base.max_length, n, generator=generator)[..., part]
        samples = [
            _Sample(constraint.parts[g], constraint.pools[g][seed % len(constraint.pools[g])], seed)
            for g, seed in zip(groups, seeds, strict=True)
        ]
        logp_B = torch.zeros(len(samples), device=self.device)
        going = list(range(len(samples)))
        for uniform_TB in uniform_KTB:
            prompts = [vocabulary.encode(samples[i].way.text)[:-1] for i in going]
            n_given = [len(prompt) - 1 for prompt in prompts]
            given = constraint.given(pad(prompts, self.device), n_given)
            token_RT, logp_R, truncated_R = self.base.complete(uniform_TB[:, going], given)
            place_R = torch.tensor(going, dtype=torch.long, device=self.device)
            logp_B = logp_B.index_add(0, place_R, logp_R.to(self.device))
            rounds = zip(going, prompts, token_RT.tolist(), truncated_R.tolist(), strict=True)
            for i, prompt, ids, truncated in rounds:
                chosen = [token for token in ids[len(prompt) :] if token != END_ID]
                said = "".join(vocabulary.tokens[token] for token in chosen)
                samples[i].add(prompt, chosen, said, truncated=truncated)
            going = self._go_on(samples, going)
            if not going:
                break
        token_BT = pad([[*one.ids, *[END_ID] * (not one.truncated)] for one in samples])
        cut_off_B = torch.tensor([one.truncated for one in samples], dtype=torch.bool)
        return Rollout(
            [one.text for one in samples],
            token_BT.to(self.device),
            logp_B,
            cut_off_B.to(self.device),
            group=torch.tensor(groups, dtype=torch.long, device=self.device),
            written=[
                Written("|".join(one.said), one.part.problem(one.way, one.text)) for one in samples
            ],
        )

    def _go_on(self, samples: "Sequence[_Sample]", going: Sequence[int]) -> list[int]:
        """Take the next way of each sample that has one; return which of them go on."""
        drawn = {}
        for i in going:
            one = samples[i]
            if not one.truncated:
                seed = one.seed + len(one.said)
                ways = one.part.go_on(one.way, one.said[-1], seed, self.constraint.choices)
                with suppress(InputError):  # none that the vocabulary can write: it ends here
                    drawn[i] = self.constraint.written(ways)
        drawn = {i: ways for i, ways in drawn.items() if ways}
        chosen = self.constraint.most_probable(list(drawn.values()))
        for i, way in zip(drawn, chosen, strict=True):
            samples[i].way, samples[i].text = way, way.text
        return [i for i in drawn if not samples[i].way.finished]

    def logp_tokens(self, token_BT: Tensor) -> Tensor:
        """Return log p of each row of ids: float32_B, nats, of what was chosen, differentiable."""
        rows: list[list[int]] = []
        n_given, places = list[int](), list[int]()
        for place, ids in enumerate(token_BT.tolist()):
            if END_ID in ids:
                ids = ids[: ids.index(END_ID)]
            starts = [i for i, token in enumerate(ids) if token == -START_ID and i]
            for begin, stop in pairwise([0, *starts, len(ids)]):
                row = ids[begin:stop]
                places.append(place)
                n_given.append(sum(token < -START_ID and token != CUT_OFF for token in row))
                ended = [] if row[-1] == CUT_OFF else [END_ID]
                rows.append([abs(token) for token in row if token != CUT_OFF] + ended)
        token_RT = pad(rows, token_BT.device)
        logp_R = self.base.logp_tokens(token_RT, self.constraint.given(token_RT, n_given))
        place_R = torch.tensor(places, dtype=torch.long, device=logp_R.device)
        return logp_R.new_zeros(len(token_BT)).index_add(0, place_R, logp_R)


class _Sample:
    """A row as it is made."""

    def __init__(self, part: Part, way: Way, seed: int) -> None:
        self.part, self.seed = part, seed
        self.way, self.text, self.truncated = way, way.text, False
        self.ids: list[int] = []
        self.said: list[str] = []

    def add(self, prompt: list[int], chosen: list[int], said: str, *, truncated: bool) -> None:
        """Take a round in."""
        start = -START_ID if self.ids else START_ID
        self.ids += [start, *(-token for token in prompt[1:]), *chosen]
        self.ids += [CUT_OFF] if truncated else []
        self.said.append(said)
        self.text, self.truncated = self.way.text + said, truncated

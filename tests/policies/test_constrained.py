"""Policies that finish prompts: their log p is that of a pass written out here, renormalised."""

# ruff: noqa: ARG002 - the made-up parts have the arguments of real ones

from typing import NamedTuple

import pytest
import torch
from torch.nn import functional

from chemkl.config import InputError
from chemkl.policies import ConstrainedPolicy, Constraint, RnnPolicy, TransformerPolicy, Vocabulary
from chemkl.policies.base import CUT_OFF, stream

KNOWN = Vocabulary.of(["C", "N", "O", "(", ")", "=", "1", "-"])
END = 0
BARRED = [KNOWN.tokens.index(token) for token in ("$", "^", "(", ")", "=", "1")]


class Way(NamedTuple):
    text: str
    prefix: str = ""
    compared: str | None = None
    finished: bool = False


class Rounds:
    """A part that has nothing to do with chemistry: so many rounds, whatever is written."""

    name, key, one_bond = "made up", "parts.0", True

    def __init__(self, rounds):
        self.rounds = rounds

    def begin(self, seed, n):
        return [Way("CN"), Way("OC1CC1")][:n]

    def go_on(self, way, completion, seed, n):
        done = len(way.text) >= 5 + self.rounds
        return [] if done else [Way("N" * (len(way.text) + 1)), Way("O" * (len(way.text) + 1))]

    def problem(self, way, text):
        return None


def lstm():
    return RnnPolicy(KNOWN, embedding_size=4, hidden_size=6, n_layers=2, max_length=14)


def gru():
    return RnnPolicy(KNOWN, cell="gru", embedding_size=4, hidden_size=6, n_layers=2, max_length=14)


def transformer():
    return TransformerPolicy(
        KNOWN, hidden_size=8, inner_size=8, n_layers=1, n_heads=2, max_length=14
    )


def rounds_of(row):
    """The ids of each round, given ones with a minus sign, with its end token if it has one."""
    ids = [*row, END] if END not in row and CUT_OFF not in row else row
    ids = ids[: ids.index(CUT_OFF)] if CUT_OFF in ids else ids[: ids.index(END) + 1]
    starts = [place for place, token in enumerate(ids) if token == -1]
    parts = zip([0, *starts], [*starts, len(ids)], strict=True)
    return [ids[begin:stop] + [END] * (stop < len(ids)) for begin, stop in parts]


def by_hand(policy, rollout):
    """Sum log p of what was chosen, round by round, from plain passes over each row alone."""
    total = []
    for row in rollout.tokens.tolist():
        logp = torch.zeros(())
        for ids in rounds_of(row):
            scores_BV = policy(torch.tensor([[abs(i) for i in ids]]))[0][0]
            first = next(t for t in range(1, len(ids)) if ids[t] >= 0)
            bar_BV = torch.zeros_like(scores_BV)
            bar_BV[first - 1, BARRED] = -torch.inf
            logp_BV = functional.log_softmax(scores_BV + bar_BV, dim=1)
            logp = logp + sum(logp_BV[t - 1, ids[t]] for t in range(first, len(ids)))
        total.append(logp)
    return torch.stack(total)


@pytest.mark.parametrize("build", [lstm, gru, transformer])
@pytest.mark.parametrize("rounds", [1, 3])
def test_logp_and_its_gradient_are_those_of_the_chosen_tokens(build, rounds):
    torch.manual_seed(1)
    policy, prior = build(), build()
    constraint = Constraint([Rounds(rounds)], prior, choices=2)
    constrained = ConstrainedPolicy(policy, constraint)
    rollout = constrained.sample_to_learn(24, stream(0, 0))
    assert 0 < rollout.truncated.sum() < 24
    assert {row.completion.count("|") for row in rollout.written} >= {rounds - 1}
    expected = by_hand(policy, rollout)
    weights = torch.linspace(-1, 2, 24)
    expected_gradient = torch.autograd.grad((weights * expected).sum(), [*policy.parameters()])
    logps = [constrained.logp_tokens(rollout.tokens)]
    logps += [rollout.logp] if rollout.logp.requires_grad else []
    assert (len(logps) == 2) == (build is lstm)  # the only one that keeps the graph of sampling
    torch.testing.assert_close(rollout.logp, expected, rtol=0, atol=1e-5)
    for logp_B in logps:
        torch.testing.assert_close(logp_B, expected, rtol=0, atol=1e-5)
        actual = torch.autograd.grad((weights * logp_B).sum(), [*policy.parameters()])
        for one, other in zip(actual, expected_gradient, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


def test_nothing_barred_stands_behind_a_prompt_and_its_length_is_that_of_what_was_chosen():
    torch.manual_seed(0)
    policy = lstm()
    rollout = ConstrainedPolicy(policy, Constraint([Rounds(2)], policy)).sample(64, stream(0, 0))
    for row, n in zip(rollout.written, rollout.n_tokens.tolist(), strict=True):
        rounds = row.completion.split("|")
        assert all(text[0] in "CNO-" for text in rounds)
        assert n - sum(map(len, rounds)) in (len(rounds), len(rounds) - 1)  # an end token a round
    # processes share a batch
    torch.manual_seed(0)
    policy = lstm()
    constrained = ConstrainedPolicy(policy, Constraint([Rounds(1), Rounds(2)], policy))
    whole = constrained.sample(10, stream(3, 1))
    parts = [constrained.sample(10, stream(3, 1), part) for part in (slice(0, 4), slice(4, 10))]
    assert whole.smiles == parts[0].smiles + parts[1].smiles
    torch.testing.assert_close(whole.logp, torch.cat([one.logp for one in parts]))
    assert whole.group.tolist() == [*parts[0].group.tolist(), *parts[1].group.tolist()]
    assert sorted(whole.group.tolist()) == [0] * 5 + [1] * 5
    assert not len(constrained.sample(1, stream(3, 1), slice(0, 0)))


def test_the_way_is_taken_that_the_frozen_model_finds_most_probable():
    torch.manual_seed(5)
    policy, prior = lstm(), lstm()
    constraint = Constraint([Rounds(1)], prior, choices=2)
    texts = {way.text for way in constraint.pools[0]}
    # of a prompt alone, without an end: that of the prompt and an end, less that of the end
    scores = {}
    for text in ("CN", "OC1CC1"):
        ids = torch.tensor([KNOWN.encode(text)])
        logits, _ = prior(ids[:, :-2])
        logp = logits.log_softmax(dim=-1).gather(2, ids[:, 1:-1, None]).sum()
        scores[text] = logp.item()
    assert texts == {max(scores, key=scores.get)}
    assert {row.text for row in Constraint([Rounds(1)], policy, choices=1).pools[0]} == {"CN"}


def test_a_part_that_the_vocabulary_lacks_is_named_with_its_token():
    policy = RnnPolicy(Vocabulary.of("CO"), embedding_size=2, hidden_size=2, n_layers=1)

    class Foreign(Rounds):
        def begin(self, seed, n):
            return [Way("CN")]

    with pytest.raises(InputError, match=r"parts\.0: made up: 'CN': token 'N' at position 2"):
        Constraint([Foreign(1)], policy)
    short = RnnPolicy(KNOWN, embedding_size=2, hidden_size=2, n_layers=1, max_length=3)
    with pytest.raises(InputError, match=r"'CN' has 2 tokens, which leaves no room"):
        Constraint([Rounds(1)], short, choices=1)

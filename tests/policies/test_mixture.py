"""Mixtures against worlds that are written out: 40 sequences of at most three tokens."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import nn

from chemkl.config import InputError
from chemkl.losses.exact import forward_kl_optimum, reverse_kl_optimum
from chemkl.policies import Mixture, Policy, RnnPolicy, Vocabulary, save_policy

VOCABULARY = Vocabulary.of("CN")
END, START = 0, 1
INNER = range(1, len(VOCABULARY))
WEIGHTS = {"a": 0.3, "b": 0.7}
BETA = 0.5


def sequences(longest):
    """Every row of ids of a world: those that end, and those that are cut off."""
    middles = [middle for n in range(longest) for middle in itertools.product(INNER, repeat=n)]
    cut_off = [(START, *middle) for middle in itertools.product(INNER, repeat=longest)]
    return [(START, *middle, END) for middle in middles] + cut_off


class Table(Policy):
    """A policy that looks up its next token: {prefix: probability of each token}."""

    def __init__(self, table, longest):
        super().__init__(VOCABULARY, max_length=longest)
        self.table = table
        self.somewhere = nn.Parameter(torch.zeros(1))

    @property
    def architecture(self):
        return {}

    def forward(self, token_BT, state=None):
        behind, logits_BTV = [], []
        for prefix, tokens in zip(state or [()] * len(token_BT), token_BT.tolist(), strict=True):
            prefixes = list(itertools.accumulate(tokens, lambda p, t: (*p, t), initial=prefix))[1:]
            behind.append(prefixes[-1])
            logits_BTV.append([self.table.get(p, [1.0] * len(VOCABULARY)) for p in prefixes])
        return torch.tensor(logits_BTV).log(), behind

    def select(self, state, keep_A):
        return [row for row, keep in zip(state, keep_A.tolist(), strict=True) if keep]


def table_of(probability):
    """p(t | prefix) of a distribution over whole rows: mass below prefix + t over mass below."""
    mass = Counter()
    for row, p in probability.items():
        for n in range(1, len(row) + 1):
            mass[row[:n]] += p
    prefixes = {row[:n] for row in probability for n in range(1, len(row))}
    tokens = range(len(VOCABULARY))
    return {prefix: [mass[*prefix, t] / mass[prefix] for t in tokens] for prefix in prefixes}


def policy_of(rows, p):
    return Table(table_of(dict(zip(rows, p.tolist(), strict=True))), max(map(len, rows)) - 1)


def world(optimum, longest=3, beta=BETA):
    """Rows, log p of a prior, two rewards, their optima, and policies that are these."""
    rows, generator = sequences(longest), torch.Generator().manual_seed(longest)
    logp_ref = (2 * torch.randn(len(rows), generator=generator, dtype=torch.float64)).log_softmax(0)
    rewards = torch.rand(2, len(rows), generator=generator, dtype=torch.float64)
    optima = [optimum(r, logp_ref, beta) for r in rewards]
    policies = {name: policy_of(rows, p) for name, p in zip("ab", optima, strict=True)}
    return rows, logp_ref, rewards, optima, policies


def probabilities(policy, rows):
    """What a policy gives every row, one row at a time."""
    with torch.no_grad():
        logp = [policy.logp_tokens(torch.tensor([row])).double() for row in rows]
    return torch.cat(logp).exp()


MEANS = {
    "product": lambda parts: math.prod(p**w for w, p in parts),
    "harmonic": lambda parts: 1 / sum(w / p for w, p in parts),
}


def by_hand(tables, weights, rows, mean):
    """Token by token in plain floats: mean of the probabilities, divided by the sum over tokens."""
    result = []
    for row in rows:
        p = 1.0
        for n in range(1, len(row)):
            means = [
                mean([(w, table[row[:n]][t]) for w, table in zip(weights, tables, strict=True)])
                for t in range(len(VOCABULARY))
            ]
            p *= means[row[n]] / sum(means)
        result.append(p)
    return torch.tensor(result, dtype=torch.float64)


def small(cell="lstm", tokens="CN", seed=0, **sizes):
    torch.manual_seed(seed)
    sizes = {"embedding_size": 8, "hidden_size": 24, "n_layers": 2, "max_length": 12} | sizes
    policy = RnnPolicy(Vocabulary.of(tokens), cell=cell, **sizes)
    with torch.no_grad():  # far from uniform, so that every token matters
        policy.linear.weight.mul_(6)
    return policy.eval()


def unlike(**changes):
    """Two networks of different shape: a deep LSTM and a wide GRU."""
    return {"a": small(seed=1, **changes), "b": small("gru", seed=2, hidden_size=40, **changes)}


def mixed(options, **changes):
    prior = small(seed=3, **changes) if "beta_scale" in options else None
    return Mixture(unlike(**changes), WEIGHTS, prior=prior, **options)


@pytest.mark.parametrize("kind", MEANS)
def test_each_token_is_the_mean_renormalised_there(kind):
    rows, *_, policies = world(reverse_kl_optimum)
    tables = [policy.table for policy in policies.values()]
    mixture = probabilities(Mixture(policies, WEIGHTS, kind=kind), rows)
    expected = by_hand(tables, (0.3, 0.7), rows, MEANS[kind])
    torch.testing.assert_close(mixture, expected, atol=1e-7, rtol=1e-5)
    assert float(mixture.sum()) == pytest.approx(1, abs=1e-6)
    other = by_hand(tables, (0.7, 0.3), rows, MEANS[kind])
    assert (mixture - other).abs().sum() > 0.05  # the weights are not interchangeable


def test_a_policy_without_weight_does_not_count():
    policies = unlike()
    token_BT = policies["a"].sample(20, torch.Generator().manual_seed(0)).tokens
    with torch.no_grad():
        logp_B = Mixture(policies, {"a": 1, "b": 0}).logp_tokens(token_BT)
        torch.testing.assert_close(logp_B, policies["a"].logp_tokens(token_BT))
    # what one policy forbids no positive weight allows
    never = Table({(START,): [0.5, 0.0, 0.5, 0.0]}, 1)
    maybe = Table({(START,): [0.1, 0.2, 0.3, 0.4]}, 1)
    rows = sequences(1)
    for kind in MEANS:
        p = probabilities(Mixture({"a": never, "b": maybe}, WEIGHTS, kind=kind), rows)
        assert p[rows.index((START, 3))] == 0
        assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    alone = probabilities(Mixture({"a": never, "b": maybe}, {"a": 0, "b": 1}), rows)
    assert alone[rows.index((START, 3))] == pytest.approx(0.4, abs=1e-6)


def test_the_product_of_whole_sequences_is_the_optimum_of_the_weighted_reward():
    _, logp_ref, rewards, (a, b), _ = world(reverse_kl_optimum)
    product = a**0.3 * b**0.7
    expected = reverse_kl_optimum(0.3 * rewards[0] + 0.7 * rewards[1], logp_ref, BETA)
    torch.testing.assert_close(product / product.sum(), expected)
    # by token it is not
    rows, logp_ref, rewards, optima, policies = world(reverse_kl_optimum, beta=0.1)
    decoded = probabilities(Mixture(policies, {"a": 0.5, "b": 0.5}), rows)
    expected = reverse_kl_optimum(rewards.mean(dim=0), logp_ref, 0.1)
    assert (decoded - expected).abs().sum() / 2 > 0.05  # total variation
    # what lies between them is exactly the normaliser of each prefix
    tables = [policy.table for policy in policies.values()]
    for row, p in zip(rows, decoded, strict=True):
        dropped = [
            math.fsum(math.sqrt(x * y) for x, y in zip(*(t[row[:n]] for t in tables), strict=True))
            for n in range(1, len(row))
        ]
        whole = math.sqrt(math.prod(float(q[rows.index(row)]) for q in optima))
        assert math.log(p) == pytest.approx(math.log(whole / math.prod(dropped)), abs=1e-4)


AGREEING = [(1, (0.3, 0.7), scale) for scale in (None, 0.5, 1, 2, 30)]
AGREEING += [(3, (1, 0), None), (3, (0, 1), None), (3, (1, 0), 1)]


@pytest.mark.parametrize(("longest", "weights", "scale"), AGREEING)
def test_where_both_products_agree_also_at_another_beta(longest, weights, scale):
    rows, logp_ref, rewards, _, policies = world(reverse_kl_optimum, longest)
    prior = None if scale is None else policy_of(rows, logp_ref.exp())
    by_name = dict(zip("ab", weights, strict=True))
    mixture = Mixture(policies, by_name, prior=prior, beta_scale=scale)
    weighted = weights[0] * rewards[0] + weights[1] * rewards[1]
    expected = reverse_kl_optimum(weighted, logp_ref, (scale or 1) * BETA)
    torch.testing.assert_close(probabilities(mixture, rows), expected, atol=1e-6, rtol=1e-5)
    if scale is not None:
        exponents = [w / scale for w in weights]
        assert mixture.exponents == pytest.approx((*exponents, 1 - 1 / scale))


def test_harmonic_is_the_forward_kl_optimum_at_beta_over_its_sum():
    rows, logp_ref, rewards, optima, policies = world(forward_kl_optimum, 1)
    weighted = 0.3 * rewards[0] + 0.7 * rewards[1]
    # 1/G_i = (L_i - R_i) / (beta pi_ref), so the mean is beta pi_ref / (L' - R_w), L' = sum w_i L_i
    mean = 1 / (0.3 / optima[0] + 0.7 / optima[1])
    levels = [r + BETA * logp_ref.exp() / p for r, p in zip(rewards, optima, strict=True)]
    level = 0.3 * levels[0] + 0.7 * levels[1]
    torch.testing.assert_close(mean, BETA * logp_ref.exp() / (level - weighted))
    total = float(mean.sum())
    assert total < 0.999  # below 1, as is the harmonic mean of distributions that differ
    decoded = probabilities(Mixture(policies, WEIGHTS, kind="harmonic"), rows)
    expected = forward_kl_optimum(weighted, logp_ref, BETA / total)
    torch.testing.assert_close(decoded, expected, atol=1e-6, rtol=1e-5)
    at_beta = forward_kl_optimum(weighted, logp_ref, BETA)
    assert (decoded - at_beta).abs().max() > 1e-4
    # by token it is not
    rows, _, _, optima, policies = world(forward_kl_optimum, beta=0.1)
    decoded = probabilities(Mixture(policies, WEIGHTS, kind="harmonic"), rows)
    whole = 1 / (0.3 / optima[0] + 0.7 / optima[1])
    assert (decoded - whole / whole.sum()).abs().sum() / 2 > 0.05


def test_beta_scale_leads_from_the_policy_to_the_prior_and_is_approximate_between():
    rows, logp_ref, rewards, optima, policies = world(reverse_kl_optimum, beta=0.1)
    prior = policy_of(rows, logp_ref.exp())

    def scaled(scale):
        mixture = Mixture({"a": policies["a"]}, {"a": 1}, prior=prior, beta_scale=scale)
        return probabilities(mixture, rows)

    torch.testing.assert_close(scaled(1), optima[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(scaled(1e7), logp_ref.exp(), atol=1e-6, rtol=1e-5)
    exact = reverse_kl_optimum(rewards[0], logp_ref, 0.1 * 3)
    assert (scaled(3) - exact).abs().sum() / 2 > 0.01
    rewarded = [float(scaled(s) @ rewards[0]) for s in (0.5, 1, 2, 8)]
    assert rewarded == sorted(rewarded, reverse=True)


@pytest.mark.parametrize(
    "options",
    [{"kind": "product"}, {"kind": "harmonic"}, {"beta_scale": 3.0}, {"beta_scale": 0.5}],
    ids=["product", "harmonic", "toward the prior", "away from it"],
)
@torch.no_grad()
def test_logp_does_not_depend_on_the_rest_of_the_batch(options):
    mixture = mixed(options)
    molecules = ["C", "CCN", "NNCNCN", "", "C" * 20]
    alone = torch.cat([mixture.logp([smiles]) for smiles in molecules])
    assert alone.unique().numel() == len(molecules)
    with_long = mixture.logp([*molecules, "NC" * 60])[: len(molecules)]
    for logp_B in (mixture.logp(molecules), with_long):
        torch.testing.assert_close(logp_B, alone, atol=1e-5, rtol=2e-7)
    # a sample has its own logp, cut off or not
    mixture = mixed(options, max_length=6)
    rollout = mixture.sample(300, torch.Generator().manual_seed(1))
    assert 10 < int(rollout.truncated.sum()) < 290
    assert rollout.logp.dtype == torch.float32
    again = mixture.logp_tokens(rollout.tokens)
    torch.testing.assert_close(again, rollout.logp, atol=1e-5, rtol=1e-6)


def test_each_member_says_what_it_thinks_alone():
    mixture = mixed({"beta_scale": 2.0})
    token_BT = mixture.sample(30, torch.Generator().manual_seed(0)).tokens
    with torch.no_grad():
        alone = mixture.logp_of_members(token_BT)
        assert list(alone) == ["a", "b", "prior"] == list(mixture.members)
        for name, logp_B in alone.items():
            torch.testing.assert_close(logp_B, mixture.members[name].logp_tokens(token_BT))
    assert mixture.exponents == pytest.approx((0.15, 0.35, 0.5))
    # the gradient reaches every member
    mixture = mixed({"kind": "harmonic"})
    mixture.logp(["CCN"]).sum().backward()
    for policy in mixture.members.values():
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


def test_sampling_leaves_the_mode_of_every_member_alone(tmp_path):
    policies = unlike(dropout=0.5)
    policies["a"].train()
    mixture = Mixture(policies, WEIGHTS)
    first = mixture.sample(20, torch.Generator().manual_seed(0))
    assert policies["a"].training
    assert policies["a"].rnn.training
    assert not policies["b"].training
    policies["a"].eval()
    assert mixture.sample(20, torch.Generator().manual_seed(0)).smiles == first.smiles
    # the shortest member limits the length
    policies = {"a": small(max_length=5), "b": small(max_length=12)}
    assert Mixture(policies, WEIGHTS).max_length == 5
    # a mixture cannot be saved
    with pytest.raises(TypeError, match="a mixture has no model file"):
        save_policy(Mixture(unlike(), WEIGHTS), tmp_path / "mixture.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def of(weights=WEIGHTS, policies=None, prior=None, **options):
    """What builds a mixture; a prior that is True is one like the others."""
    prior = small() if prior is True else prior
    return lambda: Mixture(policies or unlike(), weights, prior=prior, **options)


OTHER_IDS = RnnPolicy(Vocabulary(("$", "^", "N", "C")), hidden_size=8, n_layers=1)
REFUSED = {
    r"sum to 1, and sum to 2; divided by that .* a 0.5, b 0.5": of({"a": 1, "b": 1}),
    "sum to 1.00001": of({"a": 0.5, "b": 0.50001}),
    "at least 0; got b -0.5. .* beta_scale below 1": of({"a": 1.5, "b": -0.5}),
    "must be finite and at least 0; got a nan": of({"a": math.nan, "b": 0.5}),
    "must be finite and at least 0; got a inf": of({"a": math.inf, "b": 0.5}, kind="harmonic"),
    "must sum to 1, and all are 0: a 0, b 0": of({"a": 0, "b": 0}),
    "harmonic mixture must be above 0; got 0 for a": of({"a": 0, "b": 1}, kind="harmonic"),
    "one weight for each policy: policies a, b; weights a": of({"a": 0.3, "c": 0.7}),
    "at least one policy": of({}),
    "'harmonics' is not known; did you mean 'harmonic'": of(kind="harmonics"),
    "beta_scale needs prior": of(beta_scale=2.0),
    "prior is used with beta_scale only": of(prior=True),
    "finite and above 0, got 0": of(prior=True, beta_scale=0.0),
    "finite and above 0, got inf": of(prior=True, beta_scale=math.inf),
    "finite and above 0, got nan": of(prior=True, beta_scale=math.nan),
    "needs a product mixture": of(prior=True, beta_scale=2.0, kind="harmonic"),
    "a policy of the mixture is called 'prior'": of(
        {"prior": 1}, {"prior": small()}, prior=True, beta_scale=2.0),
    r"b: has another vocabulary than a \(it also has O\)": of(
        policies={"a": small(), "b": small(tokens="CNO")}),
    r"b: has another vocabulary than a \(it lacks 1 2 3 4 5 6 7 8 and 1 more\)": of(
        policies={"a": small(tokens="CN123456789"), "b": small()}),
    r"b: has another vocabulary than a \(it lacks N\)": of(
        policies={"a": small(), "b": small(tokens="C")}),
    r"\(it also has O, and it lacks N\). Take policies .* from the same prior": of(
        policies={"a": small(), "b": small(tokens="CO")}),
    r"\(the same tokens in another order\)": of(policies={"a": small(), "b": OTHER_IDS}),
    "prior: has another vocabulary than a": of(
        {"a": 1}, {"a": small()}, prior=OTHER_IDS, beta_scale=2.0),
}  # fmt: skip


@pytest.mark.parametrize(("says", "build"), REFUSED.items(), ids=[*REFUSED])
def test_what_cannot_be_mixed_is_refused(says, build):
    with pytest.raises(InputError, match=says):
        build()


def test_thirds_need_seven_digits():
    for third in (1 / 3, 0.3333333):
        of(dict.fromkeys("abc", third), {name: small() for name in "abc"})()

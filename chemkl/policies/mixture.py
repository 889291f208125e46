"""Mixtures of policies at decoding time (MOD), and interpolation toward a prior (DeRa).

Shape legend: B sequences, A of them not ended yet, T tokens (start token included), V vocabulary.
"""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, cast

import torch
from torch import Tensor, nn

from chemkl.config import InputError
from chemkl.config.prepare import PRIOR, Kind, problem_of_scale, problem_of_weights
from chemkl.policies.base import Policy


class Mixture(Policy):
    """A policy that combines the next-token distributions of others; it has no weights of its own.

    With weights w_i that sum to one, p(t | prefix) is proportional to

    - product: prod_i p_i(t | prefix)^w_i, the weighted geometric mean;
    - harmonic: 1 / sum_i w_i / p_i(t | prefix), the weighted harmonic mean.

    Derivation (multi-objective decoding, MOD, Shi et al., arXiv 2406.18853): for a divergence
    sum_y pi_ref(y) f(pi(y) / pi_ref(y)) the optimum of a reward R is where f'(pi / pi_ref) is
    R / beta plus a constant. So the weighted sum over policies of f'(pi_i / pi_ref) belongs to the
    reward R_w = sum_i w_i R_i:

    - Reverse KL, f(x) = x log x. pi_i = pi_ref exp(R_i / beta) / zeta_i, and prod_i pi_i^w_i is
      pi_ref exp(R_w / beta) times a constant: the optimum of R_w, at the same beta.
    - Forward KL, f(x) = -log x, f'(x) = -1/x. pi_ref cancels: 1/pi = sum_i w_i / pi_i. With
      pi_i = beta pi_ref / (L_i - R_i) this is pi = beta pi_ref / (L' - R_w), L' = sum_i w_i L_i. It
      sums to some S <= 1 (a harmonic mean is at most the arithmetic one), so after renormalisation
      it is the optimum of R_w not at beta but at beta / S, which is a little larger.

    With `prior` and `beta_scale` s, the product form takes p(t | prefix) proportional to
    prior^(1 - 1/s) times the mixture^(1/s): the reverse-KL optimum at s beta (decoding-time
    realignment, DeRa, Liu et al., arXiv 2402.02992). s = 1 changes nothing, a large s gives the
    prior, and s < 1 extrapolates, with a negative exponent of the prior.

    Deviations from these formulas:

    1. They hold for whole sequences. The product token by token is not the product of the
       sequences' probabilities: it drops the normaliser Z(prefix) of each prefix, log p(y) =
       sum_i w_i log p_i(y) - sum over the prefixes of y of log Z(prefix), and Z differs between
       prefixes. The two agree for sequences of one token, if one weight is 1, and if the policies
       are equal. The same holds for the harmonic form. MOD and DeRa decode like this.
    2. They assume that each policy is the optimum for its reward, with the same prior and beta. A
       policy before convergence, one with a flat target (MARA) or one trained with a diversity
       filter can be combined too, but the mixture is not an optimum.

    The log-probabilities of the mixture are those of its samples. There is no dropout in sampling;
    in `logp_tokens` the members are in their current mode.

    Args:
        policies: the members by name; all have the same vocabulary.
        weights: one number for each name. They sum to 1 (within 1e-6) and are at least 0; in the
            harmonic form they are above 0.
        kind: "product" or "harmonic".
        prior: of the post-training of the policies; becomes a member, with the name prior.
        beta_scale: s above; product form only, and only with a prior.

    Raises:
        InputError: weights that do not fit, vocabularies that differ, or a bad beta_scale.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        weights: Mapping[str, float],
        *,
        kind: Kind = "product",
        prior: Policy | None = None,
        beta_scale: float | None = None,
    ) -> None:
        problem = problem_of_weights(kind, weights) or problem_of_scale(
            kind, weights, beta_scale, has_prior=prior is not None
        )
        if not problem and policies.keys() != weights.keys():
            problem = (
                f"a mixture needs one weight for each policy: policies {', '.join(policies)}; "
                f"weights {', '.join(weights)}"
            )
        if problem:
            raise InputError(problem)
        members = {name: (policy, weights[name]) for name, policy in policies.items()}
        if prior is not None and beta_scale is not None:
            members = {name: (policy, w / beta_scale) for name, (policy, w) in members.items()}
            members[PRIOR] = (prior, 1 - 1 / beta_scale)
        check_vocabularies({n: policy.vocabulary.tokens for n, (policy, _) in members.items()})
        first = next(iter(policies.values()))
        super().__init__(
            first.vocabulary, max_length=min(policy.max_length for policy, _ in members.values())
        )
        self.kind = kind
        self.names = tuple(members)
        self.exponents = tuple(exponent for _, exponent in members.values())
        self._members = nn.ModuleList(policy for policy, _ in members.values())

    @property
    def members(self) -> dict[str, Policy]:
        """The policies by name, the prior last."""
        return dict(zip(self.names, cast("list[Policy]", list(self._members)), strict=True))

    @property
    def architecture(self) -> dict[str, Any]:
        """A mixture has no network of its own, so it cannot be saved.

        Raises:
            TypeError: always.
        """
        raise TypeError("a mixture has no model file: keep those of its members, and mix them")

    def forward(self, token_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return logits_BTV of the next token after each token, and the members' states."""
        states = state or (None,) * len(self.names)
        members = zip(self.members.values(), states, strict=True)
        logits, states = zip(*(member(token_BT, state) for member, state in members), strict=True)
        logps = [logits_BTV.float().log_softmax(dim=-1) for logits_BTV in logits]
        pairs = list(zip(self.exponents, logps, strict=True))
        if self.kind == "product":  # policies of weight 0 are skipped: 0 times -inf would be NaN
            return torch.stack([w * logp_BTV for w, logp_BTV in pairs if w]).sum(dim=0), states
        inverse = torch.stack([log(w) - logp_BTV for w, logp_BTV in pairs])
        return -inverse.logsumexp(dim=0), states

    def select(self, state: Any, keep_A: Tensor) -> Any:
        """Select rows of every member's state."""
        members = zip(self.members.values(), state, strict=True)
        return tuple(member.select(its_state, keep_A) for member, its_state in members)

    def logp_of_members(self, token_BT: Tensor) -> dict[str, Tensor]:
        """Return log p of rows of ids under each member: name -> float32_B, nats."""
        return {name: member.logp_tokens(token_BT) for name, member in self.members.items()}


def check_vocabularies(tokens_of: Mapping[str, Sequence[str]]) -> None:
    """Check that all vocabularies have the same tokens with the same ids.

    Args:
        tokens_of: name of each policy -> its tokens by id.

    Raises:
        InputError: a line for each policy whose tokens differ from those of the first one.
    """
    first, expected = next(iter(tokens_of.items()), ("", ()))
    InputError.refuse(
        f"{name}: has another vocabulary than {first} ({_difference(tokens, expected)}). "
        "Take policies that were post-trained from the same prior."
        for name, tokens in tokens_of.items()
        if list(tokens) != list(expected)
    )


def _difference(tokens: Sequence[str], expected: Sequence[str]) -> str:
    """Describe how two unequal lists of tokens differ."""
    extra, missing = sorted({*tokens} - {*expected}), sorted({*expected} - {*tokens})
    parts = [
        f"{text} {' '.join(some[:8])}" + f" and {len(some) - 8} more" * (len(some) > 8)
        for text, some in (("it also has", extra), ("it lacks", missing))
        if some
    ]
    return ", and ".join(parts) or "the same tokens in another order"

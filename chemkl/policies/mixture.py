"""Several policies decoded as one (MOD), and a policy moved toward its prior or away (DeRa).

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
    """A policy that is several others combined token by token, nothing trained.

    With weights w_i that sum to one, p(t | prefix) is at every token, renormalised there,

    - product: prod_i p_i(t | prefix)^w_i, the weighted geometric mean;
    - harmonic: 1 / sum_i w_i / p_i(t | prefix), the weighted harmonic mean.

    Where they come from (multi-objective decoding, MOD, Shi et al., arXiv 2406.18853): for a
    divergence sum_y pi_ref(y) f(pi(y) / pi_ref(y)) the optimum of a reward R is where
    f'(pi / pi_ref) is R / beta plus a constant. So the sum over policies, weighted, of
    f'(pi_i / pi_ref) belongs to the reward R_w = sum_i w_i R_i:

    - Reverse KL, f(x) = x log x. pi_i = pi_ref exp(R_i / beta) / zeta_i, and prod_i pi_i^w_i is
      pi_ref exp(R_w / beta) times a constant: the optimum of R_w, at the same beta.
    - Forward KL, f(x) = -log x, f'(x) = -1/x. pi_ref cancels: 1/pi = sum_i w_i / pi_i. With
      pi_i = beta pi_ref / (L_i - R_i) this is pi = beta pi_ref / (L' - R_w), L' = sum_i w_i L_i. It
      sums to some S <= 1 (a harmonic mean is at most the arithmetic one), so that what is left
      after renormalising is the optimum of R_w not at beta but at beta / S, a little larger.

    With `prior` and `beta_scale` s, the product form takes p(t | prefix) proportional to
    prior^(1 - 1/s) times the mixture^(1/s): the reverse-KL optimum at s beta (decoding-time
    realignment, DeRa, Liu et al., arXiv 2402.02992). s = 1 changes nothing, a large s gives the
    prior, and s < 1 extrapolates: the prior's exponent is negative there.

    Deviations from these formulas:

    1. They hold for whole sequences. A product token by token is not the product of the sequences'
       probabilities: at each prefix its normaliser Z(prefix) is dropped, log p(y) =
       sum_i w_i log p_i(y) - sum over the prefixes of y of log Z(prefix), and Z differs between
       prefixes. The two agree for sequences of one token, where one weight is 1, and where the
       policies are the same. The same holds for the harmonic form. MOD and DeRa decode like this.
    2. They suppose that each policy is the optimum for its reward, with one prior and one beta. A
       policy still on its way there, one with a flat target (MARA) and one behind a diversity
       filter are combined as well, but their mixture is nobody's optimum.

    The log-probabilities of the mixture are those of what it decodes. Members are never dropped
    out while sampling; in `logp_tokens` they are in the mode that they were given in.

    Args:
        policies: the members by name; all speak one vocabulary.
        weights: one number for each name. They sum to 1 (within 1e-6) and are at least 0; in the
            harmonic form they are above 0.
        kind: "product" or "harmonic".
        prior: what the policies were post-trained from; joins the members, under the name prior.
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
        """A mixture has no network of its own, so that it cannot be saved.

        Raises:
            TypeError: always.
        """
        raise TypeError("a mixture has no model file: keep those of its members, and mix them")

    def forward(self, token_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return logits_BTV of the next token after each given token, and the members' states."""
        states = state or (None,) * len(self.names)
        members = zip(self.members.values(), states, strict=True)
        logits, states = zip(*(member(token_BT, own) for member, own in members), strict=True)
        logps = [logits_BTV.float().log_softmax(dim=-1) for logits_BTV in logits]
        pairs = list(zip(self.exponents, logps, strict=True))
        if self.kind == "product":  # a weight of 0 leaves a policy out: 0 times -inf would be NaN
            return torch.stack([w * logp_BTV for w, logp_BTV in pairs if w]).sum(dim=0), states
        inverse = torch.stack([log(w) - logp_BTV for w, logp_BTV in pairs])
        return -inverse.logsumexp(dim=0), states

    def select(self, state: Any, keep_A: Tensor) -> Any:
        """Keep some rows of every member's state."""
        members = zip(self.members.values(), state, strict=True)
        return tuple(member.select(own, keep_A) for member, own in members)

    def logp_of_members(self, token_BT: Tensor) -> dict[str, Tensor]:
        """Return what each member alone gives rows of ids: name -> float32_B, nats."""
        return {name: member.logp_tokens(token_BT) for name, member in self.members.items()}


def check_vocabularies(tokens_of: Mapping[str, Sequence[str]]) -> None:
    """Compare vocabularies: ids must mean the same token everywhere.

    Args:
        tokens_of: what to call each policy, and its tokens by id.

    Raises:
        InputError: a line for each policy whose tokens are not those of the first one.
    """
    first, known = next(iter(tokens_of.items()), ("", ()))
    InputError.refuse(
        f"{name}: speaks another vocabulary than {first} ({_difference(spoken, known)}). "
        "Take policies that were post-trained from the same prior."
        for name, spoken in tokens_of.items()
        if list(spoken) != list(known)
    )


def _difference(spoken: Sequence[str], known: Sequence[str]) -> str:
    """Say how two unequal lists of tokens differ."""
    more, fewer = sorted({*spoken} - {*known}), sorted({*known} - {*spoken})
    parts = [
        f"{what} {' '.join(tokens[:8])}" + f" and {len(tokens) - 8} more" * (len(tokens) > 8)
        for what, tokens in (("it has also", more), ("it lacks", fewer))
        if tokens
    ]
    return ", and ".join(parts) or "the same tokens in another order"

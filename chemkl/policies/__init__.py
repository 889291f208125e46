"""Things that sample and score sequences; torch only, no chemistry."""

from chemkl.policies.base import Policy, Rollout, SequenceModel, check_device
from chemkl.policies.checkpoint import (
    build_policy,
    freeze,
    load_policy,
    read_header,
    save_policy,
    with_tokens,
)
from chemkl.policies.constrained import ConstrainedPolicy, Constraint
from chemkl.policies.decoder import MinGruPolicy, TransformerPolicy
from chemkl.policies.mixture import Mixture, check_vocabularies
from chemkl.policies.rnn import RnnPolicy
from chemkl.policies.tokenizer import UnknownTokenError, Vocabulary, tokenize

__all__ = [
    "ConstrainedPolicy",
    "Constraint",
    "MinGruPolicy",
    "Mixture",
    "Policy",
    "RnnPolicy",
    "Rollout",
    "SequenceModel",
    "TransformerPolicy",
    "UnknownTokenError",
    "Vocabulary",
    "build_policy",
    "check_device",
    "check_vocabularies",
    "freeze",
    "load_policy",
    "read_header",
    "save_policy",
    "tokenize",
    "with_tokens",
]

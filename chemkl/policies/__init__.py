"""Things that sample and score sequences; torch only, no chemistry."""

from chemkl.policies.base import Policy, Rollout, SequenceModel, check_device
from chemkl.policies.checkpoint import freeze, load_policy, read_header, save_policy
from chemkl.policies.mixture import Mixture, check_vocabularies
from chemkl.policies.rnn import RnnPolicy
from chemkl.policies.tokenizer import UnknownTokenError, Vocabulary, tokenize

__all__ = [
    "Mixture",
    "Policy",
    "RnnPolicy",
    "Rollout",
    "SequenceModel",
    "UnknownTokenError",
    "Vocabulary",
    "check_device",
    "check_vocabularies",
    "freeze",
    "load_policy",
    "read_header",
    "save_policy",
    "tokenize",
]

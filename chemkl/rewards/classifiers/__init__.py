"""Published activity classifiers as plain arrays: read behind an allow-list, kept, evaluated."""

from chemkl.rewards.classifiers.models import Classifier, Forest, SupportVectors
from chemkl.rewards.classifiers.store import CLASSIFIERS, load_classifier

__all__ = ["CLASSIFIERS", "Classifier", "Forest", "SupportVectors", "load_classifier"]

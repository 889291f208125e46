"""Language models: a Hugging Face causal LM as a policy, and what reads the text it writes.

Needs the extra chemkl[llm], or for the trainer of trl chemkl[trl]; importing this room does not.
"""

from chemkl.llm.models import build_policy, load
from chemkl.llm.policy import HfPolicy
from chemkl.llm.prompts import Prompt, render_prompts
from chemkl.llm.reference import Reference

__all__ = ["HfPolicy", "Prompt", "Reference", "build_policy", "load", "render_prompts"]

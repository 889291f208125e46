"""Language models: a Hugging Face causal LM as a policy, its prompts, rewards and trainers.

Needs the extra llm of pyproject.toml (the trainer for TRL needs trl too); importing it does not.

`load` returns the policy that a run of posttrain_llm has trained, an `HfPolicy`, with the prompts
of the run. It samples, and computes the log-probability of a text before and after training:

    import torch
    from chemkl.llm import load

    policy = load("runs/llm/months/mara")  # the folder of a run
    [prompt.text for prompt in policy.prompts]  # numbered from 0

    drawn = policy.sample(8, torch.Generator().manual_seed(0))  # a Rollout, equally of each prompt
    list(zip(drawn.group.tolist(), drawn.texts, drawn.logp.tolist()))  # prompt, text, log p in nats

    with torch.no_grad():  # log p is differentiable
        after = policy.logp(["May", "June"], prompt=0)  # whole completions, end token included
        with policy.without_adapter():  # the model before training; for adapters only
            before = policy.logp(["May", "June"], prompt=0)
"""

from chemkl.llm.models import build_policy, load
from chemkl.llm.policy import HfPolicy, Reference
from chemkl.llm.prompts import Prompt, render_prompts

__all__ = ["HfPolicy", "Prompt", "Reference", "build_policy", "load", "render_prompts"]

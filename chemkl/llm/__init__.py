"""Language models: a Hugging Face causal LM as a policy, and what reads the text it writes.

Needs the extra llm of pyproject.toml, or for the trainer of trl that of trl; importing it does not.

`load` gives back what a run of posttrain_llm has trained, an `HfPolicy`, with the prompts of the
run. It samples, and says how probable a text is, before and after training:

    import torch
    from chemkl.llm import load

    policy = load("runs/llm/months/mara")  # the folder of a run
    [prompt.text for prompt in policy.prompts]  # numbered from 0

    drawn = policy.sample(8, torch.Generator().manual_seed(0))  # a Rollout: as many of each prompt
    list(zip(drawn.group.tolist(), drawn.texts, drawn.logp.tolist()))  # prompt, text, log p in nats

    with torch.no_grad():  # log p is differentiable
        after = policy.logp(["May", "June"], prompt=0)  # each the whole completion, its end too
        with policy.without_adapter():  # the model before training; adapters alone can be left out
            before = policy.logp(["May", "June"], prompt=0)
"""

from chemkl.llm.models import build_policy, load
from chemkl.llm.policy import HfPolicy, Reference
from chemkl.llm.prompts import Prompt, render_prompts

__all__ = ["HfPolicy", "Prompt", "Reference", "build_policy", "load", "render_prompts"]

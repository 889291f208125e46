"""What a completion is paid: the reward that a config describes."""

from chemkl.config.llm import AnswersReward, FunctionReward, TextRewardConfig
from chemkl.llm.answer_rewards import Answers, PaidByFunction
from chemkl.llm.molecule_reward import PaidByMolecule
from chemkl.llm.reward_by_prompt import PaidByPrompt
from chemkl.llm.written import TextReward


def build_reward(config: TextRewardConfig) -> TextReward:
    """Build the reward of a config.

    Raises:
        InputError: with every problem of the function, or of the reward's components.
    """
    if isinstance(config, AnswersReward):
        return Answers(config)
    if isinstance(config, FunctionReward):
        return PaidByFunction(config)
    return PaidByMolecule(config) if config.by_prompt is None else PaidByPrompt(config)

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "configs" / "posttrain_llm" / "rewards" / "creative.py"


@pytest.fixture(scope="module")
def one_sentence():
    spec = importlib.util.spec_from_file_location("creative", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.one_sentence


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        # the parts: subject, one plain sentence, length within 6 to 16, different words
        ("The curled sun kissed the green sea.", 1),
        ("Gulls, gulls cry over the sea.", (1 + 1 + 1 + 3 / 4) / 4),  # gulls twice of 4, no "the"
        ("The curled sun kissed the green ocean.", 3 / 4),
        ("The curled sun kissed the green seas.", 3 / 4),
        ("the curled sun kissed the green sea.", 3 / 4),
        ("The curled sun kissed the green sea", 3 / 4),
        ("The curled sun kissed the green sea!", 3 / 4),
        ("The sun rose. Then it kissed the sea.", 3 / 4),
        ("The curled sun kissed the green sea 7.", 3 / 4),
        ("The old sea.", (1 + 1 + 3 / 6 + 1) / 4),
        ("The sea " + "lies bright under a pale moon " * 4 + "now.", None),
        ("", 0),
        ("... 12", 0),
    ],
)
def test_a_sentence_is_paid_for_each_constraint_that_it_meets(one_sentence, text, reward):
    if reward is None:  # 27 words for 16; 5 words but a, 4 times each, and sea, now: 7 of 22
        reward = (1 + 1 + 16 / 27 + 7 / 22) / 4
    assert one_sentence("Write.", text) == pytest.approx(reward)


def test_subject_and_length_are_parameters(one_sentence):
    assert one_sentence("", "A tree.", word="tree", fewest=1, most=2) == 1
    assert one_sentence("", "A tree.", word="tree", fewest=4, most=8) == (1 + 1 + 0.5 + 1) / 4

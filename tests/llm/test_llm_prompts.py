"""Prompts as the model reads them, against the template and the tokenizer called directly."""

import pytest

from chemkl.config import InputError
from chemkl.config.llm import Message
from chemkl.llm.prompts import render_prompts

TALK = [("user", "C"), ("assistant", "O"), ("user", "pick 1")]


def messages(*turns):
    return [Message(role=role, content=content) for role, content in turns]


def test_messages_go_through_the_tokenizers_own_template(tiny):
    tokenizer = tiny.tokenizer()
    (prompt,) = render_prompts([messages(*TALK)], tokenizer)
    plain = [{"role": role, "content": content} for role, content in TALK]
    by_it = tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert list(prompt.token_ids) == by_it
    assert prompt.rendered == "<s> C <s> O </s> <s> pick 1 "
    assert (prompt.number, prompt.text) == (0, "pick 1")


def test_an_assistants_last_turn_is_the_beginning_of_the_completion(tiny):
    template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    talk = messages(("user", "pick"), ("assistant", "1 2"))
    (prompt,) = render_prompts([talk], tiny.tokenizer(template))
    assert prompt.rendered == "<s>pick</s><s>1 2"


def test_plain_text_is_left_as_it_is_and_a_file_may_be_the_template(tiny, tmp_path):
    (prompt,) = render_prompts([messages(("user", "C O"))], tiny.tokenizer(None), template="none")
    assert prompt.rendered == prompt.text == "C O"
    assert prompt.token_ids == (tiny.vocabulary["C"], tiny.vocabulary["O"])
    (tmp_path / "t.jinja").write_text("{{ messages[0]['content'] }} ( ")
    (prompt,) = render_prompts(
        [messages(("user", "C"))], tiny.tokenizer(None), template=tmp_path / "t.jinja"
    )
    assert prompt.token_ids == (tiny.vocabulary["C"], tiny.vocabulary["("])


def test_prompts_that_end_alike_are_told_apart_by_all_of_their_text(tiny):
    talks = [messages(("user", "C"), ("user", "pick")), messages(("user", "O"), ("user", "pick")),
             messages(("user", "N"))]  # fmt: skip
    prompts = render_prompts(talks, tiny.tokenizer())
    assert [p.text for p in prompts] == ["<s> C <s> pick ", "<s> O <s> pick ", "N"]
    assert [p.number for p in prompts] == [0, 1, 2]


def test_every_problem_is_said_at_once(tiny):
    talks = [messages(("user", "C " * 20)), messages(("system", "C")), messages(("user", "C"))]
    with pytest.raises(InputError) as caught:
        render_prompts(talks, tiny.tokenizer(), context=20, max_new_tokens=10)
    first, second = str(caught.value).splitlines()
    assert first == (
        "prompts.0: 21 tokens, and max_new_tokens = 10 more do not fit into the model's context of "
        "20; shorten one of the two"
    )
    assert second.startswith("prompts.1: the chat template refuses it: TemplateError: no system")


def test_a_prompt_just_fits(tiny):
    (prompt,) = render_prompts(
        [messages(("user", "C " * 9))], tiny.tokenizer(), context=20, max_new_tokens=10
    )
    assert len(prompt.token_ids) == 10


@pytest.mark.parametrize(
    ("talk", "template", "message"),
    [
        (("user", " "), "none", r"prompts\.0: no tokens: the model has nothing to go on with"),
        (("user", "C"), "chat", "the model's tokenizer has no chat template"),
    ],
)
def test_what_no_model_can_go_on_with_is_refused(tiny, talk, template, message):
    with pytest.raises(InputError, match=message):
        render_prompts([messages(talk)], tiny.tokenizer(None), template=template)


def test_a_prompt_that_the_model_has_no_token_for_is_refused(tiny):
    with pytest.raises(InputError, match=r"prompts.0: 'C <logp_hgih>' holds something .* '<unk>'"):
        render_prompts([messages(("user", "C <logp_hgih>"))], tiny.tokenizer(None), template="none")
    # written as such, it is meant
    (prompt,) = render_prompts(
        [messages(("user", "C <unk>"))], tiny.tokenizer(None), template="none"
    )
    assert prompt.token_ids[-1] == tiny.vocabulary["<unk>"]

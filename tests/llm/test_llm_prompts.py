"""Prompts as the model reads them, against the template and the tokenizer called directly."""

import json

import pytest

from chemkl.config import InputError
from chemkl.config.llm import Message
from chemkl.llm import HfPolicy
from chemkl.llm.prompts import PROMPTS_FILE, Prompt, read_run_prompts, render_prompts, write_prompts

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
    # an assistant's last message is the beginning of the completion
    template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
    talk = messages(("user", "pick"), ("assistant", "1 2"))
    (prompt,) = render_prompts([talk], tiny.tokenizer(template))
    assert prompt.rendered == "<s>pick</s><s>1 2"
    # prompts that end alike have all of their text
    talks = [messages(("user", "C"), ("user", "pick")), messages(("user", "O"), ("user", "pick")),
             messages(("user", "N"))]  # fmt: skip
    prompts = render_prompts(talks, tiny.tokenizer())
    assert [p.text for p in prompts] == ["<s> C <s> pick ", "<s> O <s> pick ", "N"]
    assert [p.number for p in prompts] == [0, 1, 2]


def test_plain_text_is_left_as_it_is_and_a_file_may_be_the_template(tiny, tmp_path):
    (prompt,) = render_prompts([messages(("user", "C O"))], tiny.tokenizer(None), template="none")
    assert prompt.rendered == prompt.text == "C O"
    assert prompt.token_ids == (tiny.vocabulary["C"], tiny.vocabulary["O"])
    (tmp_path / "t.jinja").write_text("{{ messages[0]['content'] }} ( ")
    talk, template = [messages(("user", "C"))], tmp_path / "t.jinja"
    (prompt,) = render_prompts(talk, tiny.tokenizer(None), template=template)
    assert prompt.token_ids == (tiny.vocabulary["C"], tiny.vocabulary["("])
    # a template that cannot be read is named
    (tmp_path / "latin.jinja").write_bytes("{{ 'gr\u00fc\u00df' }}".encode("latin-1"))
    for template, message in [
        (tmp_path, "cannot be read .*Is a directory"),
        (tmp_path / "latin.jinja", r"cannot be read as text in UTF-8 \('utf-8' codec .*0xfc"),
        (tmp_path / "gone.jinja", "cannot be read .*No such file"),
    ]:
        with pytest.raises(
            InputError, match=rf"template: {template}: {message}.*give chat, none \("
        ):
            render_prompts([messages(("user", "C"))], tiny.tokenizer(), template=template)


def test_every_problem_is_said_at_once(tiny):
    talks = [messages(("user", "C " * 20)), messages(("system", "C")), messages(("user", "C"))]
    (fits,) = render_prompts(
        [messages(("user", "C " * 9))], tiny.tokenizer(), context=20, max_new_tokens=10
    )
    assert len(fits.token_ids) == 10
    with pytest.raises(InputError) as caught:
        render_prompts(talks, tiny.tokenizer(), context=20, max_new_tokens=10)
    first, second = str(caught.value).splitlines()
    assert first == (
        "prompts.0: 21 tokens, and max_new_tokens = 10 more do not fit into the model's context of "
        "20; shorten one of the two"
    )
    assert second.startswith("prompts.1: the chat template refuses it: TemplateError: no system")
    # one line for several prompts
    talks = [messages(("user", "C"))] + [messages(("system", text)) for text in "NO1"]
    with pytest.raises(InputError) as caught:
        render_prompts(talks, tiny.tokenizer())
    assert str(caught.value) == (
        "prompts.1: the chat template refuses it (and 2 more prompts): TemplateError: no system"
    )
    # a prompt needs known tokens
    with pytest.raises(
        InputError, match=r"prompts.0: 'C <logp_hgih>' has a part for which .* '<unk>'"
    ):
        render_prompts([messages(("user", "C <logp_hgih>"))], tiny.tokenizer(None), template="none")
    talk = [messages(("user", "C <unk>"))]  # written as such, it is meant
    (prompt,) = render_prompts(talk, tiny.tokenizer(None), template="none")
    assert prompt.token_ids[-1] == tiny.vocabulary["<unk>"]


@pytest.mark.parametrize(
    ("talk", "template", "message"),
    [
        (("user", " "), "none", r"prompts\.0: no tokens: a prompt needs one or more"),
        (("user", "C"), "chat", "the model's tokenizer has no chat template"),
    ],
)
def test_what_no_model_can_go_on_with_is_refused(tiny, talk, template, message):
    with pytest.raises(InputError, match=message):
        render_prompts([messages(talk)], tiny.tokenizer(None), template=template)


def test_a_chat_prompt_and_a_completion_begin_no_second_text(tiny):
    tokenizer = tiny.tokenizer(around="<s> $A")
    begin, c, one = (tiny.vocabulary[word] for word in ("<s>", "C", "1"))
    assert tokenizer("C")["input_ids"] == [begin, c]  # what it does to a text of its own accord
    (prompt,) = render_prompts([messages(("user", "C"))], tokenizer)
    assert prompt.rendered == "<s> C "
    assert prompt.token_ids == (begin, c)
    policy = HfPolicy(tiny.llama(), tokenizer, [prompt], end_id=tiny.end, max_new_tokens=4)
    assert policy.encode(["1"]).tolist() == [[0, one, tiny.end]]
    # one token for begin and end stays in front
    tokenizer = tiny.tokenizer(None, eos="<s>", around="<s> $A <s>")
    (prompt,) = render_prompts([messages(("user", "C"))], tokenizer, template="none")
    assert prompt.token_ids == (tiny.vocabulary["<s>"], tiny.vocabulary["C"])


@pytest.mark.parametrize(
    ("around", "text", "read"),
    [
        ("<s> $A", "C", ["<s>", "C"]),  # as the model saw texts begin
        ("$A </s>", "C", ["C"]),
        ("<s> $A </s>", "C O", ["<s>", "C", "O"]),
        ("<s> $A </s>", "C </s>", ["<s>", "C", "</s>"]),  # written, so it is meant
        ("$A </s> </s>", "C", ["C"]),
        ("<s> $A </s>", " ", ["<s>"]),
    ],
)
def test_a_plain_text_does_not_end_where_the_model_goes_on(tiny, around, text, read):
    tokenizer = tiny.tokenizer(None, around=around)
    (prompt,) = render_prompts([messages(("user", text))], tokenizer, template="none")
    assert prompt.token_ids == tuple(tiny.vocabulary[word] for word in read)


@pytest.mark.parametrize("wrong", ["{% for m in messages %}", "{{ messages | nothing }}"])
def test_a_template_that_is_no_jinja_is_named_once_with_its_line(tiny, tmp_path, wrong):
    file = tmp_path / "t.jinja"
    file.write_text(f"<s>\n{wrong}")
    talks = [messages(("user", "C")), messages(("user", "O"))]
    with pytest.raises(InputError, match=rf"^template: {file}, line 2: not a Jinja .*\w") as caught:
        render_prompts(talks, tiny.tokenizer(), template=file)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="template: the tokenizer's own, line 2: not a Jinja"):
        render_prompts(talks, tiny.tokenizer(f"<s>\n{wrong}"))


KEPT = (
    Prompt(0, "zw\u00f6lf", '<|user|>\n"zw\u00f6lf"\n', (3, 1, 4)),
    Prompt(1, "C", "<s> C ", (0, 17)),
)


def test_kept_prompts_are_read_again_and_people_can_read_them_too(tmp_path):
    assert read_run_prompts(tmp_path, 2) is None
    write_prompts(KEPT, tmp_path)
    assert read_run_prompts(tmp_path, 2) == KEPT
    text = (tmp_path / PROMPTS_FILE).read_text(encoding="utf-8")
    assert json.loads(text)[1] == {
        "number": 1, "text": "C", "rendered": "<s> C ", "token_ids": [0, 17],
    }  # fmt: skip
    assert '    "text": "zw\u00f6lf",\n' in text  # as it is written, not as escapes
    assert '    "token_ids": [3, 1, 4],\n' in text  # on one line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "Expecting value"),
        ("{}", "valid tuple"),
        ('[{"number": 0, "text": "C", "rendered": "C"}]', r"0\.token_ids.*Field required"),
        ('[{"number": 0, "text": "C", "rendered": "C", "token_ids": []}]', "at least 1 item"),
        ('[{"number": 1, "text": "C", "rendered": "C", "token_ids": [1]}]', "prompts 0 to 0"),
        ("[]", "prompts 0 to 0"),
        (b"\xff", "utf-8"),
    ],
)
def test_what_is_kept_and_spoilt_is_refused(tmp_path, content, said):
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / PROMPTS_FILE).write_bytes(raw)
    with pytest.raises(InputError, match=rf"prompts\.json: not the prompts of .*{said}.*--fresh"):
        read_run_prompts(tmp_path, 1)

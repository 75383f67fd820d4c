"""Prompts, character for character as the paper and the published code write them."""

from v2l_jax.tasks.prompts import answer_text, few_shot_prompt


def test_few_shot_prompt_is_the_published_text():
    prompt = few_shot_prompt(
        shots=[([" pup", " dog"], "dog"), ([" kitten"], "cat")],
        query=[" tabby", "cat"],
        class_names=("dog", "cat"),
    )
    assert str(prompt) == (
        "For each of the following input output pairs, output is one of ['cat' or 'dog']\n"
        "###\nInput: < pup dog >\nOutput: dog\n"
        "###\nInput: < kitten >\nOutput: cat\n"
        "###\nInput: < tabbycat >\nOutput:"
    )
    assert str(prompt) + answer_text("cat") == str(prompt.shots + prompt.query) + " cat"


def test_repetitions_show_all_examples_again_and_induction_can_be_left_out():
    shots = [([" a"], "x"), ([" b"], "y")]
    once = few_shot_prompt(shots, [" c"], ("x", "y"), induction=False)
    thrice = few_shot_prompt(shots, [" c"], ("x", "y"), induction=False, repetitions=2)
    assert not once.shots.startswith("For each")
    assert thrice.shots == once.shots * 3
    assert thrice.query == once.query

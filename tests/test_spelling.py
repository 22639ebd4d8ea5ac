"""Spelling: slips are set right, and what is right stays as it is."""

import json
from pathlib import Path

import pytest

from archgen.spelling import Speller
from archgen.understanding import Refused, text_model, understand

SPELLER = Speller([])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a smal netwrok withuot pooling", "a small network without pooling"),
        ("at mosst thre skips", "at most three skips"),
        ("noskips, nearly two convolutoins", "no skips, nearly two convolutions"),
        ("reallllly deeep", "really deep"),
        ("under a milion paramters", "under a million parameters"),
        ("Maxpol twice", "maxpool twice"),
        ("twoo pools and tow skips", "two pools and two skips"),
    ],
)
def test_slips_are_set_right(typed, meant):
    assert SPELLER.corrected(typed)[0].lower() == meant


@pytest.mark.parametrize(
    "text",
    [
        "I dont want poolings, theyre slow; you can't, isn't it?",
        "30-90 MFLOPs, 1.2 GMACs, 5 mil params, 300kparams",
        "avg_pool_3x3 and nor_conv_1x1, 3x3s, se in conv1x1-bn-relu, MBConv",
        "asdfgh qzxv",
        "",
        "réseau sans pooling, нет",
    ],
)
def test_what_is_known_or_far_from_everything_stays(text):
    assert SPELLER.corrected(text) == (text, {})


def test_requests_of_people_who_can_spell_are_left_alone():
    """Of the graded requests, nothing but slips is changed: fewer than one word in fifty."""
    lines = (Path(__file__).parents[1] / "training" / "dev_queries.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["query"] for line in lines]
    changed = sum(len(text_model().speller.corrected(text)[1]) for text in texts)
    assert 0 < changed < sum(len(text.split()) for text in texts) / 50


def test_what_was_changed_is_said(capsys):
    (one,) = understand(["a smal network withuot pooling"], "nasbench201")
    (other,) = understand(["a small network without pooling"], "nasbench201")
    one.say()
    assert one.request == other.request and not other.corrected
    assert 'read "smal" as "small", "withuot" as "without"' in capsys.readouterr().err
    assert one.record()["corrected"] == {"smal": "small", "withuot": "without"} and one.text.startswith("a smal ")


def test_a_refusal_says_it_too():
    (one,) = understand(["what is the capital of norway todayy?"], "nasbench201")
    assert isinstance(one, Refused) and '(read "todayy" as "today")' in str(one)


def test_names_of_networks_are_no_slips():
    assert SPELLER.corrected("EfficientNet, ResNeXt, UNet or SqueezeNet")[1] == {}

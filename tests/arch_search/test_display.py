from __future__ import annotations

import io

from rich.console import Console

from arch_search.display import panel
from arch_search.progress import best_in_words
from arch_search.reporting import Progress


def test_the_panel_names_generation_trainings_model_best_and_time() -> None:
    progress = Progress(
        activity="generation 1: training",
        generation=1,
        generations=2,
        units="3 done, 2 running",
        model="25 replies, 1895 tokens, 12.0 tokens/s in a request",
        best="g1.0-edit: recall_accuracy, improvement over the reference +0.020 [-0.010, +0.050]: within noise",
        budget="0.5 GPU-hours used, of 20, 19.5 left",
        elapsed_s=125,
        left="about 7 min left",
    )
    out = io.StringIO()
    Console(file=out, width=140).print(panel(progress))
    for words in (
        "1 of 2",
        "3 done, 2 running",
        "12.0 tokens/s",
        "19.5 left",
        "[-0.010, +0.050]",
        "2 min 5 s gone, about 7 min left",
    ):
        assert words in out.getvalue()


def test_a_best_without_an_interval_says_that_noise_is_not_known() -> None:
    best = {"name": "a", "improvement": 0.01, "low": None, "high": None, "verdict": "not_measured"}
    assert "noise not known" in best_in_words(best, "recall_accuracy")
    assert best_in_words(None, "recall_accuracy") == "nothing measured yet"

"""Labels of plots have a limited width, and fonts for their characters."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from zoo.utils import plotting
from zoo.utils.plotting import display_width, label_text, make_figure, use_fonts_for_all_scripts


def test_labels_are_one_line_of_limited_width() -> None:
    assert label_text("a\n b") == "a b" and label_text("$x$") == r"\$x\$"
    assert label_text("abcdefgh", 5) == "abcd…" and label_text("abcdefgh", 5, keep_end=True) == "ab…gh"
    assert label_text("猫" * 20, 9) == "猫猫猫猫…" and display_width(label_text("猫" * 20, 8)) <= 8


def test_characters_without_a_font_are_announced_once(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plotting, "_announced", set())
    plotting._fallback_fonts.cache_clear()
    monkeypatch.setattr(plotting, "_installed", lambda fonts: set())
    for _ in range(2):
        figure = make_figure(2, 2)
        figure.suptitle("猫 and \u00d7")
        use_fonts_for_all_scripts(figure)
        FigureCanvasAgg(figure).draw()
    plotting._fallback_fonts.cache_clear()
    assert capsys.readouterr().err.count("no installed font has (猫)") == 1
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_fonts_that_have_the_characters_are_used() -> None:
    from matplotlib import get_data_path

    figure = make_figure(2, 2)
    title = figure.suptitle("\u2a00")
    plain = figure.text(0, 0, "plain")
    family = plain.get_fontfamily()
    plotting._fallback_fonts.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "_characters", lambda file: frozenset({0x2A00} if "STIX" in file else ()))
        patch.setattr(plotting, "_installed", lambda fonts: {("STIX", f"{get_data_path()}/fonts/ttf/STIXGeneral.ttf")})
        use_fonts_for_all_scripts(figure)
    plotting._fallback_fonts.cache_clear()
    assert title.get_fontfamily() == ["DejaVu Sans", "STIX"] and plain.get_fontfamily() == family

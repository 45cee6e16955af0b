"""`zoo scaling` of a table of runs: tables, files, predictions, and runs that it refuses."""

import json
from pathlib import Path

import pytest

from tests.plot_checks import check_texts
from zoo.cli.main import main as cli
from zoo.training.scaling.report import ScalingReport, scaling
from zoo.training.scaling.runs import ScalingError, read_runs, write_runs

SIZES, TOKENS = (10_000, 25_000, 60_000, 120_000, 200_000), (500_000, 1_000_000, 2_000_000, 4_000_000)


def loss_of(n: float, d: float) -> float:
    return 0.9 + 8 / n**0.3 + 60 / d**0.35


def table(*more: str) -> str:
    rows = [f"{n // 1000}k,{n},{d},{loss_of(n, d) * (1 + 0.002 * ((n // 5000 + d // 500_000) % 3 - 1))}"
            for n in SIZES for d in TOKENS]  # fmt: skip
    return "\n".join(["size,parameters,tokens,loss", *rows, f"400k,400000,4000000,{loss_of(4e5, 4e6)}", *more, ""])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ScalingReport:
    file = tmp_path_factory.mktemp("scaling") / "runs.csv"
    file.write_text(table())
    return scaling(file, budgets=[1e13], samples=10)


def test_the_held_out_run_is_predicted(report: ScalingReport) -> None:
    assert report.held_out == ["400k"] and len(report.fitted) == 20 and report.ok
    first = report.predictions()[0]
    assert first.law == "chinchilla" and abs(first.error) < 0.01 and first.nearest.size == "200k"
    assert first.nearest.tokens == 4_000_000 and first.nearest_error > 3 * abs(first.error)
    low, high = first.interval
    assert low < first.loss < high


def test_its_files(report: ScalingReport) -> None:
    assert {"results.csv", "scaling.json", "scaling.md", "scaling.png"} <= {p.name for p in report.folder.iterdir()}
    values = json.loads((report.folder / "scaling.json").read_text())
    assert values["fits"].keys() == {"chinchilla", "kaplan"} and len(values["runs"]) == 21
    assert values["fits"]["chinchilla"]["parameters"].keys() == {"E", "A", "B", "alpha", "beta"}
    assert values["optima"]["chinchilla"][0]["budget"] == 1e13 and values["predictions"][0]["size"] == "400k"
    text = (report.folder / "scaling.md").read_text()
    for part in ("400k (held out)", "without embeddings", "best parameters", "error of the loss of 200k at 4 M"):
        assert part in text, part
    again = scaling(report.folder / "results.csv", samples=1)
    assert again.fits["chinchilla"].parameters == pytest.approx(report.fits["chinchilla"].parameters)


def test_its_plot(report: ScalingReport) -> None:
    figure = report.figure()
    check_texts(figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "10 k" and labels[-2:] == ["400 k, held out", "best size"]


def test_the_command(report: ScalingReport, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text(table("400k,400000,2000000,nan"))
    words = ["scaling", str(tmp_path / "runs.csv"), "--samples", "2", "--out", str(tmp_path / "out")]
    assert cli(words) == 2
    assert "size 400k, 2,000,000 tokens, seed 0: diverged; repeat the run" in capsys.readouterr().err
    assert cli([*words, "--skip-failed", "--budget", "1e13", "--held-out", "200k, 400k"]) == 1
    output = capsys.readouterr().out
    for part in ("best size and tokens", "chinchilla", "kaplan", "left out: size 400k", "200k (held out)"):
        assert part in output, part
    assert cli([*words, "--skip-failed", "--held-out", "none"]) == 1
    assert "held-out run" not in capsys.readouterr().out
    assert (tmp_path / "out" / "scaling.png").is_file()
    for more, message in ((["--held-out", "1k"], "no run of the held-out size '1k'; there are 10k, 25k"),
                          (["--budget", "-1"], "budget=-1.0: expected training FLOPs above 0")):  # fmt: skip
        assert cli([*words, "--skip-failed", *more]) == 2
        assert message in capsys.readouterr().err
    assert cli(["scaling", str(tmp_path)]) == 2 and "has no sweep.yaml" in capsys.readouterr().err


def test_a_sweep_that_determines_no_law_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    sizes = "{a: {depth: 1, width: 16}, b: {depth: 2, width: 16}, c: {depth: 3, width: 16}}"
    (tmp_path / "s.yaml").write_text(f"recipe: scaling_laws\nsizes: {sizes}\ntokens: [10000, 20000]\n"
                                     f"options: {{data: synthetic}}\nout: {tmp_path / 'out'}\n")  # fmt: skip
    with pytest.raises(ScalingError, match="4 runs are too few"):
        scaling(tmp_path / "s.yaml")
    with pytest.raises(ScalingError, match="2 different numbers of tokens, expected at least 3"):
        scaling(tmp_path / "s.yaml", held_out=[])
    with pytest.raises(ScalingError, match="no size 'd' to hold out"):
        scaling(tmp_path / "s.yaml", held_out=["d"])
    assert not (tmp_path / "out").exists()


def test_the_folder_of_a_sweep_is_reported_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    folder = tmp_path / "sweep"
    for number, name in enumerate("abc", 1):
        for steps in (2, 4, 8):
            run = folder / f"size-{name}" / str(steps) / "seed-0"
            run.mkdir(parents=True)
            loss = 2 + 1 / steps + 0.1 / number
            (run / "metrics.json").write_text(json.dumps({"finished": True, "result": {"test_loss": loss}}))
    sizes = "{a: {depth: 1, width: 16}, b: {depth: 2, width: 16}, c: {depth: 3, width: 16}}"
    (folder / "sweep.yaml").write_text(f"recipe: scaling_laws\nsizes: {sizes}\ntokens: [2048, 4096, 8192]\n"
                                       "options: {data: synthetic}\nheld_out: []\n")  # fmt: skip
    report = scaling(folder, out=tmp_path / "out", samples=1)
    assert len(report.fitted) == 9 and (tmp_path / "out" / "scaling.md").is_file()
    assert not (folder / "scaling.md").exists()


@pytest.mark.parametrize(("text", "message"), [
    ("parameters,tokens,losses\n1,2,3\n", "no column 'loss'; expected parameters, tokens, loss.*did you mean 'losses'"),
    ("", "no column 'parameters'; .* got no rows"),
    ("parameters,tokens,loss\n10,many,2\n", "row 2: tokens='many': expected a number"),
    ("parameters,tokens,loss\n10,0,2\n", "row 2: tokens='0': expected a number of at least 1"),
    ("parameters,tokens,loss,seed\n10,20,2,inf\n", "row 2: seed='inf': expected a whole number"),
    ("parameters,tokens,loss,seed\n10,20,2,1.5\n", "row 2: seed='1.5': expected a whole number"),
    ("size,parameters,tokens,loss\na,10,20,2\na,11,20,2\n", "size a has 10 and 11 parameters in different runs"),
])  # fmt: skip
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ScalingError, match=message):
        scaling(tmp_path / "runs.csv")


def test_a_table_is_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("parameters,tokens,loss,seconds\n1e4,2_000_000,2.5,7\n20000,3000000,,\n")
    runs = read_runs(file)
    assert [(run.size, run.parameters, run.tokens, run.seconds) for run in runs] == [
        ("10000", 10_000, 2_000_000, 7.0), ("20000", 20_000, 3_000_000, None)]  # fmt: skip
    assert runs[1].failure == "diverged"
    file.write_text(write_runs(runs))
    again = read_runs(file)
    assert again[0] == runs[0] and str(again[1]) == str(runs[1])
    with pytest.raises(ScalingError, match="No such file"):
        read_runs(tmp_path / "absent.csv")


def test_a_table_with_spaces_and_what_was_held_out(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("parameters, tokens, loss\n" + "".join(f"{n}, {d}, {loss_of(n, d)}\n"
                    for n in (10_000, 20_000, 40_000) for d in TOKENS))  # fmt: skip
    assert read_runs(file)[0].tokens == TOKENS[0]
    with pytest.raises(ScalingError, match=r"2 different sizes.*Held out: 40000; --held-out none fits all sizes"):
        scaling(file, out=tmp_path / "out")

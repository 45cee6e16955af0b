"""The benchmarks' own code: what is measured, how values become the table of docs/figures.md, and `--smoke` of each."""

import ast
import datetime
import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("measures")


def seconds(title: str, **values: Any) -> dict[str, Any]:
    machine = "A processor, 4 CPUs, Python 3.11.2, torch 2.12.1"
    return {"command": "one.py", "title": title, "machine": machine, "values": values}


def measure(*places: list[str], unit: str = "x", command: str = "one.py") -> dict[str, Any]:
    return {"text": "a measure", "command": command, "unit": unit, "target": [1.5] * len(places), "values": places}


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_page_has_the_table_of_the_kept_values(measures):
    expected = measures.table(measures.read_measures(), measures.read_results())
    assert measures.written(measures.PAGE.read_text()) == expected, "run: python benchmarks/measures.py --write"


def test_measures_name_scripts_and_have_a_target_for_each_value(measures):
    for name, one in measures.read_measures().items():
        assert (FOLDER / one["command"].split()[0]).is_file(), name
        assert len(one["target"]) == len(one["values"]) and one["unit"] in (
            "x",
            "1/",
            "s",
            "ms",
            "MB",
            "points",
            "requests",
        ), name
        assert set(one) == {"text", "command", "unit", "target", "values"}, name


def test_kept_values_are_those_of_measures(measures):
    known, machines = measures.read_measures(), measures.read_results()
    assert len(machines) >= 2 and len({machine["column"] for machine in machines}) == len(machines)
    for machine in machines:
        for name, kept in machine["values"].items():
            assert len(kept["values"]) <= len(known[name]["values"]), name
            assert isinstance(kept["date"], datetime.date), name


def test_cells_mark_what_falls_short(measures):
    ratio, time = measure(["a", "b"], ["a", "c"]), measure(["a", "b"], unit="ms")
    assert measures.cell(ratio, {"values": [1.5, 1.49]}) == "1.5x / **1.49x**"
    assert measures.cell(ratio, {"values": [1.6, None]}) == "1.6x / not measured"
    assert measures.cell(ratio, {"values": [1.6, 1.7], "target": [None, 2.0]}) == "1.6x / **1.7x** (target - / 2x)"
    assert measures.cell(time, {"values": [1.5]}) == "1.5 ms" and measures.cell(time, {"values": [1.6]}) == "**1.6 ms**"
    assert measures.cell(measure(["a", "b"], unit="1/"), {"values": [12]}) == "1/12"
    assert measures.cell(ratio, None) == "not measured"


# --- values of a run --------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_ratios_of_rounds(measures):
    records = [
        seconds("other", base=[9.0]),
        seconds("t", base=[2.0, 4.0, 9.0], half=[1.0, 1.0, 9.0], own=[1.0, 2.0, 3.0]),
    ]
    assert measures.value_of(records, "one.py", "x", ["t", "own"]) == 2.0
    assert measures.value_of(records, "one.py", "x", ["t", "own", "half"]) == 1.0
    with pytest.raises(KeyError, match=r"one.py recorded no value of 'gone' in 't'"):
        measures.value_of(records, "one.py", "x", ["t", "gone"])


def test_memory_and_times_are_read_as_they_are(measures):
    records = [seconds("memory", zoo=5.0, baseline=60.0)]
    assert measures.value_of(records, "one.py", "1/", ["memory", "zoo"]) == 12
    assert measures.value_of(records, "one.py", "MB", ["memory", "zoo"]) == 5


def test_a_run_adds_a_column_for_its_machine(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "RESULTS", tmp_path)
    records = [seconds("t", base=[2.0], zoo=[1.0])]
    both = {"m": measure(["t", "zoo"]), "failed": measure(["t", "zoo"], command="two.py")}
    file = measures.keep(both, records, ["two.py (exit status 1)"])
    assert file == tmp_path / "a_processor_4_cpus.yaml"
    kept = yaml.safe_load(file.read_text())
    assert kept["column"] == "A processor" and kept["versions"] == "Python 3.11.2, torch 2.12.1"
    assert kept["values"] == {"m": {"date": datetime.date.today(), "values": [2.0]}}
    text = measures.table(both, [kept])
    assert "| a measure | 2x | 1.5x | `one.py` |" in text and "| a measure | not measured |" in text


def test_a_run_keeps_what_it_does_not_measure(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "RESULTS", tmp_path)
    old = {"column": "Mine", "machine": "my computer", "values": {"old": {"date": "2020-01-01", "values": [3]}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(old))
    measures.keep({"m": measure(["t", "zoo"])}, [seconds("t", base=[2.0], zoo=[1.0])], [], "mine")
    kept = measures.read_results()[0]
    assert kept["column"] == "Mine" and set(kept["values"]) == {"old", "m"}


# --- a GPU ------------------------------------------------------------------------------------------------------------

CEILINGS = {"product": 100e12, "copy": 1e12}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu")


@pytest.fixture
def gpu_table(gpu: ModuleType) -> ModuleType:
    return importlib.import_module("_gpu_table")


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("_measure")


def line(title: str, **more: Any) -> dict[str, Any]:
    values = {"peer": [0.02, 0.03, 0.02], "peer compiled": [0.01] * 3, "zoo": [0.008] * 3, "zoo other": [0.005] * 3}
    return {"title": title, "values": values} | more


def test_the_page_has_the_table_of_the_kept_gpus(gpu, measures):
    assert measures.written(measures.PAGE.read_text(), gpu.BEGIN) == gpu.section(), "run: benchmarks/gpu.py --write"
    assert gpu.FORMULA in gpu.section()


def test_measures_of_a_gpu_name_parts_and_a_target_each(gpu):
    read = gpu.read_measures()
    used = {one.get("part") for one in read["measures"].values()}
    assert {part.get("adds_to", name) for name, part in read["parts"].items()} <= used
    assert sum(part["seconds"] for part in read["parts"].values() if "adds_to" not in part) <= 1.2 * gpu.BUDGET
    for name, one in read["measures"].items():
        assert read["parts"].get(one.get("part"), {}).get("adds_to") is None, name
        known = {"text", "part", "title", "smoke_title", "gpu_only", "unit", "ours", "peer", "target", "flops", "moved"}
        assert set(one) <= known, name
        assert ("part" in one) == ("title" in one), name
        assert one["unit"] in ("ms", "s", "MB", "tokens/s", "images/s", "%"), name
        assert set(one.get("target", {})) <= {one["unit"], "x", "MFU"}, name
    for kept in gpu.read_results("cuda"):
        assert set(kept["values"]) <= set(read["measures"])


def test_the_fastest_of_each_side_counts(gpu):
    one = {"text": "a measure", "part": "p", "title": "t", "unit": "ms", "target": {"ms": 4}}
    value = gpu.value_of([line("t", flops=0.1e12)], one, CEILINGS, any_size=False)
    assert (value["peer"], value["peer_by"], value["ours"], value["ours_by"]) == (10, "peer compiled", 5, "zoo other")
    assert value["bound"] == 1 and value["share"] == 20 and value["of"] == "products"
    text = gpu.table({"p": {"command": "one.py"}}, {"m": one}, {"m": value})
    assert text.endswith("| a measure | peer compiled 10 ms | **5 ms** | 2.00x | <= 4 ms | 1 ms | 20 % | `one.py` |")


def test_the_bound_of_a_decoder_is_reading_its_weights(gpu, gpu_table):
    one = {"text": "a", "part": "p", "title": "t", "unit": "tokens/s", "moved": 4e9, "target": {"x": 3}}
    value = gpu.value_of([line("t", items=10)], one, CEILINGS, any_size=False)
    assert (value["peer"], value["ours"], value["bound"], value["share"]) == (1000, 2000, 2500, 80)
    assert (
        gpu_table.mfu_of(value) == "80 % of the copy"
        and gpu_table.reaches(value, one) is False
        and gpu_table.target_of(one) == ">= 3x"
    )
    assert gpu_table.reaches(value, one | {"target": {"MFU": 80}}) and gpu_table.reaches(
        value, one | {"target": {"tokens/s": 2000}}
    )


def test_candidates_and_the_rest_of_a_title_can_be_chosen(gpu):
    one = {"text": "a", "part": "p", "title": "t, forward", "unit": "ms", "ours": ["zoo"], "peer": ["peer"]}
    lines = [line("t, forward and backward"), line("t, forward, 90 MB at rest"), line("other")]
    value = gpu.value_of(lines, one, CEILINGS, any_size=False)
    assert (value["peer"], value["ours"]) == (20, 8)
    numbers = {"title": "n", "values": {"zoo speed": 3.0, "zoo start": 4.0}}
    value = gpu.value_of([numbers], {"title": "n", "unit": "s", "ours": ["zoo start"]}, CEILINGS, any_size=False)
    assert value["ours"] == 4 and "peer" not in value
    exact = gpu.find([*lines, line("t, forward", items=3)], one, any_size=False)
    assert exact["items"] == 3


def test_memory_is_that_of_the_fastest(gpu, gpu_table):
    one = {"text": "a", "part": "p", "title": "t", "unit": "MB", "target": {"MB": 2}}
    peaks = {"peer": 0, "peer compiled": 8 * 2**20, "zoo": 0, "zoo other": 2 * 2**20}
    value = gpu.value_of([line("t", peaks=peaks)], one, CEILINGS, any_size=False)
    assert (
        (value["peer"], value["ours"]) == (8, 2)
        and gpu_table.ratio_of(value, "MB") == 4
        and gpu_table.reaches(value, one)
    )


def test_titles_of_the_smallest_size_have_other_numbers(gpu):
    one = {"text": "a", "part": "p", "title": "t, 16,384 tokens", "unit": "ms", "flops": 1e15}
    value = gpu.value_of([line("t, 64 tokens")], one, CEILINGS, any_size=True)
    assert value["ours"] == 5 and "bound" not in value  # flops are those of the full size
    missing = gpu.value_of([line("t, 64 tokens")], one, CEILINGS, any_size=False)
    assert missing["failed"] == "not recorded (recorded are 't, 64 tokens')"
    failed = {"title": "t, 16,384 tokens", "values": {"peer": [1.0]}, "failed": {"zoo": "OutOfMemoryError: 80 GB"}}
    value = gpu.value_of([failed], one, CEILINGS, any_size=False)
    assert value["failed"] == "zoo: OutOfMemoryError: 80 GB"


def test_a_part_ends_in_its_time_and_leaves_the_others_alone(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    (tmp_path / "slow.py").write_text(
        "import time\nwhile True:\n    try:\n        time.sleep(9)\n    except Exception:\n        pass\n"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('no such\\nkernel')")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(77 if sys.argv[1:] == ['device=cuda'] else 3)")
    argv, before = sys.argv, time.perf_counter()
    assert gpu.run_part("slow.py", 0.2) == ([], "failed: no end after 0 s")
    assert time.perf_counter() - before < 5
    assert gpu.run_part("broken.py", 5) == ([], "failed: RuntimeError: no such kernel")
    assert gpu.run_part("exits.py", 5)[1] == "failed: exit status 3"
    assert gpu.run_part("exits.py device=cuda", 5)[1] == "skipped: its data or weights are not here"
    assert gpu.run_part("gone.py", 5)[1] == "skipped: there is no benchmarks/gone.py"
    assert sys.argv is argv


def test_what_is_measured_when_time_is_up_is_kept(gpu, timing, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    (tmp_path / "one.py").write_text(
        "import time\nfrom _measure import paired\ncalls = []\n"
        "def late():\n    calls.append(1)\n    time.sleep(60 * (len(calls) > 1))\n"
        "paired({'peer': lambda: sum(range(99)), 'zoo': int, 'zoo late': late}, rounds=3, warmup=1, title='t')\n"
    )
    records, problem = gpu.run_part("one.py", 3)
    assert problem == "failed: no end after 3 s"
    assert {name: len(seconds) for name, seconds in records[0]["values"].items()} == {"peer": 1, "zoo": 1}
    assert records[0]["failed"] == {"zoo late": "not reached"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_that_is_up_is_not_lost_in_a_destructor(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    (tmp_path / "one.py").write_text(
        "import time\nclass Slow:\n    def __del__(self):\n        time.sleep(1)\nx = Slow()\ndel x\ntime.sleep(60)\n"
    )
    started = time.perf_counter()
    assert gpu.run_part("one.py", 0.3) == ([], "failed: no end after 0 s")
    assert time.perf_counter() - started < 20


def test_parts_that_add_to_another_count_for_its_measures_and_the_table_comes_when_time_is_up(
    gpu, tmp_path, monkeypatch, capsys
):
    measure = {"text": "a measure", "part": "a", "title": "t", "unit": "ms"}
    part = {"command": "a.py", "smoke": "a.py", "seconds": 60}
    read = {"parts": {"a": part, "b": part | {"adds_to": "a"}}, "measures": {"m": measure}}
    found = {"a": [line("t") | {"values": {"peer": [0.02], "zoo": [0.008]}}],
             "b": [line("t") | {"values": {"peer compiled": [0.016]}}]}  # fmt: skip
    monkeypatch.setattr(gpu, "read_measures", lambda: read)
    monkeypatch.setattr(gpu, "ceilings", lambda device: CEILINGS)
    monkeypatch.setattr(gpu, "measure_part", lambda name, *rest: (found[name], ""))
    assert gpu.measure_all("", True, 100) == 0
    assert "| a measure | peer compiled 16 ms | 8 ms | 2.00x |" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "measure_part", lambda name, *rest: (found[name], "a: failed: no end after 60 s"))
    assert gpu.measure_all("a", True, 100) == 1
    assert "| a measure | peer 20 ms | 8 ms | 2.50x |" in capsys.readouterr().out


def test_what_is_compiled_comes_after_the_rest(timing):
    one, two, ours, peer = {"peer": 1}, {"peer": 1, "zoo": 2}, {"zoo compiled": 3}, {"peer compiled": 4}
    assert timing.in_tables("no", two, ours, peer) == [two]
    assert timing.in_tables("no,ours", two, ours, peer) == [two, one | ours]
    assert timing.in_tables("peer", two, ours, peer) == [one | peer]
    assert timing.in_tables("yes", two, ours, peer) == [two, one | ours, one | peer]
    with pytest.raises(SystemExit, match="compile=no,theirs: 'theirs' is none of no, ours, peer, yes"):
        timing.in_tables("no,theirs", two, ours, peer)


def test_values_that_were_not_measured_by_this_version_say_so(gpu):
    one = {"text": "a measure", "unit": "ms"}
    text = gpu.table({}, {"m": one}, {"m": {"ours": 3.0, "marked": "first run"}})
    assert text.endswith("| a measure | - | 3 ms (first run) | - | - | - | - | - |")


def test_what_a_part_records_is_read(gpu, timing, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    (tmp_path / "one.py").write_text(
        "from _measure import paired\npaired({'peer': sum.__call__ and (lambda: sum(range(999))), 'zoo': int}, "
        "rounds=2, title='t', items=3, flops=5.0)"
    )
    records, problem = gpu.run_part("one.py", 60)
    assert not problem and records[0]["title"] == "t" and set(records[0]["values"]) == {"peer", "zoo"}
    assert (records[0]["items"], records[0]["flops"]) == (3, 5.0) and "failed" not in records[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_script_says_what_to_do():
    done = subprocess.run([FOLDER / "gpu.sh"], capture_output=True, text=True, timeout=120,
                          env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert done.returncode == 2 and "ZOO_GPU_SMOKE=1" in done.stderr


# --- timing -----------------------------------------------------------------------------------------------------------


def broken() -> None:
    raise RuntimeError("out of\nmemory | 80 GB")


def fake_time(call: Any, clock: str, calls: int = 1) -> tuple[float, int]:
    call()
    return 0.004, 2**20


def test_on_a_gpu_a_candidate_that_fails_is_a_row_with_the_reason(timing, monkeypatch, capsys):
    monkeypatch.setattr(timing, "time_call", fake_time)
    monkeypatch.setattr(timing, "machine", lambda clock: "A GPU, Python 3, torch 2")
    missing = timing.attempt(lambda: importlib.import_module("no_such_module").call)
    table = timing.paired({"peer": missing, "bad": broken, "zoo": int}, rounds=2, clock="cuda", title="t", items=4)
    assert table.failed["bad"] == "RuntimeError: out of memory / 80 GB" and set(table.failed) == {"peer", "bad"}
    text = capsys.readouterr().out
    assert "| zoo | 4 | - | 0 % | 1,000 | 1 |" in text
    assert all(row.count("|") == 7 for row in text.splitlines() if row.startswith("|"))


def test_on_a_cpu_a_candidate_that_fails_ends_the_benchmark(timing):
    with pytest.raises(RuntimeError, match="out of"):
        timing.paired({"zoo": int, "bad": broken}, rounds=1)


def test_flops_are_those_that_the_library_counts(timing):
    from zoo.inference.cost import measure

    counted = measure("gpt_nano", 2, length=32).flops
    config = importlib.import_module("zoo").create_model("gpt_nano").config
    stated = timing.transformer_flops(
        [32, 32], width=config.width, depth=config.depth, mlp_dim=config.mlp_dim, head=config.vocab_size
    )
    assert stated == counted


# --- all benchmarks ---------------------------------------------------------------------------------------------------


def test_every_benchmark_has_a_smallest_size():
    tools = {
        "_measure.py",
        "_gpu_table.py",
        "_text_lm.py",
        "measures.py",
        "gpu.py",
        "smoke.py",
        "attack.py",
        "mutants.py",
    }
    for file in FOLDER.glob("*.py"):
        if file.name not in tools:
            calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
            options = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "options"]
            assert len(options) == 1 and len(options[0].args) == 1, f"{file.name}: options(smoke, ...) is missing"


@pytest.mark.full
def test_a_run_of_a_benchmark_keeps_its_values(measures, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "RESULTS", tmp_path)
    one = measure(["vit_base_patch16_224, batch 1", "zoo float32"], command="inference.py --smoke")
    records, failed = measures.run({"vit": one})
    assert not failed and measures.keep({"vit": one}, records, failed).is_file()
    assert measures.read_results()[0]["values"]["vit"]["values"][0] > 0

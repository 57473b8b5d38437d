"""The bundle for a machine with a GPU (python/gpu), run here with the CPU in place of the device.

The machine is as bare as can be: a Python with numpy alone, an empty environment, no network.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .build import compiler
from .ggml import ROOT, libraries, tree

GPU = ROOT / "python" / "gpu"
sys.path.insert(0, str(GPU))

from check import kernels, results, run, speed, table  # noqa: E402
from check.profile import figures  # noqa: E402

pytestmark = pytest.mark.usefixtures("packed_library")

MINUTES = 8
"""That the whole dry run may take on a busy machine; two free cores need one."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler()
    out = tmp_path_factory.mktemp("bundle")
    command = [sys.executable, GPU / "bundle.py", "--out", out, "--backend", "cpu", "--no-model"]
    command += ["--library", libraries(), "--tree", tree()]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has numpy and nothing else."""
    home = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next(home.glob("lib/python*/site-packages"))
    here = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (here / name).is_dir():
            (site / name).symlink_to(here / name)
    return home / "bin" / "python"


@pytest.fixture
def check(bundle: Path, bare: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts check.sh; its folder is ``out`` in the test's."""
    isolated = ["unshare", "-rn"]
    if subprocess.run([*isolated, "true"], capture_output=True).returncode != 0:
        isolated = []  # not permitted here: the bundle has no reason to ask for the network

    def start(*arguments: str) -> subprocess.Popen[str]:
        env = {"PATH": "/usr/bin:/bin", "PYTHON": str(bare), "XQUANT_GPU_WORK": str(tmp_path / "w")}
        command = [*isolated, "bash", str(bundle / "check.sh"), "--quick", "--out", "out"]
        return subprocess.Popen(
            [*command, *arguments],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def written(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "gpu.json").read_text("utf-8"))
    return found


@pytest.mark.slow
def test_the_dry_run(check: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Every stage runs; what is left out says why; a second run repeats nothing."""
    start = time.monotonic()
    process = check("--minutes", str(MINUTES))
    printed, _ = process.communicate()
    took = time.monotonic() - start
    data = written(tmp_path)
    steps = data["steps"]
    bad = {name: s for name, s in steps.items() if s["status"] not in ("passed", "skipped")}
    assert process.returncode == 0 and not bad, (printed, bad)
    assert took < 60 * MINUTES
    skipped = {s["why"] for s in steps.values() if s["status"] == "skipped"}
    assert skipped == {
        "its model has no words: SmolLM2's parts are not beside check.sh",
        "only on CUDA, and this bundle is for cpu",
    }
    assert {s["stage"] for s in steps.values() if s["status"] == "passed"} == {
        "device",
        "kernels",
        "ggml",
        "speed",
    }
    assert steps["cases"]["total"]["passed"] >= 30
    repeated = [r for r in steps["speed: llama, balanced"]["rows"] if r["filled"] == "repeated"]
    assert repeated and repeated[0]["step_ms"] > 0
    assert steps["attention: balanced"]["rows"][-1]["kv"] == "balanced"
    assert len(table.lines(data)) <= table.MOST
    again = check("--minutes", str(MINUTES))
    printed, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and printed.count(" before\n") == len(steps), printed


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing(
    check: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    random_moments = random.Random(11)
    file = tmp_path / "out" / "gpu.json"
    kept: dict[str, Any] = {}
    for kills in range(1, 13):
        process = check("device", "ggml")
        deadline = time.monotonic() + 30
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)  # unpacking, the first time
        time.sleep(random_moments.uniform(0.2, 1 + kills))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()  # returns once no step holds its end of the pipe
        steps = written(tmp_path)["steps"]
        for name, step in kept.items():
            assert steps[name] == step, f"{name} ran again or was lost"
        kept = {n: s for n, s in steps.items() if s["status"] in results.FINISHED}
        while running_in(tmp_path / "w"):
            assert time.monotonic() < deadline + 30, running_in(tmp_path / "w")
            time.sleep(0.05)
        if kills >= 4 and len(kept) >= 3:
            break
    assert len(kept) >= 3


def running_in(folder: Path) -> list[str]:
    """Processes that were started from there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(str(folder)):
                found.append((process / "cmdline").read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return found


# ---- the parts, without a bundle ----


def outcome(tmp_path: Path, code: str, limit: float = 20) -> dict[str, Any]:
    found = results.Results(tmp_path / "out", {})
    step = run.Step("step", "stage", [sys.executable, "-c", code], limit)
    clock = run.Clock(60, {"stage": 60})
    run.run_all([step], found, clock, dict(os.environ), tmp_path / "log")
    assert written(tmp_path) == found.data
    return written(tmp_path)["steps"]["step"]  # type: ignore[no-any-return]


ROW = "print('@@' + '{\"row\": 1}', flush=True)"


def test_a_step_that_is_stopped_keeps_its_rows(tmp_path: Path) -> None:
    sleeper = "import os, subprocess; subprocess.run(['sleep', '77'], preexec_fn=os.setpgrp)"
    start = time.monotonic()
    step = outcome(tmp_path, f"{ROW}; {sleeper}", limit=2)
    assert time.monotonic() - start < 6
    assert (step["status"], step["rows"]) == ("out of time", [1])
    assert not any("sleep\x0077" in line for line in running_in(Path.cwd()))


def test_a_killed_runner_takes_its_steps_along(tmp_path: Path) -> None:
    """Also what a step has started, in a process group of its own as ninja's are."""
    step = "import os, subprocess; subprocess.run(['sleep', '78'], preexec_fn=os.setpgrp)"
    code = f"""if True:
        import os, sys
        from pathlib import Path
        from check import results, run
        found = results.Results(Path("out"), {{}})
        step = run.Step("step", "stage", [sys.executable, "-c", {step!r}], 60)
        print("begun", flush=True)
        run.run_all([step], found, run.Clock(60, {{"stage": 60}}), dict(os.environ), Path("log"))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(GPU), str(ROOT)])}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not any(line.startswith("sleep") for line in running_in(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    while running_in(tmp_path):
        assert time.monotonic() < deadline, running_in(tmp_path)
        time.sleep(0.05)


def test_a_step_that_crashes_has_failed(tmp_path: Path) -> None:
    step = outcome(tmp_path, f"{ROW}; print('last words', flush=True); import os; os.abort()")
    assert (step["status"], step["rows"]) == ("failed", [1])
    assert "exit status -6: last words" in step["why"]


def test_failures_count_without_an_exit_status(tmp_path: Path) -> None:
    step = outcome(tmp_path, "print('@@' + '{\"failures\": 2}')")
    assert step["status"] == "failed" and step["why"].startswith("2 failed")


def test_77_is_left_out(tmp_path: Path) -> None:
    step = outcome(tmp_path, "print('no such tool'); raise SystemExit(77)")
    assert (step["status"], step["why"]) == ("skipped", "no such tool")


def test_a_stage_has_its_time(tmp_path: Path) -> None:
    found = results.Results(tmp_path / "out", {})
    sleep = [sys.executable, "-c", "import time; time.sleep(9)"]
    steps = [run.Step(name, "stage", sleep, 60) for name in ("first", "second")]
    start = time.monotonic()
    clock = run.Clock(60, {"stage": 1.5})
    run.run_all(steps, found, clock, dict(os.environ), tmp_path / "log")
    assert time.monotonic() - start < 6
    assert [s["status"] for s in found.data["steps"].values()] == ["out of time"] * 2


def test_another_bundles_results_are_refused(tmp_path: Path) -> None:
    results.Results(tmp_path, {"commit": "a"}).save()
    with pytest.raises(SystemExit, match="another bundle"):
        results.Results(tmp_path, {"commit": "b"})


CASES = """
import os, time, pytest
@pytest.mark.parametrize("n", range(3))
def test_good(n): pass
def test_bad(): assert 1 == 2, "wrong"
def test_crash(): os.write(2, b"its last words"); os.abort()
def test_hang(): time.sleep(99)
def test_last(): pass
"""


def test_a_case_that_crashes_or_hangs_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests/gpu").mkdir(parents=True)
    (tmp_path / kernels.CASES).write_text(CASES, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    monkeypatch.setattr(kernels, "BUNDLE", tmp_path)
    monkeypatch.setattr(kernels, "PATIENCE", 6.0)
    path = os.pathsep.join([str(GPU), str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    assert kernels.cases(2, []) == 0
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("@@")]
    last = json.loads(said[-1][2:])
    assert last["total"] == {"passed": 4, "failed": 3}
    why = {failed["case"]: failed["why"] for failed in last["failed"]}
    assert "wrong" in why["test_bad"]
    assert why["test_crash"].startswith("ended its process: -6")
    assert why["test_crash"].endswith("its last words")
    assert why["test_hang"] == "did not come back in 6 s"


def test_models_are_joined_from_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bundle as packer
    import unpack

    monkeypatch.setattr(packer, "PART", 100)
    model = tmp_path / "model.gguf"
    model.write_bytes(bytes(range(250)))
    there, work = tmp_path / "there", tmp_path / "work"
    there.mkdir()
    work.mkdir()
    packer.split(model, there)
    assert len(list(there.glob("smollm2.part*"))) == 3
    shutil.move(str(there / "smollm2.part1"), tmp_path)
    unpack.join(there, work)
    assert not list(work.iterdir()), "joined without all parts"
    shutil.move(str(tmp_path / "smollm2.part1"), there)
    unpack.join(there, work)
    assert (work / "smollm2.gguf").read_bytes() == model.read_bytes()
    (work / "smollm2.gguf").unlink()
    (there / "smollm2.part2").write_bytes(b"x")
    with pytest.raises(SystemExit, match="damaged"):
        unpack.join(there, work)


NCU = """==PROF== Connected to process 1
"ID","Kernel Name","gpu__time_duration.sum","dram__throughput.avg.pct_of_peak_sustained_elapsed",\
"smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_membar_per_issue_active.ratio"
"","","nsecond","%","inst","inst","inst","inst"
"0","attend_kernel","12,500","61.5","1.5","0.25","4.5","0"
"""


def test_what_ncu_prints() -> None:
    """Its layout as documented; no figure here was measured."""
    found = figures(NCU)
    assert (found["kernel"], found["us"], found["dram_pct"]) == ("attend_kernel", 12.5, 61.5)
    assert found["stalls"] == {"long_scoreboard": 4.5, "wait": 1.5, "barrier": 0.25}
    with pytest.raises(ValueError, match="no table"):
        figures("==ERROR== no permission\n")


@pytest.mark.parametrize("kv", ("balanced", "xquant"))
def test_a_longer_state_of_the_same_depth_is_the_state(kv: str, tmp_path: Path) -> None:
    """And a deeper one is taken, and holds that many tokens."""
    from check.shapes import SMALL, write

    from xquant_gguf.config import resolve_kv
    from xquant_gguf.eval.contexts import Context, Model

    write(tmp_path / "model.gguf", SMALL["llama"])
    model = Model(str(tmp_path / "model.gguf"))
    context = Context(model, resolve_kv(kv), n_ctx=2048, threads=1)
    context.feed(list(range(500)), logits="last")
    state = saved(context)
    assert speed.deepened(state, 500) == state
    speed.deepen(context, 1780)
    assert context.snapshot().tokens == 1780
    logits = context.feed([1], logits="last")
    assert np.isfinite(logits).all()
    with pytest.raises(Exception, match="whole tiles"):
        speed.deepened(state, 501)


def saved(context: Any) -> bytes:
    from check import model

    return model.saved(context)

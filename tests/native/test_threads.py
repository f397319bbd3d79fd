"""How many threads there are, and how they behave under stress, concurrency and fork()."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from cutwork import _native

from .executor_plans import Plan, Sequence, cache_for, llama, run_batch

ROOT = Path(__file__).parents[2]
TASKS = Path("/proc/self/task")  # the threads of this process
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


GROUPS = "proc/self/cgroup"
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, CPUS),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, CPUS),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "100000 100000\n"}, 1),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "50000 100000\n"}, 1),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "199999 100000\n"}, 1),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "99900000 100000\n"}, CPUS),
        ({GROUPS: "0::/a/b\n", f"{V2}/a/b/cpu.max": "max 100000\n", f"{V2}/a/cpu.max": "100000 100000\n"}, 1),
        ({GROUPS: "0::/a/b\n", f"{V2}/a/b/cpu.max": "150000 100000\n", f"{V2}/a/cpu.max": "max 100000\n"}, 1),
        ({GROUPS: "0::/a/b\n", f"{V2}/a/b/cpu.max": "max 100000\n", f"{V2}/cpu.max": "1000 100000\n"}, 1),
        ({GROUPS: "0::/a\n1:name=systemd:/a\n", f"{V2}/unified/a/cpu.max": "50000 50000\n"}, 1),
        (
            {
                GROUPS: "3:cpu:/a/b\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "75000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "50000\n",
            },
            1,
        ),
        ({GROUPS: "0::/not/mounted\n", f"{V2}/cpu.max": "100000 100000\n"}, 1),
        ({GROUPS: "nonsense\n::\n0:\n", f"{V2}/cpu.max": "nonsense"}, CPUS),
        (
            {
                GROUPS: "7:memory:/m\n3:cpu,cpuacct:/job\n",
                f"{V1}/job/cpu.cfs_quota_us": "100000\n",
                f"{V1}/job/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                GROUPS: "3:cpu,cpuacct:/job\n",
                f"{V1}/job/cpu.cfs_quota_us": "-1\n",
                f"{V1}/job/cpu.cfs_period_us": "100000\n",
            },
            CPUS,
        ),
        ({GROUPS: "3:cpuset:/\n", f"{V2}/cpu.cfs_quota_us": "100000\n", f"{V2}/cpu.cfs_period_us": "100000\n"}, CPUS),
    ],
)
def test_default_threads(tmp_path, files, cpus):
    write(tmp_path, files)
    assert _native.default_threads(str(tmp_path)) == cpus


def test_default_threads_of_this_process():
    assert 1 <= _native.default_threads() <= CPUS


def decode(executor, tokens):
    """Logits of every token, one step each."""
    sequence = Sequence(tokens, list(range(16)))
    return np.concatenate([run_batch(executor, [(sequence, 1)])[0] for _ in tokens])


@pytest.fixture(scope="module")
def plan():
    return llama(np.random.default_rng(11), hidden=128, heads=4, kv_heads=2, head_dim=32, ffn=256)


def tokens(count):
    return np.random.default_rng(12).integers(0, 50, count).astype(np.int32)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_many_small_steps(plan, threads):
    """Thousands of barriers, with sleeping and spinning threads, more of them than processors."""
    expected = decode(plan.executor(cache=cache_for(plan)), tokens(100))
    executor = plan.executor(threads=threads, cache=cache_for(plan))
    for pause in (0, 0.0002):
        sequence, rows = Sequence(tokens(100), list(range(16))), []
        for _ in range(100):
            rows.append(run_batch(executor, [(sequence, 1)])[0])
            time.sleep(pause)
        np.testing.assert_array_equal(np.concatenate(rows), expected)


def test_executors_run_at_the_same_time(plan):
    expected = decode(plan.executor(cache=cache_for(plan)), tokens(60))
    executors = [plan.executor(threads=2, cache=cache_for(plan)) for _ in range(3)]
    results = [None] * 3

    def work(i):
        results[i] = decode(executors[i], tokens(60))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_every_range_is_done_once_and_nothing_races(tmp_path):
    compiler, native = shutil.which("c++"), ROOT / "native"
    if not compiler or not native.is_dir():
        pytest.skip("no compiler")
    program = tmp_path / "stress"
    sources = [
        ROOT / "tests/native/pool_stress.cpp",
        *(native / "runtime" / f"{name}.cpp" for name in ("pool", "cpus", "system")),
    ]
    command = [compiler, "-std=c++20", "-O1", "-g", "-fsanitize=thread", f"-I{native}", *sources, "-o", program]
    alone = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # another sanitizer's
    built = subprocess.run(command, check=False, capture_output=True, text=True, env=alone)
    if built.returncode:
        pytest.skip(f"no race detector here: {built.stderr[-200:]}")
    run = subprocess.run([program], check=False, capture_output=True, text=True, timeout=300, env=alone)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_second_call_at_the_same_time_is_refused():
    plan = Plan()
    weight = plan.weight(np.ones((2000, 512), np.float32))
    gathered = plan.emit("gather_rows", 512, "R", x=plan.emit("embed", 512, weight=weight, scale=1.0))
    plan.add("logits", x=gathered, weight=weight, bias=-1, cap=0.0)
    executor = plan.executor(threads=2, max_tokens=256, max_logits=256)
    ids = np.arange(256, dtype=np.int32)
    batch = (ids, ids, ids * 0, np.zeros((1, 0), np.int32), ids)
    outcomes = []

    def work():
        for _ in range(200):
            try:
                outcomes.append(executor.step(*batch)[0, 0])
            except RuntimeError as error:
                outcomes.append(str(error))
                return

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(outcomes) == {512.0, "this executor is already running a step: call it from one thread at a time"}
    assert executor.step(*batch)[0, 0] == 512


@pytest.mark.skipif(not TASKS.exists(), reason="the system does not tell threads")
def test_executors_come_and_go_with_their_threads(plan):
    before = len(os.listdir(TASKS))
    for threads in (1, 2, 4) * 20:
        executor = plan.executor(threads=threads, cache=cache_for(plan))
        assert len(os.listdir(TASKS)) == before + threads - 1
        del executor
    assert len(os.listdir(TASKS)) == before


def in_child(check):
    """Whether check() returned in a forked child within ten seconds."""
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            check()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
def test_fork(plan):
    executor = plan.executor(threads=2, cache=cache_for(plan))
    alone = plan.executor(threads=1, cache=cache_for(plan))
    expected = decode(executor, tokens(20))

    def check():
        nonlocal executor
        with pytest.raises(RuntimeError, match=r"cannot be used after fork\(\)"):
            decode(executor, tokens(20))
        executor = None  # ends without waiting for threads that are not there
        np.testing.assert_array_equal(decode(alone, tokens(20)), expected)
        own = plan.executor(threads=2, cache=cache_for(plan))
        np.testing.assert_array_equal(decode(own, tokens(20)), expected)

    assert in_child(check)
    np.testing.assert_array_equal(decode(executor, tokens(20)), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.parametrize("threads", [2, 8])
def test_what_a_child_inherits_may_end_after_its_own_threads_have_begun(plan, threads):
    """The system gives their stacks, and so the handles of the parent's threads, to those that the child starts."""
    executor = plan.executor(threads=threads, cache=cache_for(plan))
    expected = decode(executor, tokens(20))

    def replaced():
        nonlocal executor
        executor = plan.executor(threads=threads, cache=cache_for(plan))
        np.testing.assert_array_equal(decode(executor, tokens(20)), expected)
        executor = None

    def beside_others():
        nonlocal executor
        others = [threading.Thread(target=int) for _ in range(4)]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join()
        executor = None

    assert in_child(replaced)
    assert in_child(beside_others)
    np.testing.assert_array_equal(decode(executor, tokens(20)), expected)

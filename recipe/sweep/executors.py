"""What runs the jobs of a sweep: worker processes of this machine, or Ray tasks. Both promise the same: width,
jobs, room, submit, wait and close."""

import multiprocessing
import os
import signal
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from recipe.launch.ray_cluster import connect
from recipe.sweep import fork_server
from recipe.sweep.jobs import Job, Outcome, begin_worker, fail, run_job


class Processes:
    """Worker processes, `per_device` of them on each GPU, or on the CPU where there is none; each keeps its imports
    and data between jobs. A worker that dies fails its job alone and is replaced."""

    def __init__(self, logs: Path, per_device: int = 1):
        devices = visible_devices() or [None]
        self.slots = [device for device in devices for _ in range(per_device)]
        self.width = len(self.slots)
        self.threads = max(1, _cores() // len(self.slots))
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self.context = fork_server.start()
        self.workers = [self._start(slot) for slot in range(len(self.slots))]
        self.running: dict[Future, tuple[int, Job]] = {}

    def _start(self, slot: int) -> ProcessPoolExecutor:
        log = str(self.logs / f"worker-{os.getpid()}-{slot}.log")
        settings = (self.slots[slot], self.threads, log)
        worker = ProcessPoolExecutor(1, mp_context=self.context, initializer=begin_worker, initargs=settings)
        with fork_server.starting_a_worker():
            worker.submit(int)  # starts the process at once
        return worker

    @property
    def jobs(self) -> list[Job]:
        return [job for _, job in self.running.values()]

    def has_capacity(self) -> bool:
        return len(self.running) < len(self.slots)

    def submit(self, job: Job, since: float) -> None:
        busy = {slot for slot, _ in self.running.values()}
        slot = next(slot for slot in range(len(self.slots)) if slot not in busy)
        try:
            future = self.workers[slot].submit(run_job, job, since)
        except BrokenProcessPool:  # it died between two jobs
            self.workers[slot] = self._start(slot)
            future = self.workers[slot].submit(run_job, job, since)
        self.running[future] = (slot, job)

    def wait(self, seconds: float) -> list[Outcome]:
        """What finished within `seconds`."""
        finished, _ = wait(self.running, timeout=seconds, return_when=FIRST_COMPLETED)
        outcomes = []
        for future in finished:
            slot, job = self.running.pop(future)
            try:
                outcomes.append(future.result())
            except BrokenProcessPool:
                log = self.logs / f"worker-{os.getpid()}-{slot}.log"
                outcomes.append(fail(job, f"its worker died (out of memory? killed?): see {log}"))
                self.workers[slot] = self._start(slot)
        return outcomes

    def close(self) -> None:
        for worker in self.workers:
            worker.shutdown(wait=False, cancel_futures=True)


class RayTasks:
    """The same jobs as Ray tasks: Ray decides where and when. One GPU a job (its share, with `per_device`), or where
    the cluster has none the CPUs of its smallest machine. The results folder must be on a disk all nodes share."""

    def __init__(self, logs: Path, per_device: int = 1):
        self.ray = connect(logs=False)
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0) for node in nodes)
        cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1] or [1]
        part = max(1, min(cpus) // per_device)  # a task must fit on one machine
        share = {"num_gpus": 1 / per_device} if gpus else {"num_cpus": part}
        self.width = round(gpus * per_device) or sum(count // part for count in cpus)
        self.task = self.ray.remote(max_retries=0, **share)(run_job)
        self.running: dict = {}

    @property
    def jobs(self) -> list[Job]:
        return list(self.running.values())

    def has_capacity(self) -> bool:
        return len(self.running) < 2 * self.width  # some in its queue, so that no device waits for us

    def submit(self, job: Job, since: float) -> None:
        self.running[self.task.remote(job, since)] = job

    def wait(self, seconds: float) -> list[Outcome]:
        """What finished within `seconds`."""
        if not self.running:
            return []
        finished, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        outcomes = []
        for reference in finished:
            job = self.running.pop(reference)
            try:
                outcomes.append(self.ray.get(reference))
            except self.ray.exceptions.RayError as error:
                outcomes.append(fail(job, f"its Ray task was lost: {str(error).strip().splitlines()[0]}"))
        return outcomes

    def close(self) -> None:
        self.ray.shutdown()


ENGINES = {"processes": Processes, "ray": RayTasks}


def _cores() -> int:
    """The cores that this process may use; OMP_NUM_THREADS lowers it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get("OMP_NUM_THREADS") or cores))


def visible_devices() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES can choose each GPU that this process sees."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def end_workers() -> None:
    """Kills the worker processes of this one."""
    for worker in multiprocessing.active_children():
        worker.kill()


def on_stop_signals(handler) -> None:
    """Sends SIGINT and SIGTERM to `handler`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)

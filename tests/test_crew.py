"""Who does what: workers that come, end, are refused, and tasks that end them."""

import itertools
import random
from collections import deque
from contextlib import closing

import pytest

from pipeline.cluster import Ready, Seat, Work, crew, futures
from pipeline.cluster.crew import Crew
from pipeline.cluster.hands import Hand, Outcome
from pipeline.errors import ClusterError, DeviceMemoryError, IntegrityError, ResourceError


class Poison(Exception):
    """Ends the worker it is done on."""


class Desk:
    """Workers in a simulation: each turn one of them ends one of its calls, chosen by a seed."""

    place = "simulated workers"
    start = "hire"

    def __init__(self, workers: int = 2, *, threads: int = 1, seed: int = 0, nanny: bool = True):
        self.random = random.Random(seed)
        self.threads, self.nanny = threads, nanny
        self.numbers = itertools.count()
        self.calls: dict[str, deque] = {}
        self.most: dict[str, int] = {}
        self.died = 0
        self.started = []
        for _ in range(workers):
            self.hire()

    def hire(self) -> str:
        address = f"tcp://worker:{next(self.numbers)}"
        self.calls[address] = deque()
        return address

    def fire(self, address: str) -> None:
        del self.calls[address]
        self.died += 1

    def here(self):
        return {each: Hand(each, each, Seat(self.threads), self.threads) for each in self.calls}

    def call(self, address, function):
        ticket = next(self.numbers)
        self.calls[address].append((ticket, function))
        self.most[address] = max(self.most.get(address, 0), len(self.calls[address]))
        return ticket

    def outcome(self, seconds):
        busy = sorted(address for address, calls in self.calls.items() if calls)
        if not busy:
            return None
        address = self.random.choice(busy)
        calls = self.calls[address]
        number = self.random.randrange(min(self.threads, len(calls)))
        ticket, function = calls[number]
        self.started.append(function)
        try:
            value = function()
        except Poison:
            self.fire(address)
            if self.nanny:
                self.hire()
            return None
        except Exception as error:
            del calls[number]
            return Outcome(ticket, error=error)
        del calls[number]
        return Outcome(ticket, value=value)

    def forget(self, ticket):
        for calls in self.calls.values():
            for call in list(calls):
                if call[0] == ticket:
                    calls.remove(call)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(crew, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(crew, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(crew, "LATE_SECONDS", 0.0)


def ready(_: Seat) -> Ready:
    return Ready(64, 4)


def halves(task: tuple) -> list:
    middle = len(task) // 2
    return [task[:middle], task[middle:]] if middle else []


def work(bad=frozenset(), *, ready=ready, log=None) -> Work:
    def do(task, _):
        if log is not None:
            log.append(task)
        if bad & set(task):
            raise Poison
        return ("done", task)

    return Work(ready, do, halves, lambda task, words: ("lost", task, words))


def images(results, kind="done") -> list:
    return sorted(image for result in results if result[0] == kind for image in result[1])


def shards(count: int, size: int = 8) -> list[tuple]:
    return [tuple(range(size * number, size * (number + 1))) for number in range(count)]


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 1), (8, 2), (3, 16)])
def test_run__any_workers__do_every_task_once(workers, threads):
    desk, log = Desk(workers, threads=threads), []
    results = list(Crew(desk, 60.0).run(work(log=log), shards(50)))
    assert images(results) == list(range(400))
    assert len(log) == 50


def test_run__no_task__ends():
    assert list(Crew(Desk(), 60.0).run(work(), [])) == []


def test_run__tasks__are_taken_as_places_become_free():
    taken = []

    def tasks():
        for shard in shards(100):
            taken.append(shard)
            yield shard

    desk, ahead = Desk(2, threads=4), []
    for number, _ in enumerate(Crew(desk, 60.0).run(work(), tasks()), 1):
        ahead.append(len(taken) - number)
    assert max(ahead) <= 2 * (4 + 2)
    assert max(desk.most.values()) <= 4 + 2


def test_ready__of_all_workers__is_what_the_crew_can_do():
    team = Crew(Desk(3, threads=2), 60.0)
    with closing(team.run(work(), shards(9))) as results:
        next(results)
        assert team.ready.slots in (2, 4, 6)
        list(results)
        assert (team.ready, team.workers) == (Ready(6, 4, "cpu", 3), 3)
        assert team.place == "3 simulated workers"


@pytest.mark.parametrize("seed", range(40))
def test_run__poisonous_images__are_lost_alone(seed, capsys):
    chosen = random.Random(seed)
    bad = frozenset(chosen.sample(range(400), chosen.choice([1, 1, 2, 5])))
    desk = Desk(chosen.choice([1, 2, 5]), threads=chosen.choice([1, 4]), seed=seed)
    results = list(Crew(desk, 60.0).run(work(bad), shards(50)))
    assert images(results, "lost") == sorted(bad)
    assert images(results) == sorted(set(range(400)) - bad)
    assert all(len(result[1]) == 1 for result in results if result[0] == "lost")
    assert all("ended 2 times" in result[2] for result in results if result[0] == "lost")
    assert "was lost; its shards are done again" in capsys.readouterr().err


def test_run__one_poisonous_image__ends_few_workers():
    desk = Desk(2)
    list(Crew(desk, 60.0).run(work(frozenset({77})), shards(50)))
    assert desk.died <= 2 + 3 + 2  # in company, parts of 8, 4, 2 images, the image twice


@pytest.mark.parametrize("seed", range(10))
def test_run__workers_that_end_by_chance__lose_nothing(seed):
    desk, chance = Desk(4, threads=2, seed=seed), random.Random(seed)

    def do(task, _):
        if chance.random() < 0.1:
            raise Poison
        return ("done", task)

    one = Work(ready, do, halves, lambda task, words: ("lost", task))
    results = list(Crew(desk, 60.0).run(one, shards(100, 1)))
    assert sorted(images(results) + images(results, "lost")) == list(range(100))
    assert len(images(results, "lost")) <= 2  # .1 x .1 of those that met two ends before
    assert len(results) == 100


def test_run__worker_ends_without_a_nanny__the_others_go_on():
    desk = Desk(3, nanny=False)
    results = []
    for number, result in enumerate(Crew(desk, 60.0).run(work(), shards(40))):
        results.append(result)
        if number == 10:
            desk.fire(next(iter(desk.calls)))
    assert images(results) == list(range(320))


def test_run__worker_joins_later__takes_part():
    desk = Desk(1)
    for number, _ in enumerate(Crew(desk, 60.0).run(work(), shards(40))):
        if number == 5:
            late = desk.hire()
    assert desk.most[late] >= 1


def test_run__no_worker_is_left__is_a_cluster_error_after_its_patience():
    desk = Desk(1, nanny=False)
    with pytest.raises(ClusterError) as error:
        list(Crew(desk, 0.05).run(work(frozenset({0})), shards(3)))
    assert str(error.value) == (
        "every worker is gone, of simulated workers, for 0.05 s (execution.patience); start one with "
        "'hire', what is stored stays, run the same command to go on"
    )


def test_run__workers_end_while_they_load__stops_with_one_line():
    def dying(_: Seat) -> Ready:
        raise Poison

    with pytest.raises(ClusterError, match="3 workers ended while they loaded the backbone"):
        list(Crew(Desk(2), 60.0).run(work(ready=dying), shards(3)))


def picky(refused: set[int]):
    """Refuses whoever asks in these turns."""
    turns = itertools.count()

    def ready(_: Seat) -> Ready:
        if next(turns) in refused:
            raise IntegrityError("pillow 12 there, 13 here")
        return Ready(1)

    return ready


def test_run__a_worker_is_refused__is_named_and_the_others_do_the_work(capsys):
    desk = Desk(3)
    results = list(Crew(desk, 60.0).run(work(ready=picky({1})), shards(30)))
    assert images(results) == list(range(240))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headstart: worker tcp://worker:")
    assert line.endswith(" is left out: pillow 12 there, 13 here")


def test_run__every_worker_is_refused__is_the_reason(capsys):
    desk = Desk(2)
    with pytest.raises(IntegrityError, match="pillow 12 there, 13 here"):
        list(Crew(desk, 60.0).run(work(ready=picky({0, 1})), shards(3)))
    assert capsys.readouterr().err.count("is left out") == 2


def test_run__the_others_are_away_for_a_moment__one_that_is_refused_does_not_end_the_run():
    desk = Desk(2, nanny=False)
    results = []
    for number, result in enumerate(Crew(desk, 60.0).run(work(ready=picky({0})), shards(20))):
        results.append(result)
        if number == 5:  # their nanny takes a while
            (able,) = [address for address in desk.calls if desk.most[address] > 1]
            desk.fire(able)
            later = iter([None] * 5)
            real = desk.outcome

            def outcome(seconds, real=real, later=later):
                if next(later, desk) is desk and len(desk.calls) == 1:
                    desk.hire()
                return real(seconds)

            desk.outcome = outcome
    assert images(results) == list(range(160))


def test_run__task_fails__is_raised_and_nothing_is_left_in_flight():
    def do(task, _):
        raise IntegrityError("damaged")

    desk, stopped = Desk(2, threads=4), []
    one = Work(ready, do, halves, lambda *_: None, stop=lambda: stopped.append(True))
    with pytest.raises(IntegrityError, match="damaged"):
        list(Crew(desk, 60.0).run(one, shards(30)))
    assert not any(desk.calls.values())
    assert stopped == [True]


def test_run__scheduler_says_that_a_worker_was_killed__is_a_death_as_well():
    """Where it allows no failure of a task, the error comes before the worker is missed."""
    desk, deaths = Desk(2), []
    real = desk.outcome

    def outcome(seconds):
        found = real(seconds)
        if found is not None and isinstance(found.value, tuple) and not deaths:
            deaths.append(found.ticket)
            return Outcome(found.ticket, died=True)
        return found

    desk.outcome = outcome
    one = Work(ready, lambda task, _: ("die", task), halves, lambda *_: None)
    results = list(Crew(desk, 60.0).run(one, shards(10)))
    assert images(results, "die") == list(range(80))


def short(kind, times: int):
    """A task whose machine is short of something, so often."""
    left = [times]

    def do(task, _):
        if left[0]:
            left[0] -= 1
            raise kind
        return ("done", task)

    return Work(ready, do, halves, lambda *_: None)


@pytest.mark.parametrize(
    "kind", [OSError(28, "No space left"), MemoryError("no memory"), ResourceError("too full")]
)
def test_run__machine_of_one_worker_is_short__is_left_out_and_others_do_its_work(kind, capsys):
    results = list(Crew(Desk(3, threads=2), 60.0).run(short(kind, 2), shards(30)))
    assert images(results) == list(range(240))
    assert capsys.readouterr().err.count(" is left out: ") == 2


def test_run__machines_of_all_workers_are_short__is_raised():
    with pytest.raises(OSError, match="No space left"):
        list(Crew(Desk(3), 60.0).run(short(OSError(28, "No space left"), 99), shards(30)))


def test_run__gpu_without_memory_for_a_batch__is_raised_for_the_run_to_halve_it():
    with pytest.raises(DeviceMemoryError):
        list(Crew(Desk(3), 60.0).run(short(DeviceMemoryError("full", 64), 1), shards(30)))


def test_run__no_worker_yet__says_what_it_waits_for(capsys):
    desk = Desk(0)
    results = Crew(desk, 60.0).run(work(), shards(3))
    real, asked = desk.outcome, []

    def outcome(seconds):
        asked.append(seconds)
        if len(asked) == 3:
            desk.hire()
        return real(seconds)

    desk.outcome = outcome
    assert images(results) == list(range(24))
    assert capsys.readouterr().err == (
        "headstart: none of the simulated workers is there; waiting 60 s for one, start it with "
        "'hire'\n"
    )


def test_place__of_one_worker__is_singular():
    assert Crew(Desk(), 60.0, workers=1).place == "1 simulated worker"


def test_run__gpu_without_memory__lets_the_others_end_before_it_is_begun_anew():
    ended, failed = [], []

    def do(task, _):
        if not failed:
            failed.append(task)
            raise DeviceMemoryError("full", 64)
        ended.append(task)
        return ("done", task)

    desk = Desk(3, threads=2)
    with pytest.raises(DeviceMemoryError):
        list(Crew(desk, 60.0).run(Work(ready, do, halves, lambda *_: None), shards(60)))
    assert not any(desk.calls.values())
    assert len(ended) >= 2  # what the others had at hand


def test_run__worker_that_does_not_get_ready__is_named(monkeypatch, capsys):
    monkeypatch.setattr(crew, "LOADING_SECONDS", 0.0)
    desk = Desk(1)
    real, asked = desk.outcome, []

    def outcome(seconds):
        asked.append(seconds)
        return real(seconds) if len(asked) > 3 else None

    desk.outcome = outcome
    list(Crew(desk, 60.0).run(work(), shards(2)))
    assert "worker tcp://worker:0 gets ready, for 0 s by now" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "lost"), [("finished", True), ("error", False)])
def test_dask__connection_cut_while_a_result_comes_over__is_a_lost_scheduler(status, lost):
    class CommClosedError(OSError):
        pass

    class Sent:
        def __init__(self):
            self.status = status

        def result(self, timeout):
            raise CommClosedError("in <TCP (closed) ConnectionPool.gather>")

        def cancelled(self):
            return False

    hands = futures.DaskHands(None, "here", "now", None)
    outcome = hands._outcome("one", "tcp://127.0.0.1:1", Sent())
    assert isinstance(outcome.error, futures._SchedulerLost) == lost

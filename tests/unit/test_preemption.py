"""A message runs between two layers of a long pass, and the pass still moves."""

from __future__ import annotations

from moodq_worker.preemption import Preemption


class Pass:
    """A long pass of layers of one second, and messages of ``message_s`` that come without end."""

    def __init__(self, message_s: float, waiting: int) -> None:
        self.now = 0.0
        self.message_s = message_s
        self.waiting = waiting
        self.ran_at: list[float] = []
        self.preemption = Preemption(self.message, lambda: self.now)

    def message(self) -> bool:
        self.preemption.between_layers()  # a message's own layers let nothing in between
        self.ran_at.append(self.now)
        self.now += self.message_s
        self.waiting -= 1
        return self.waiting > 0

    def layers(self, count: int) -> None:
        for _ in range(count):
            self.preemption.between_layers()
            self.now += 1.0


def test_a_message_runs_at_the_next_layer_and_only_in_a_long_pass() -> None:
    work = Pass(message_s=0.5, waiting=1)
    work.layers(2)
    with work.preemption.long_pass(0.25):
        work.layers(3)
        assert work.ran_at == []
        work.preemption.came()
        work.layers(3)
        assert work.ran_at == [5.0]
    work.preemption.came()
    work.layers(2)
    assert work.ran_at == [5.0]


def test_a_long_pass_keeps_its_share_when_messages_come_without_end() -> None:
    for share in (0.25, 0.5):
        work = Pass(message_s=5.0, waiting=10_000)
        work.preemption.came()
        with work.preemption.long_pass(share):
            work.layers(100)
        given = len(work.ran_at) * work.message_s
        assert abs(100 / (100 + given) - share) < 0.05


def test_a_message_that_comes_while_another_runs_is_heard_at_the_next_layer() -> None:
    ran = []

    def run() -> bool:
        ran.append(1)
        if len(ran) == 1:
            preemption.came()  # from the intake's thread, after what waits was looked at
        return False

    preemption = Preemption(run, clock=lambda: 0.0)
    with preemption.long_pass(0.5):
        preemption.came()
        for _ in range(3):
            preemption.between_layers()
    assert len(ran) == 2


def test_what_a_message_raises_leaves_the_pass_open_to_the_next_one() -> None:
    asked = []

    def run() -> bool:
        asked.append(1)
        raise RuntimeError("broken")

    preemption = Preemption(run, clock=lambda: 0.0)
    with preemption.long_pass(0.5):
        for _ in range(2):
            preemption.came()
            try:
                preemption.between_layers()
            except RuntimeError:
                continue
    assert asked == [1, 1]

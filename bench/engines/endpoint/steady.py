"""Arrivals that go on before, during and after the requests that are judged.

The queue is as long when the window begins as it will be, and no judged request ends beside fewer
others than it began with: what is measured is the middle of a stream, not all of a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.demand.limits import limits, within
from bench.demand.search import RAMP_SHARE
from bench.engines.endpoint.client import Answer
from bench.engines.endpoint.load import ClientLoad, Ended, Judge, Sent, Window

HOPELESS = 0.5
"""Share of the judged requests beyond a limit, above which the rest is not waited for."""
LONG = 0.5
"""Of the time in which the judged requests arrive: where the median request takes longer, those
that end meanwhile say little of those that arrive."""


def ramp_of(judged: int) -> int:
    """How many requests come before those that are judged."""
    return round(judged * RAMP_SHARE)


def length_of(judged: int) -> int:
    """How many requests a probe that judges so many may send."""
    return round(judged * (1 + RAMP_SHARE)) + judged


class SteadyWindow(Judge):
    """Requests from the ramp's end on, `judged` in number and in the order of their sending."""

    def __init__(self, judged: int, slo: str) -> None:
        super().__init__()
        self._judged, self._slo, self._ramp = judged, slo, ramp_of(judged)
        self._numbers: dict[int, int] = {}
        self._n_sent = self._n_ended = 0
        self._late: dict[int, int] = {}

    def take(self, happened: Sent | Ended) -> None:
        if self.command == "stop":
            return
        if isinstance(happened, Sent):
            self._sent(happened)
        else:
            self._ended(self._numbers.pop(happened.place), happened)

    def _sent(self, sent: Sent) -> None:
        window, number = self.window, self._n_sent
        self._n_sent += 1
        self._numbers[sent.place] = number
        if number == self._ramp:
            window.begin_ns = sent.at_ns
        elif number == self._ramp + self._judged:
            window.end_ns = sent.at_ns

    def _ended(self, number: int, ended: Ended) -> None:
        window, answer = self.window, ended.answer
        if ended.delay_s is not None:
            window.delays_s.append(ended.delay_s)
        if window.begin_ns and not window.end_ns:
            self._n_ended += 1
        if not self._ramp <= number < self._ramp + self._judged:
            window.n_ramp += number < self._ramp
            return
        window.answers.append(answer)
        window.last_ns = max(window.last_ns, answer.ended_ns)
        for limit in self._beyond(answer):
            self._late[limit] = self._late.get(limit, 0) + 1
        hopeless = max(self._late.values(), default=0) > HOPELESS * self._judged
        if len(window.answers) == self._judged or hopeless:
            window.cut_short = len(window.answers) < self._judged
            self.command = "stop"

    def _beyond(self, answer: Answer) -> list[int]:
        """The limits that an answer passed; a failed one passed all."""
        every = list(range(len(limits(self._slo))))
        if answer.failure is not None:
            return every
        assert answer.ttft_s is not None
        assert answer.e2e_s is not None
        n = (answer.output_tokens or 1) - 1
        kept = within(
            self._slo,
            ttft_s=[answer.ttft_s],
            tpot_s=[(answer.e2e_s - answer.ttft_s) / n if n else 0.0],
            itl_s=[answer.itl_s],
            e2e_s=[answer.e2e_s],
        )
        return [limit for limit in every if not kept[limit][0]]

    def closed(self, clients: Sequence[ClientLoad]) -> Window:
        """The window, as long as its server took for as many requests as are in it.

        From the arrival of the first judged request to that of the first after them (else the last
        answer), `_n_ended` were answered: at that pace the judged ones take so long.
        """
        window = super().closed(clients)
        end_ns = window.end_ns or window.last_ns
        window.served_share = self._served_share(end_ns - window.begin_ns)
        if self._n_ended:
            pace_ns = (end_ns - window.begin_ns) / self._n_ended
            window.end_ns = window.begin_ns + round(pace_ns * max(len(window.answers), 1))
        else:
            window.end_ns = window.last_ns
        return window

    def _served_share(self, window_ns: int) -> float | None:
        window = self.window
        took = [answer.e2e_s for answer in window.answers if answer.e2e_s is not None]
        if window.cut_short or not took or median(took) * 1e9 > LONG * window_ns:
            return None
        return self._n_ended / self._judged

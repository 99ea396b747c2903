"""What a tuning knows of the problem, and what it asks a trial to do, in the terms of the paper, not of a prototxt."""

from __future__ import annotations

from dataclasses import dataclass

SCOUT, RAMP, CYCLE, SPEED, FIXED, OWN = "scout", "ramp", "cycle", "speed", "fixed", "own"
CHOICE, FINAL, BESIDE = "choice", "final", "beside"
WHOLE = (CHOICE, FINAL, BESIDE)  # stages whose trials are whole trainings, alike but for their seeds


@dataclass(frozen=True)
class Facts:
    """The problem. images, tests: of the training and the test set. The other fields are what the person's files say.

    batch: images an update. rate: base_lr, of a cycle its max_lr. momentum: 0 where the solver type has none
    (takes_momentum). depth: layers with weights.
    epochs: length of the final training, or where the search for it begins. runs: how many runs a comparison rests on.
    seeds: of the final training.
    open_ended: whether the length is looked for. set_aside: records of the training set that are decided on, and are
    neither among `images` nor trained on, but by the final runs; 0 where the test set decides.
    """

    images: int
    tests: int
    batch: int
    rate: float
    momentum: float
    weight_decay: float
    depth: int
    epochs: float
    runs: int = 2
    seeds: int = 4
    open_ended: bool = False
    takes_momentum: bool = True
    set_aside: int = 0

    @property
    def deep(self) -> bool:
        """Section 4.4 takes other weight decays for deep nets than for shallow ones."""
        return self.depth > 10

    def short(self, iterations: int, batch: int) -> float:
        """Epochs of at least so many iterations, never below half of one."""
        return max(0.5, round(iterations * batch / self.images, 2))


@dataclass(frozen=True)
class Plan:
    """What one trial is to do.

    shape: SCOUT, the rate rises exponentially from low to high; RAMP, it rises linearly; CYCLE, one cycle low - high
    - low and a tail; SPEED, a few iterations; FIXED, the rate stays at high; OWN, the person's schedule as it is.
    momentum: at the low and at the high rate. batch: images an update. run: which variation of seed, filler and batch.
    after: the trial from whose snapshot it goes on, a FIXED one; epochs are then those that it adds.
    """

    stage: str
    shape: str
    epochs: float
    low: float
    high: float
    momentum: tuple[float, float]
    weight_decay: float
    batch: int
    run: int = 0
    after: Plan | None = None

    @property
    def past(self) -> float:
        """Epochs that lie behind it when it begins."""
        return self.after.past + self.after.epochs if self.after else 0.0

    @property
    def name(self) -> str:
        """The trial's folder, beneath that of all trials."""
        if self.shape == OWN:
            return f"{self.stage}/own_e{self.epochs:g}_b{self.batch}_run{self.run}"
        momentum = "-".join(f"{m:g}" for m in dict.fromkeys(self.momentum))
        rate = f"{self.low:.4g}-{self.high:.4g}"
        return (
            f"{self.stage}/{self.shape}_lr{rate}_m{momentum}_wd{self.weight_decay:.4g}_b{self.batch}"
            f"_e{self.epochs:g}{self._origin}_run{self.run}"
        )

    @property
    def _origin(self) -> str:
        return f"_after_wd{self.after.weight_decay:.4g}_e{self.past:.4g}" if self.after else ""

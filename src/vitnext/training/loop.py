"""The training loop, to be read from top to bottom: measure, then for every epoch train, validate, keep.

Nothing random survives a step: the order, the augmentation and the dropout of a step are drawn from (seed, epoch,
step), so a run that is stopped anywhere and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vitnext.data.loaders import Batches, place_seed
from vitnext.errors import WorkError
from vitnext.preprocess import Preprocess
from vitnext.recipe import Recipe
from vitnext.training import distributed, sharding
from vitnext.training.checkpoint import save_checkpoint
from vitnext.training.ema import WeightAverage
from vitnext.training.freezing import frozen_part
from vitnext.training.hardware import Precision
from vitnext.training.interrupt import deferred_interrupt
from vitnext.training.journal import Journal
from vitnext.training.optimizers import optimizers as build_optimizers
from vitnext.training.schedules import learning_rate, total_steps

CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device
SAVING, AT_ONCE = 0.05, 0.2  # of the time, which saving after epochs may take, unless it takes so few seconds

Metrics = dict[str, float]
# model, normalised images, truth, share of the run that is done -> loss
Objective = Callable[[nn.Module, Tensor, Any, float], Tensor]

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # normalised images, truth -> pairs of them mixed, and truth


class Validate(Protocol):
    """Measures a model on held-out images: at least the metric called ``score``, and its standard error under
    "score_error"; "loss" where there is one."""

    score: str

    def __call__(self, model: nn.Module, precision: Precision) -> Metrics: ...


# Writes a network that is to be kept, and returns what gives it the name of the run's model.
Kept = Callable[[], Callable[[], None]]


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came, and the run's state was saved; ``signal`` says which."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


class Watcher(Protocol):
    """Who looks on: the console, or nobody."""

    # steps: None where a clock may end the run first; ended: a run that goes on has come to its end
    def start(self, state: Progress, steps: int | None, ended: bool) -> None: ...
    def step(self, state: Progress, loss: float | None, learning_rate: float, images: int) -> None: ...
    def epoch(self, state: Progress, values: Metrics, kept: bool) -> None: ...


@dataclass(frozen=True)
class Progress:
    """Where a run stands: ``step`` optimizer steps are done; epoch 0 of best and kept means that there is none yet."""

    step: int = 0
    epoch: int = 0  # finished epochs
    best_score: float = -1.0  # the highest
    best_epoch: int = 0
    kept_score: float = -1.0  # of the model that the run will leave
    kept_loss: float | None = None
    kept_epoch: int = 0
    seconds: float = 0.0  # training time so far, without what was lost in a kill
    validation_seconds: float = 0.0  # what the last validation took of it, and writing what it keeps

    def kept(self, score: str) -> dict[str, float]:
        """What was measured of the model that the run will leave, by metric."""
        return {score: self.kept_score} | ({} if self.kept_loss is None else {"loss": self.kept_loss})


class Normalize:
    """``Preprocess.normalize`` on the device: uint8 (B, C, H, W) -> float32, the same three operations in order."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self.scale = preprocess.scale
        self.mean = torch.tensor(preprocess.mean, dtype=torch.float32, device=device)[:, None, None]
        self.std = torch.tensor(preprocess.std, dtype=torch.float32, device=device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mul_(self.scale).sub_(self.mean).div_(self.std)


class Transfer:
    """Batches to the device. To a GPU they are copied beside what it computes, from pinned memory and by a stream of
    its own: the loop, which does not wait for a step, is ahead of it by then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Tensor, truth: Any) -> tuple[Tensor, Any]:
        """uint8 (B, C, H, W) and their truth, on the device."""
        if self.stream is None:
            return images.to(self.device), truth.to(self.device)
        with torch.cuda.stream(self.stream):
            images, truth = (of.to(self.device, non_blocking=True) for of in (images, truth))
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        for moved in (images, truth):  # their memory is the copying stream's
            moved.record_stream(computing)
        return images, truth


def fit(
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    validate: Validate,
    recipe: Recipe,
    preprocess: Preprocess,
    precision: Precision,
    *,
    folder: Path,
    keep: Callable[[nn.Module, Progress, Metrics], Kept],
    watch: Watcher,
    data: dict[str, Any],
    mix: Mix | None = None,
    select: bool = True,
    resume: dict[str, Any] | None = None,
) -> Progress:
    """Train ``model`` in place by ``recipe`` and return where the run ended.

    ``objective`` is differentiated, for each of ``recipe.accumulate`` parts of a batch, which ``mix`` has mixed before.
    ``validate`` runs after every ``schedule.validate_epochs`` epochs and the last, on the average of the weights if the
    recipe has one; ``keep`` is called for each validated epoch that is to be kept: if ``select``, one whose score is at
    most a standard error below the best so far, else each; what it returns is called before the state that says so is
    saved, and what that returns after it. Among epochs that the validation images cannot tell apart the
    run so leaves the latest, which the schedule has brought furthest (the one-standard-error rule, Hastie et al. 2009,
    section 7.10).

    A run ends after the recipe's epochs, steps or minutes, whichever comes first, and its schedule fits that end. With
    minutes the learning rate follows the clock, so that such a run alone does not repeat bit for bit; it stops training
    when what is left is what the last validation and the last state took.

    The state is saved to ``folder/last.pt`` within an epoch as the recipe says, and after it, unless that takes
    ``AT_ONCE`` or longer and more than ``SAVING`` of the time, as with a large network and few images. It names the
    ``data`` (``checkpoint.trained_on``); from ``resume``, what ``load_run`` read there, the run goes on.

    ``model`` ends as the average, if the recipe has one: as what its last epoch was measured with.

    Under torchrun each process calls this with the same arguments; the first one alone writes and keeps.

    Raises WorkError for a loss that is not finite, and Interrupted after Ctrl-C or SIGTERM.
    """
    device = next(model.parameters()).device
    transfer, normalize = Transfer(device), Normalize(preprocess, device)
    part = distributed.part(mixed=mix is not None)
    distributed.synchronize_batch_norms(model)
    average = WeightAverage(model, recipe.ema) if recipe.ema else None
    loss_of = sharding.parallel(recipe.parallel, model, objective, average)
    frozen = frozen_part(model)
    optimizers = build_optimizers(model, recipe.optimizer)
    progress, journal_offset = Progress(), None
    epoch_losses: list[float] = []  # of the epoch that is under way
    if resume is not None:
        sharding.restore(resume, folder, model, average, optimizers)
        progress, journal_offset = Progress(**resume["progress"]), resume["journal"]
        epoch_losses = resume["epoch_losses"]

    per_epoch, limit = batches.steps_per_epoch, recipe.schedule.minutes * 60
    steps = total_steps(recipe.schedule, per_epoch)
    warmup = round(min(per_epoch * recipe.schedule.warmup_epochs, steps / 2))
    if progress.epoch * per_epoch > progress.step and not _ended(progress, steps, recipe):
        progress = replace(progress, epoch=progress.epoch - 1)  # an end that now comes later had cut it short
    config, kept_in = recipe.to_dict(), folder if distributed.main() else None
    journal = Journal(kept_in, track=recipe.track, offset=journal_offset, config=config, step=progress.step)
    watch.start(progress, None if limit else steps, _ended(progress, steps, recipe))
    clock, last_save, saving = time.monotonic(), progress.seconds, 0.0  # what the last one took, in seconds
    to_keep: Kept | None = None  # with the next state

    def tick() -> int:
        """Bring the clock up, to the same time in all processes; returns the signal that came to one, or 0."""
        nonlocal progress, clock
        now = time.monotonic()
        stop, seconds = distributed.agree(interrupt.signal, progress.seconds + now - clock)
        progress, clock = replace(progress, seconds=seconds), now
        return stop

    def save() -> int:
        """Returns, as ``tick`` does, the signal that came, when all processes have come so far."""
        nonlocal last_save, saving, to_keep
        last_save, began = progress.seconds, time.monotonic()
        named = to_keep() if to_keep is not None else None  # written first: the state says that it is there
        tensors = sharding.saved(folder, model, average, optimizers, progress.step)
        state = {
            **tensors,
            "progress": asdict(progress),
            "epoch_losses": epoch_losses,
            "journal": journal.offset,
            "recipe": recipe.to_dict(),
            "data": data,
            "steps_per_epoch": per_epoch,
            "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        }
        if distributed.main():
            save_checkpoint(folder / "last.pt", state)
            sharding.tidy(folder, tensors)
        if named is not None:
            named()
            to_keep = None
        stop, saving = distributed.agree(interrupt.signal, time.monotonic() - began)
        return stop

    def pays() -> bool:
        """Whether to save after an epoch."""
        elapsed = progress.seconds - last_save
        return saving < AT_ONCE or saving < SAVING * elapsed or elapsed > recipe.save_minutes * 60

    def over() -> bool:
        return progress.step >= steps or (progress.step > 0 and _out_of_time(progress, recipe))

    def validated() -> bool:
        return progress.epoch * per_epoch >= progress.step  # the last epoch may be cut short

    measured = -1  # the step of the last validation
    stream = batches.stream(progress.epoch, progress.step - progress.epoch * per_epoch, part)
    with closing(journal), deferred_interrupt() as interrupt, distributed.peers(), closing(stream):
        while not (validated() and _ended(progress, steps, recipe)):
            model.train()
            for module in frozen:
                module.eval()
            window: list[Tensor] = []  # losses since the last look
            tick()
            ended = over()  # what is left after a stop may be the validation alone
            if ended and measured == progress.step:  # not even that: the time ran out while the last epoch was saved
                if stop := save():  # the time, or a resumed run would have some left
                    raise Interrupted(stop)
                break
            left = 0 if ended else (progress.epoch + 1) * per_epoch - progress.step
            for images, truth in islice(stream, left):
                spent = progress.seconds / (limit - progress.validation_seconds) if limit else 0.0
                done = max((progress.step - warmup) / max(1, steps - warmup), spent)  # whatever comes first
                rate = learning_rate(
                    max(0.0, done),
                    progress.step,
                    warmup,
                    recipe.optimizer.learning_rate,
                    final_fraction=recipe.schedule.final_fraction,
                    decay=recipe.schedule.decay,
                )
                for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                    group["lr"] = rate * group.get("scale", 1.0)

                # Forward and backward.
                torch.manual_seed(place_seed(recipe.seed, progress.step))
                images, truth = transfer(images, truth)
                images, loss = normalize(images), torch.zeros((), device=device)
                if mix is not None:
                    images, truth = mix(images, truth)
                    images, truth = images[part.before :], truth[part.before :]
                if part.index:  # other dropout than in the first process
                    torch.manual_seed(place_seed(recipe.seed, progress.step, part.index))
                done, parts = max(progress.step / steps, spent), min(recipe.accumulate, len(images))
                split = zip(images.tensor_split(parts), truth.tensor_split(parts), strict=True)
                for i, (some, of_some) in enumerate(split, start=1):
                    with precision.autocast(device):
                        of_part = loss_of(some, of_some, done, i == parts) * (len(some) / len(images))
                    of_part.backward()
                    loss += of_part.detach()

                # Update.
                if recipe.optimizer.clip_norm:
                    nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                progress = replace(progress, step=progress.step + 1)
                if average is not None:
                    average.update(model, progress.step)

                # Look at the loss, and save from time to time.
                window.append(loss)
                looked, stop = None, tick()  # asked once: what is saved has been looked at
                ended = over()
                due = recipe.save_steps > 0 and progress.step % recipe.save_steps == 0
                due = due or progress.seconds - last_save > recipe.save_minutes * 60
                if len(window) == CHECK_EVERY or progress.step % per_epoch == 0 or stop or ended or due:
                    losses = _finite(distributed.average(torch.stack(window)).tolist(), progress.step, rate)
                    epoch_losses, window, looked = epoch_losses + losses, [], sum(losses) / len(losses)
                    journal.write("step", progress.step, loss=looked, learning_rate=rate)
                watch.step(progress, looked, rate, len(truth) * part.count)
                if stop:
                    save()
                    raise Interrupted(stop)
                if due:
                    save()
                if ended:
                    break

            # Validate and keep.
            progress, kept = replace(progress, epoch=progress.epoch + 1), False
            # An epoch that the clock ends before its first step has no loss.
            summary = {"train_loss": sum(epoch_losses) / len(epoch_losses)} if epoch_losses else {}
            due, metrics = progress.epoch % recipe.schedule.validate_epochs == 0, None
            if due or over() or _ended(progress, steps, recipe):  # none is to end, for impatience, without a look
                with sharding.whole(average.model if average is not None else model) as trained:
                    metrics = validate(trained.eval(), precision)
                    score, held_out = metrics[validate.score], metrics.get("loss")
                    if held_out is not None:
                        _finite([held_out], progress.step, optimizers[0].param_groups[0]["lr"])
                    if score > progress.best_score:
                        progress = replace(progress, best_score=score, best_epoch=progress.epoch)
                    kept = not select or score >= progress.best_score - metrics["score_error"]
                    if kept:
                        progress = replace(progress, kept_score=score, kept_loss=held_out, kept_epoch=progress.epoch)
                        if distributed.main():
                            to_keep = None  # first, so that two do not wait in memory
                            to_keep = keep(trained, progress, metrics)
                summary |= metrics
                measured = progress.step
            before = progress.seconds
            stop = tick()
            if metrics is not None:
                # What it keeps has to be written in the time that is left, too.
                progress = replace(progress, validation_seconds=progress.seconds - before + saving)
            journal.write("epoch", progress.step, epoch=progress.epoch, kept=kept, seconds=progress.seconds, **summary)
            watch.epoch(progress, summary, kept)
            epoch_losses = []
            if stop or pays() or _ended(progress, steps, recipe):
                stop = save()
            if stop:
                raise Interrupted(stop)
    if average is not None:
        model.load_state_dict(average.model.state_dict())
    return progress


def _ended(progress: Progress, steps: int, recipe: Recipe) -> bool:
    schedule = recipe.schedule
    impatient = bool(schedule.patience) and progress.epoch - progress.best_epoch >= schedule.patience
    return progress.step >= steps or impatient or _out_of_time(progress, recipe)


def _out_of_time(progress: Progress, recipe: Recipe) -> bool:
    """Whether no more time is left than the last validation took."""
    limit = recipe.schedule.minutes * 60
    return bool(limit) and progress.seconds + progress.validation_seconds >= limit


def _finite(losses: list[float], step: int, rate: float) -> list[float]:
    """The losses of the steps up to ``step``, or WorkError with the first step whose loss is not finite."""
    for i, loss in enumerate(losses):
        if not abs(loss) < float("inf"):
            raise WorkError(
                f"the loss is {loss} at step {step - len(losses) + i + 1}, learning rate {rate:.2e}: "
                "lower optimizer.learning_rate, or set optimizer.clip_norm"
            )
    return losses

"""The pretraining loop: this page is meant to be read, and edited, by whoever runs experiments.

Every step takes the next `global_batch_size` samples of one global order, whatever the layout;
the loss is the sum over their valid tokens divided by the global count of them.
"""

from __future__ import annotations

import math
import time

import torch

from megafm.data import NO_TARGET
from megafm.parallel import world
from megafm.parallel.data_parallel import reshard
from megafm.parallel.mesh import axis, counts_samples, data_share
from megafm.train.balance import imbalance
from megafm.train.config import TrainJob
from megafm.train.metrics import MetricsLog
from megafm.train.optimizer import clip_grad_norm, set_lr
from megafm.train.run import Run, Training, open_run
from megafm.train.schedule import lr_scale
from megafm.train.stop import StopSignal


def train(job: TrainJob) -> None:
    """Train to `train.steps`, going on from the run folder's latest checkpoint if it has one."""
    with open_run(job) as run, StopSignal() as stop:
        if run.step >= job.train.steps:
            at = f"at step {run.step} of {job.train.steps}"
            run.say(f"{job.run.dir}: {at}; raise train.steps to go on")
            return
        with run.metrics() as metrics:
            while run.step < job.train.steps:
                values = train_step(run, stop)
                stopping = values.pop("stop") > 0
                run.step += 1
                if metrics:
                    metrics.training(run.step, values)
                last = run.step == job.train.steps
                if last or (job.train.eval_every and run.step % job.train.eval_every == 0):
                    evaluate(run, metrics)
                if last or stopping or run.step % job.checkpoint.every == 0:
                    run.save(wait=last or stopping)
                if stopping and not last:
                    run.say(f"stopped by a signal after step {run.step}, which is saved")
                    raise SystemExit(stop.exit_code)


def train_step(run: Training, stop: StopSignal) -> dict[str, float]:
    """One optimizer step on the next global batch; returns what metrics.jsonl records."""
    job, started = run.job, time.perf_counter()
    micro_batches = run.next_batch()
    counted = counts_samples(run.mesh)
    valid = torch.stack([(targets != NO_TARGET).sum() for _, targets, *_ in micro_batches])
    num_valid = world.all_reduce_sum(valid.sum() * counted)
    loss = run.passes.backward(micro_batches, num_valid)
    pp = axis(run.mesh, "pp")
    grad_norm = clip_grad_norm(run.model, job.optim.clip_grad_norm, pp, run.model.copied_weight)
    lr = job.optim.lr * lr_scale(run.step, job.train.steps, job.schedule)
    set_lr(run.optimizer, lr)
    run.optimizer.step()
    run.model.zero_grad(set_to_none=True)

    received = loss.new_tensor(float(stop.received))
    reduced = world.all_reduce_sum(torch.stack([loss * counted, received]))
    mean_loss, stop_votes = reduced.tolist()
    norm = grad_norm.item()
    if not (math.isfinite(mean_loss) and math.isfinite(norm)):
        raise ValueError(
            f"loss={mean_loss} at step {run.step + 1} (grad_norm {norm:.3g}, lr {lr:.3g}): "
            f"set optim.lr={job.optim.lr / 3:.1g} and run again from the last checkpoint"
        )
    seconds = time.perf_counter() - started
    tokens_per_s = job.train.global_batch_size * job.train.seq_len / seconds
    return {
        "tokens": run.tokens,
        "loss": mean_loss,
        "grad_norm": norm,
        **imbalance(run.model, pp),
        "lr": lr,
        "tokens_per_s": tokens_per_s,
        "flops_per_s": tokens_per_s * run.flops_per_token,
        "step_seconds": seconds,
        "stop": stop_votes,
    }


@torch.no_grad()
def evaluate(run: Run, metrics: MetricsLog | None) -> None:
    """Mean loss and bits per byte over the first `eval_tokens` of the validation shard."""
    job = run.job
    num_samples = min(
        max(1, job.train.eval_tokens // job.train.seq_len), run.validation.windows_per_epoch
    )
    size = job.train.micro_batch_size
    sums = torch.zeros(3, dtype=torch.float64)  # nats, tokens, bytes
    index, count = data_share(run.mesh)
    # Every rank takes part in every forward pass, if need be with no valid target.
    for first in range(index * size, num_samples + index * size, count * size):
        num = min(max(num_samples - first, 0), size)
        batch = run.validation.batch(min(first, num_samples - 1), max(num, 1))
        tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
        targets[num:] = NO_TARGET
        loss = run.passes.forward(tokens.to(run.device), targets.to(run.device))
        scored = targets[:num]
        num_bytes = run.token_bytes[scored].sum()
        sums += torch.tensor([loss.item(), scored.numel(), num_bytes], dtype=torch.float64)
    reshard(run.loss)
    sums[0] = run.passes.total(sums[0])
    nats, num_tokens, num_bytes = world.all_reduce_sum(sums * counts_samples(run.mesh)).tolist()
    if metrics:
        values = {
            "tokens": run.tokens,
            "val_loss": nats / num_tokens,
            "bits_per_byte": nats / math.log(2) / num_bytes,
        }
        metrics.evaluation(run.step, values)

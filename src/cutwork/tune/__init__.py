"""Fine-tuning: the stage `tune`, whose zeros stay zero. Nothing here may import `cutwork.engine`.

tune        the stage: prepare, train, write; resume: whether a run is the one that was begun or finished
checkpoints what a run has left to go on from
student_and_teacher: the two models of a fine-tuning
arguments   what transformers is told; trackers: where else losses go
trainer     transformers' loop with our loss and masks; losses, masks, optimizers: what it is made of
resumable_trainer: how it writes and reads checkpoints
low_bit     AdamW in 8 and 4 bits; optimizer_state: the bytes that any keeps, before there is one
any_trainer the zeros in trainers of others: cutwork.tune.keep_zeros
gradual     more zeros while training; lora: adapters that are merged; estimate: what a run will take
peft_adapter adapters of PEFT, put into their base model: `cutwork merge`
console     what a run shows and logs; interruption: Ctrl-C; malloc: memory that is kept between steps;
kernel_cache: compiled kernels that are not
"""

from cutwork.tune.any_trainer import keep_zeros

__all__ = ["keep_zeros"]

"""Fine-tuning: the stage `tune`, whose zeros stay zero. Nothing here may import `cutwork.engine`.

tune        the stage: prepare, train, write
trainer     transformers' loop with our loss and masks; losses, masks, optimizers: what it is made of
gradual     more zeros while training; lora: adapters that are merged; estimate: what a run will take
console     what a run shows and logs; malloc: memory that is kept between steps
"""

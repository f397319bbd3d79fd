"""Models in torch, as pruning, tuning and quantising share them. Nothing here may import `cutwork.engine`.

load          from a directory to a model and a tokenizer, and back
blocks        where the repeated blocks and their linears are
model_inputs  how each kind of model is fed, and what of its outputs is learned from
data          samples as batches; packing: in one row without padding
precision     whether bfloat16 pays here; machine_speed: what decides it, and how long things take
"""

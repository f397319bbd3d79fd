"""Quantisation that keeps every zero: the stage `quantize`, which writes compressed-tensors checkpoints.

Zero is always code 0, and no method here may write into a pruned position.

    quantize    the stage; schemes: which linear is quantised how; layers: one by one, with a record
    rtn, gptq   rounding, and masked GPTQ; joint: pruned in the same pass; qat: learned with the rounding in sight
    head        the output head: which it is, a weight of its own for it, and what GPTQ needs to know of its inputs
    grid        codes and scales; smooth: outliers moved from activations into weights
    compressed  how it is stored
"""

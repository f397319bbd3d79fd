"""Pruning: the stage `prune`, what it calibrates with, and the pruners.

Each published method is a file of its own: a pure function on one weight,
`(weight [out, in], statistics of its inputs, pattern) -> (weight', mask)`, that knows nothing about models. It says by
the type of its statistics what it needs: mean squares, a Hessian, nothing. To add one: the file, its name in
`recipe.Pruner`, its line in `pruners.py`.

    prune             the stage; layers: one linear after the other, with a record
    pruners           which name is which of magnitude, wanda, sparsegpt, rose, alps
    pattern, rates    which zeros may be chosen, and how many in each linear; adaptive: n of 16, by tile
    calibrate         the walk through the blocks; activations: hidden states between them; mapped: weights on disk
    token_weights     how much each token counts there; answer_gradients: what a model's answers owe to it
    input_statistics  what is known about inputs; second_order: what is computed from it
    nth_largest       of every group of neighbours, by a sorting network
"""

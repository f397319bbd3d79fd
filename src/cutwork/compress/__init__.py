"""`cutwork compress`: the fastest model within a budget of quality, time or memory.

candidates    what a linear may become: pattern × rate × scheme
sensitivity   what an output error costs the model's answers: KL, by gradients of their likelihood; the head, measured
linear_errors what each candidate costs so, from one walk with calibration data
corrections   how much more that is for all linears together, measured on models that are made whole
milliseconds  what each takes on this machine, measured on the model's steps, and its bytes
timing        how fast a choice is beside the dense model, of random numbers before it is made, and when it is
solve         the best choice for every budget, exactly
frontier      all of that as points, JSON and a plot
promise       points lost on held-out samples, with their interval
examine       what a dense model says about its candidates, kept; menu: all of that, of which choices are made
workshop      the output directory: stages that resume; recipe_of: from a choice to the recipe that makes it
search        which choices are tried until one keeps the goal
compress      from a base recipe to the recipe that keeps the promise
draft         `--draft auto`: the model itself, quantised without training, guesses for itself
"""

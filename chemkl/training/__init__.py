"""Where Lightning lives: training of priors, post-training, and what they keep count of."""

"""A recipe that trains in seconds, for tests of what is done with recipes."""

RECIPE = """
random_forest.trees = 0
haar = "off"
[data]
size = 32
[[teachers]]
name = "one"
model = { name = "baseline_cnn", options = { width = [8, 8], hidden = 8 } }
train = { epochs = 1, batch_size = 32 }
[[students]]
name = "small"
model = { name = "compact", options = { width = [8, 16], depth = [1, 1], head_width = 0 } }
strategy = { name = "vanilla", temperature = 4.0 }
train = { epochs = 2, batch_size = 32 }
"""

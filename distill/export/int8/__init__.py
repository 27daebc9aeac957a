"""The int8 file: how its ranges are found, what it is held against, how it is trained."""

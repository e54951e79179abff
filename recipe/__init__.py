"""The library behind the scripts. Packages from the lowest to the highest: system, cli, launch, model, data, objective,
train, evaluate, finetune, report, sweep; each imports only from itself and from lower ones.

A package's first paragraph says what goes in and what comes out, a module's first line what it holds.
"""

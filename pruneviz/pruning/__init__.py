"""How is a plan carried out? `mask`, `shrink`, repair; every result is compared. `prune` does it all.

`Session` prepares a model once; `lossless_plan` and `certify` say what is removed without loss.
Nothing here measures accuracy or needs labels.
"""

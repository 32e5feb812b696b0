"""A whole training step, end to end, against other libraries: the same model in the same run.

    megafm bench suite=train

transformers comes with the test extra. litgpt and torchtitan are measured where they import:

    pip install --no-deps --target DIR litgpt lightning pytorch-lightning lightning-utilities \\
        torchmetrics
    pip install --no-deps --target DIR torchtitan torchdata tyro einops spmd_types==0.2.3 \\
        torch_checkpointing docstring-parser typeguard shtab
    PYTHONPATH=DIR megafm bench suite=train
"""

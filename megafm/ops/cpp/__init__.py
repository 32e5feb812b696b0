"""The Python side of csrc: shapes for tracing, derivatives, and adapters to the ops' arguments."""


def register_formulas(namespace: str) -> None:
    """Give torch the output shapes and derivatives of every op in torch.ops.NAMESPACE, once."""
    from megafm.ops.cpp import adamw, attention, grad_norm, rms_norm, rope, softmax, swiglu

    for module in (adamw, attention, grad_norm, rms_norm, rope, softmax, swiglu):
        module.register_formulas(namespace)

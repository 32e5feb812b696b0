"""The Python side of csrc: shapes for tracing, derivatives, and adapters to the ops' arguments."""


def register_formulas() -> None:
    """Give torch the output shapes and derivatives of every C++ op; call once after loading."""
    from megafm.ops.cpp import attention, rms_norm, rope, softmax, swiglu

    for module in (attention, rms_norm, rope, softmax, swiglu):
        module.register_formulas()
